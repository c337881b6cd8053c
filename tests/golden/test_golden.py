"""Records of the code before the rooms were rebuilt: they replay, and are made again.

`records.jsonl` was written by `write.py` with version 0.1. A selection that gives other scores, or a
generation that gives other frames on the machine that wrote it, has changed what users rely on.
"""

import functools
import json

import pytest
import torch

import seedbed
from seedbed import BadRecord
from seedbed.selection.record import Selection, sealed
from tests.golden.write import FILE, fingerprint, made
from tests.pipelines import FAMILIES, Family
from tests.pipelines.family import Missing

HEADER, *LINES = map(json.loads, FILE.read_text().splitlines())
# One for each kind of denoiser.
SOME = (
    "CogVideoX",
    "Wan 2.1",
    "LTX-Video",
    "AnimateDiff (SD 1.5)",
)
RECORDS = {line["name"]: line for line in LINES}
SINCE = ("AnimateDiff, cascade",)  # pipelines that came after 0.1
assert set(SOME) <= RECORDS.keys()


def family_of(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


same_machine = functools.cache(lambda: fingerprint() == HEADER)


@pytest.fixture(
    params=[pytest.param(name, id=name, marks=() if name in SOME else pytest.mark.slow) for name in RECORDS]
)
def line(request):
    try:
        family_of(request.param).built()
    except Missing as error:
        pytest.skip(str(error))
    return RECORDS[request.param]


def test_every_pipeline_of_the_table_has_its_records():
    assert [*RECORDS] == [f.name for f in FAMILIES if f.name not in SINCE]


def test_old_records_replay(line):
    family = family_of(line["name"])
    pipe = family.built()
    for record in (line[way] for way in ("attention", "previews") if way in line):
        assert record["schema"] == "seedbed.selection/1"
        missing = {name: family.call[name] for name in record["missing"]}
        again = seedbed.replay(record, pipe, progress=False, **missing)
        assert again.selection.order == tuple(record["order"])
        assert list(again.frames.shape) == record["frames_shape"]
        if same_machine():
            assert again.identical
    if not same_machine():
        pytest.skip("frames are not compared: this machine's arithmetic is not that of the file")


def test_old_choices_are_made_again(line):
    new = json.loads(json.dumps(made(family_of(line["name"]))))
    assert new.keys() == line.keys()
    for way in ("attention", "previews"):
        if way not in line:
            continue
        old, now = line[way], new[way]
        if way == "previews" and not same_machine():
            continue  # its scores are checksums of frames
        assert (now["best"], now["order"], now["layers"]) == (old["best"], old["order"], old["layers"])
        # Another quadrature than that of 0.1: BANSA's scores have moved by up to 4e-4 since.
        rtol = 6e-4 if way == "attention" else 1e-5
        for what in ("totals", "scores"):
            torch.testing.assert_close(torch.tensor(now[what]), torch.tensor(old[what]), rtol=rtol, atol=1e-8)
        assert [each["sha256"] for each in now["recipes"]] == [each["sha256"] for each in old["recipes"]]
        if way == "previews":
            assert now["rungs"] == old["rungs"]
        if same_machine():
            assert now["frames_sha256"] == old["frames_sha256"]
        assert now["ledger"] == pytest.approx(old["ledger"])
    if not same_machine():
        pytest.skip("frames are not compared: this machine's arithmetic is not that of the file")


def test_a_record_of_a_newer_schema_is_refused_in_one_line():
    record = RECORDS["CogVideoX"]["attention"]
    assert Selection.from_dict(record).to_dict()["schema"] == "seedbed.selection/3"
    newer = sealed({**record, "schema": "seedbed.selection/4"})
    for read in (Selection.from_dict, lambda record: seedbed.replay(record, progress=False)):
        with pytest.raises(BadRecord, match=r"schema 'seedbed.selection/4'.* update seedbed") as error:
            read(newer)
        assert "\n" not in str(error.value)
