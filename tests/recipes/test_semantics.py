"""The two arms of recipes/front/semantics.py: the same captions and noises, judged as anywhere else."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/front"))
import semantics
from semantics import ALONE, caption_of, exchange, measure

from seedbed.errors import BadInput
from seedbed.lab.work import Store
from seedbed.pipelines.loading import load
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.statistics import bootstrap
from seedbed.worlds import shapes, verifier

THINGS = [
    shapes.Thing("red", "circle", "moving left"),
    shapes.Thing("blue", "square", "staying still"),
    shapes.Thing("green", "triangle", "moving up"),
]
UNCLEAR = [
    shapes.Thing("yellow", verifier.UNCLEAR, "moving up"),
    shapes.Thing("green", "circle", verifier.UNCLEAR),
]


def test_a_caption_names_the_one_or_two_objects_that_are_clear():
    def said(*things):
        return caption_of(verifier.Reading(things, len(things)))

    assert said(THINGS[0]) == ("a red circle moving left", "")
    assert said(UNCLEAR[0], THINGS[1], THINGS[2]) == (shapes.caption(THINGS[1:]), "")
    assert said(*UNCLEAR) == said() == ("", "no readable object")
    assert said(*THINGS) == ("", "more than two objects")


def test_both_arms_hold_every_caption_and_noise_once_and_few_meet_their_like():
    rng = np.random.default_rng(0)
    for count in (2, 3, 40):
        captions = [f"caption {n}" for n in rng.integers(0, 30, count)]
        others = exchange(captions)
        assert sorted(others) == list(range(count)) and (others != np.arange(count)).all()
    assert exchange(["a", "a", "b", "b"]).tolist() == [2, 3, 0, 1]
    with pytest.raises(BadInput, match="1 noises with a caption are too few"):
        exchange(["a"])


@pytest.mark.slow
def test_an_interrupted_study_of_a_model_ends_as_another(tmp_path, monkeypatch):
    monkeypatch.setattr(semantics, "BATCH", 3)
    found = measure("shapes-cogvideox", 4, 7, tmp_path / "straight")
    calls, append = [], Store.append

    def stop(store, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(store, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            measure("shapes-cogvideox", 4, 7, tmp_path / "broken")
    assert measure("shapes-cogvideox", 4, 7, tmp_path / "broken") == found
    rows = {row["key"]: row for row in Store(tmp_path / "straight").rows()}
    assert Store(tmp_path / "broken").rows() == [*rows.values()]

    pipe = load("shapes-cogvideox", dtype="float32", device="cpu")
    call, free = found["call"], found["call"] | {"guidance_scale": 1.0}
    alone = [rows[f"{ALONE}/{n}/"] for n in range(4)]
    first = next(row for row in alone if row["caption"])
    noise = draw_pool(Session(pipe, "", **call), 4, 7).noises[first["noise"]]
    seen = verifier.read(Session(pipe, "", **free).generate(noise)[None])[0]
    assert caption_of(seen) == (first["caption"], "")
    again = Session(pipe, first["caption"], **call).generate(noise)[None]
    judged = verifier.judge(verifier.read(again)[0], first["caption"])
    assert judged.items() <= rows[f"matched/{first['noise']}/{first['caption']}"].items()

    captions = [row["caption"] for row in alone if row["caption"]]
    by_arm = {
        arm: {row["noise"]: row["score"] for key, row in rows.items() if key.startswith(f"{arm}/")}
        for arm in ("matched", "mismatched")
    }
    asked = {arm: sorted(key.split("/")[2] for key in rows if key.startswith(f"{arm}/")) for arm in by_arm}
    assert asked["matched"] == asked["mismatched"] == sorted(captions)
    one, two = ([by_arm[arm][n] for n in sorted(by_arm[arm])] for arm in ("matched", "mismatched"))
    wanted = bootstrap(np.subtract(one, two))
    assert found["measures"]["score"]["difference"] == pytest.approx(wanted, abs=1e-5)
    assert found["captions"]["noises"] == len(captions) <= 4 and found["noises"] == 4
    assert found["model"] == "shapes-cogvideox" and len(found["weights"]) == 64
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(BadInput, match="rows of another study"):
        measure("shapes-cogvideox", 4, 8, tmp_path / "straight")
