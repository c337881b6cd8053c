import dataclasses
import enum
import hashlib
import json
import math
import os
import re
from collections import Counter

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from seedbed import (
    BadInput,
    BadRecord,
    NotSupported,
    Selection,
    __version__,
    generate,
    replay,
    score,
    select,
    zoo,
)
from seedbed.acquisition import Bansa
from seedbed.selection.provenance import Model
from seedbed.selection.record import sealed
from seedbed.selection.replaying import reopened
from seedbed.selection.values import recordable
from tests.pipelines import CALLS, PROMPT, cogvideox

CALL = CALLS["cogvideox"]


@pytest.fixture(scope="module")
def choice(pipe_of):
    pipe = pipe_of("cogvideox")
    function = Bansa(keep=0.3, depth=None)
    return select(pipe, PROMPT, candidates=3, seed=5, acquisition=function, progress=False, **CALL)


@pytest.fixture
def saved(choice, tmp_path):
    return choice.save(tmp_path / "choice.json")


def test_a_saved_choice_comes_back_whole(choice, saved):
    loaded = Selection.load(saved)
    assert loaded.to_dict() == choice.to_dict()
    assert torch.equal(loaded.noise, choice.noise)
    assert torch.equal(loaded.scores, choice.scores)
    assert torch.equal(loaded.totals, choice.totals)
    assert loaded.recipes == choice.recipes
    assert loaded.model == choice.model
    assert loaded.ledger.entries == choice.ledger.entries
    assert loaded.previews is None
    loaded.save(saved)
    assert Selection.load(saved).to_dict() == choice.to_dict()


def test_the_record_says_what_was_done(choice, saved):
    record = json.loads(saved.read_text())
    assert record["schema"] == "seedbed.selection/3"
    assert record["seedbed"] == __version__
    assert (record["prompt"], record["pipeline"], record["seed"]) == (PROMPT, "CogVideoXPipeline", 5)
    assert (record["acquisition"], record["prefer"], record["unit"]) == ("bansa", "low", "nats")
    assert record["options"]["keep"] == 0.3
    assert record["call"]["num_frames"] == 9
    assert record["missing"] == {}
    assert record["dtypes"]["transformer"] == "float32"
    assert record["scheduler"]["class"] == "CogVideoXDDIMScheduler"
    assert record["totals"] == choice.totals.tolist()
    assert record["scores"] == choice.scores.tolist()
    assert [recipe["sha256"] for recipe in record["recipes"]] == [r.sha256 for r in choice.recipes]
    assert record["ledger"] == {"scoring": pytest.approx(3)}
    assert set(record["seconds"]) == {"scoring"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["best"] == record["order"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(best=(record["best"] + 1) % 3),
        lambda record: record.update(prompt="a cat"),
        lambda record: record["totals"].reverse(),
        lambda record: record["recipes"][0].update(seed=6),
        lambda record: record.pop("call"),
        lambda record: record.pop("digest"),
        lambda record: record.update(more=1),
    ],
)
def test_a_changed_record_is_refused(saved, change):
    record = json.loads(saved.read_text())
    change(record)
    saved.write_text(json.dumps(record))
    with pytest.raises(BadRecord, match=r"choice\.json: the selection record was altered") as caught:
        Selection.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("seedbed.selection/4", "update seedbed"),
        ("seedbed.profile/1", "not a selection record"),
        (None, "not a selection record"),
        ({"name": "seedbed.noise-recipe", "version": 1}, "not a selection record"),
    ],
)
def test_newer_and_foreign_files_are_refused(saved, schema, message):
    record = sealed({**json.loads(saved.read_text()), "schema": schema})
    saved.write_text(json.dumps(record))
    with pytest.raises(BadRecord, match=message):
        Selection.load(saved)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_record_of_a_schema_before_is_read(choice, saved, schema):
    record = json.loads(saved.read_text())
    del record["switches"]
    saved.write_text(json.dumps(sealed({**record, "schema": f"seedbed.selection/{schema}"})))
    loaded = Selection.load(saved)
    assert loaded.model.switches is None
    whole = dataclasses.replace(loaded, model=choice.model)
    assert whole.to_dict() == choice.to_dict()


WRONG = {
    "null": None, "text": "text", "number": 0.5, "list": ["a", None], "dict": {"class": [], "a": {}},
    "negative": -1, "huge": 10**30, "nan": math.nan, "true": True, "slash": "some/name",
}  # fmt: skip


def places(value, at=()):
    """Every field of a record at any depth; of a list the first entry."""
    for key in value if isinstance(value, dict) else range(len(value))[:1]:
        yield (*at, key)
        if isinstance(value[key], (dict, list)):
            yield from places(value[key], (*at, key))


# By default a third of the changes to each field, others to the next one.
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_foreign_record_is_read_replayed_or_refused_in_one_line(pipe_of, monkeypatch, step):
    """Each field replaced by everything, or removed, and sealed again: what another version may have written.

    Nothing is loaded for it, and nobody is asked.
    """
    asked = set()

    def load(name, **how):
        asked.add(name)
        raise OSError("not here\nat all")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", load)
    pipe = pipe_of("cogvideox")
    video = generate(pipe, PROMPT, candidates=2, progress=False, acquisition="previews:verifier=shapes",
                     **CALL)  # fmt: skip
    record = json.loads(json.dumps({**video.record(), "model": f"seedbed:models/{zoo.DEFAULT}"}))
    found = Counter()
    changes = (*WRONG, "gone")
    for number, place in enumerate(
        places({**record, "sheet": {"steps": 1, "of": 2, "memory_sha256": "0" * 64}})
    ):
        for what in changes[number % step :: step]:
            other = json.loads(json.dumps(record))
            inner = other
            for key in place[:-1]:
                inner = inner.get(key) if isinstance(inner, dict) else inner[key]
                if inner is None:
                    break
            if inner is None:
                continue
            if what == "gone":
                if isinstance(inner, dict):
                    inner.pop(place[-1], None)
            else:
                inner[place[-1]] = WRONG[what]
            try:
                other = sealed(other)
            except ValueError:  # nan, which no record of ours can hold: sealed as Python alone writes it
                body = json.dumps({k: v for k, v in other.items() if k != "digest"}, sort_keys=True)
                other = {**other, "digest": hashlib.sha256(body.encode()).hexdigest()}
            try:
                chosen = Selection.from_dict(other)
                try:
                    reopened(chosen, None, {})
                except (BadInput, BadRecord, NotSupported) as error:
                    assert "\n" not in str(error), (place, what)
                if place[0] == "call":
                    replay(other, pipe, progress=False)
                found["read"] += 1
            except (BadRecord, BadInput, NotSupported) as error:
                assert "\n" not in str(error) and len(str(error)) < 500, (place, what)
                found["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{place} {what}: {type(error).__name__} {error}") from error
    assert found["refused"] > found["read"] > 100 / step
    assert {zoo.path().as_posix()} <= asked <= {"some/name", zoo.path().as_posix()}


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadRecord, match=r"choice\.json") as caught:
        Selection.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x00\xff\x13", b"[1, 2]", b"null", b"{}", b"{" * 9999])
def test_what_is_no_record_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadRecord, match=r"x\.json"):
        Selection.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(order=[0, 0, 1], best=0),
        lambda record: record.update(order=[0, 1], best=0),
        lambda record: record["totals"].pop(),
        lambda record: record["scores"].pop(),
        lambda record: record.pop("call"),
        lambda record: record.update(noise_dtype="load"),
        lambda record: record.update(recipes=[], order=[], totals=[], scores=[]),
        lambda record: record.update(ledger=3),
        lambda record: record["recipes"].__setitem__(1, {"seed": 3}),
    ],
)
def test_a_record_that_cannot_be_is_refused_even_with_a_digest(choice, change):
    record = json.loads(json.dumps(choice.to_dict()))
    change(record)
    with pytest.raises(BadRecord, match=r"damaged|not a noise recipe") as caught:
        Selection.from_dict(sealed(record))
    assert "\n" not in str(caught.value)


def test_noise_that_is_not_the_recorded_one_is_refused(choice):
    record = json.loads(json.dumps(choice.to_dict()))
    record["recipes"][choice.best]["sha256"] = "0" * 64
    with pytest.raises(BadRecord, match="sha256"):
        _ = Selection.from_dict(sealed(record)).noise


def test_no_such_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.json"):
        Selection.load(tmp_path / "none.json")


def test_a_record_is_written_whole_or_not_at_all(choice, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadInput, match="No space left"):
        choice.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["choice.json"]


def test_a_single_candidate_has_no_total(pipe_of, tmp_path):
    choice = select(pipe_of("cogvideox"), PROMPT, candidates=1, progress=False, **CALL)
    path = choice.save(tmp_path / "one.json")
    assert json.loads(path.read_text())["totals"] == [None]
    loaded = Selection.load(path)
    assert loaded.totals.isnan().all()
    assert loaded.scores.shape == (1, 0)


def test_a_record_of_foreign_tensors_knows_their_hash_only(pipe_of, choice, tmp_path):
    noises = torch.stack([recipe.draw() for recipe in choice.recipes])
    table = score(pipe_of("cogvideox"), PROMPT, noises, progress=False, **CALL)
    loaded = Selection.load(table.save(tmp_path / "table.json"))
    assert loaded.recipes == table.recipes
    assert loaded.order == table.order
    with pytest.raises(BadRecord, match="was the caller's own"):
        _ = loaded.noise


PLAIN = {
    "original_size": (16, 16),
    "boxes": [(0, 1), (2, 3)],
    "nested": {"sizes": ((1, 2), [3, None]), "scale": 0.5},
    "keys": {1: "a", (2, 3): "b", None: True},
    "layers": {1, 2},
    "seen": b"\x00\xff",
    "python": {"python": "(1, 2)"},
    "nothing": None,
    "text": "é\n'\"",
    "huge": 10**40,
    "empty": [(), {}, set(), ""],
}


def exactly(one, other):
    return one == other and repr(one) == repr(other)


@pytest.mark.parametrize("name", PLAIN)
def test_an_argument_comes_back_of_the_type_that_it_had(choice, name):
    """Tuples, and all else that Python writes down: the pipeline must see what it saw."""
    values, missing = recordable({name: PLAIN[name]})
    assert not missing and exactly(values, {name: PLAIN[name]})
    record = json.loads(json.dumps(dataclasses.replace(choice, call=values).to_dict()))
    assert exactly(Selection.from_dict(record).call, values)


class Size(enum.IntEnum):
    SMALL = 1


ODD = {
    "prompt_embeds": (torch.zeros(1, 8, 16), "tensor (1, 8, 16)"),
    "generator": (torch.Generator(), "Generator"),
    "eta": (math.nan, "float"),
    "bound": ([1.0, math.inf], "list"),
    "image": (np.zeros(2), "ndarray"),
    "dtype": (torch.float16, "dtype"),
    "size": (Size.SMALL, "Size"),
    "sizes": ({"a": [Size.SMALL]}, "dict"),
    "call": (len, "builtin_function_or_method"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_argument_that_cannot_come_back_is_named(name):
    value, kind = ODD[name]
    assert recordable({name: value, "height": 16}) == ({"height": 16}, {name: kind})


def test_numbers_of_numpy_and_sizes_of_torch_are_pythons_own():
    given = {
        "a": np.int64(3),
        "b": [np.float32(0.5), np.True_],
        "c": torch.Size([2, 3]),
        "d": (np.str_("x"),),
    }
    values, missing = recordable(given)
    assert not missing and exactly(values, {"a": 3, "b": [0.5, True], "c": (2, 3), "d": ("x",)})


def test_a_record_holds_the_infinite_bound_of_a_scheduler():
    pipe = cogvideox(layers=1)
    pipe.scheduler = DPMSolverMultistepScheduler()
    assert pipe.scheduler.config["lambda_min_clipped"] == -math.inf
    assert Model.of(pipe).scheduler["config"]["lambda_min_clipped"] == "-Infinity"


def test_the_report_is_one_page(choice, tmp_path):
    page = choice.report(tmp_path / "choice.html").read_text()
    assert PROMPT in page
    assert choice.reason in page
    assert "<svg" in page and page.count("<video") == 0
    assert not re.search("(src|href)=.?https?:", page)
