"""The cases of recipes/editing, what it asks of an edit, and one run of it that is stopped and goes on."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seedbed.worlds.shapes import all_things, caption, held_out, parse, place, render

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/editing"))
import editing
import editing_page


def test_each_case_changes_one_attribute_of_the_first_object():
    found = editing.cases(60)
    assert [case.change for case in found[:4]] == ["colour", "shape", "motion", "colour"]
    for case in found:
        assert held_out([case.before, case.other]) and case.after in all_things()
        changed = [
            name for name in editing.CHANGES if getattr(case.before, name) != getattr(case.after, name)
        ]
        assert changed == [case.change] and case.after.colour != case.other.colour
        assert case.after.motion != "staying still" or case.change != "motion"


def test_an_edit_is_judged_by_what_it_changed_and_what_it_kept():
    before, other = parse("a red square moving right and a yellow circle staying still")
    case = editing.Case(0, "colour", before, replace(before, colour="blue"), other)
    scene = place([before, other], np.random.default_rng(1))
    source = render(scene)
    perfect = render((replace(scene[0], colour="blue"), scene[1]))
    moved = render((replace(scene[0], colour="blue"), replace(scene[1], x=scene[1].x + 1)))
    lost = render((replace(scene[0], colour="blue"),))
    found = editing.outcome(case, perfect, source)
    # But for edges that are too faint to show the object.
    assert found.pop("outside") < 0.5 and found == dict(followed=1, kept=1, all_kept=1, both=1)
    untouched = editing.outcome(case, source, source)
    assert untouched == dict(followed=0, kept=1, all_kept=1, both=0, outside=0)
    assert editing.outcome(case, moved, source)["outside"] > 2
    assert editing.outcome(case, moved, source)["both"] == 1
    assert editing.outcome(case, lost, source)["kept"] == pytest.approx(2 / 6)
    shaped = editing.Case(1, "shape", before, replace(before, shape="circle"), other)
    assert editing.outcome(shaped, source, source)["followed"] == 0
    assert editing.outcome(shaped, render((replace(scene[0], shape="circle"), scene[1])), source)["both"] == 1
    assert caption([case.after, other]) == case.target


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(editing, "TRIES", 1)
    out = tmp_path / "edits.jsonl"
    editing.run("shapes-cogvideox", out, 1, 2)
    found = editing.lines(out)
    methods = {line["method"] for line in found if line["kind"] == "rendered"}
    assert methods == {*editing.INJECTED, "none", "source"}  # and no FlowEdit, as it is not of flow matching
    out.write_text("".join(json.dumps(line) + "\n" for line in found[:-2]) + '{"case": 0, "ki')
    editing.run("shapes-cogvideox", out, 1, 2)
    again = editing.lines(out)
    assert [line["method"] for line in again] == [line["method"] for line in found]
    assert again[-1] == found[-1]
    found = editing_page.summary(again)["rendered"]
    assert found["captions"] == 1 and {*found["methods"]} == methods and found["inversion"]["error"][0] > 0
    assert found["methods"]["source"]["outside"][0] == 0 and 0 <= found["methods"]["all"]["p"] <= 1


def lines_with(both):
    """Of each method, its edits' outcome *both* and all else alike."""
    same = {"kind": "own", "followed": 1.0, "kept": 1.0, "all_kept": 1.0, "outside": 0.5, "nfe": 40.0}
    return [
        {**same, "method": method, "case": case, "both": float(value)}
        for method, values in both.items()
        for case, value in enumerate(values)
    ]


def test_an_edit_that_beats_one_bound_alone_is_called_failed():
    good, poor, none = [1] * 9 + [0], [0] * 9 + [1], [0] * 10
    found = editing_page.summary(lines_with({"low": good, "all": poor, "none": poor, "source": none}))["own"]
    assert found["not above"] == [] and editing_page.verdict(found).startswith("above both")
    assert found["methods"]["all"]["p"] == pytest.approx(2 * sum(math.comb(10, k) for k in (0, 1)) / 2**10)
    assert found["methods"]["none"]["low minus it, both"][0] == pytest.approx(0.8)
    found = editing_page.summary(lines_with({"low": good, "none": good, "source": none}))["own"]
    assert found["not above"] == ["none"] and "a failed edit" in editing_page.verdict(found)


def test_a_run_that_is_not_finished_says_what_is_missing():
    line = "^the own source has no edit by `none` and `source` yet: run editing.py again to go on$"
    with pytest.raises(SystemExit, match=line):
        editing_page.summary(lines_with({"low": [1], "all": [0]}))
    with pytest.raises(SystemExit, match="has no edit by `low` yet"):
        editing_page.summary(lines_with({"none": [1], "source": [0]}))
