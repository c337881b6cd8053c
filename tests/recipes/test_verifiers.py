"""The recipes of verifiers: the rule for limits, the shots, and the tables in the documentation."""

from pathlib import Path

import numpy as np
import pytest

from recipes.verifiers import artifacts, tables
from recipes.verifiers.footage import FRAMES, SHOTS, clips
from seedbed.lab.audit import FAULTS
from seedbed.verifiers.artifacts import LIMITS

PAGE = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text(encoding="utf-8")


def table(sound, faulty):
    return {"sound": [{"x": value} for value in sound], "fault": [{"x": value} for value in faulty]}


def test_a_limit_is_the_middle_of_the_widest_gap_with_the_fewest_errors():
    assert artifacts.limit([table([0, 1], [5, 9])], "fault", "x") == (3, 0)
    # One sound clip of four is above; sources count alike, whatever their size.
    some = [table([0, 0, 0, 6], [5, 9, 9, 9]), table([1], [8])]
    at, error = artifacts.limit(some, "fault", "x")
    assert at in (3.0, 7.0) and error == pytest.approx(1 / 16)
    found = artifacts.share(some, "sound", "x", 3.0)
    assert (found["above"], found["of"], found["share"][0]) == (1, 5, 0.2)
    assert 0 < found["share"][1] < 0.2 < found["share"][2] < 1


def test_clips_keep_clear_of_cuts():
    for name, bounds in SHOTS.items():
        video = np.arange(bounds[-1])[:, None, None, None]
        for clip in clips(name, video):
            first, last = int(clip[0].item()), int(clip[-1].item())
            assert last - first == FRAMES - 1
            assert not any(first < cut <= last for cut in bounds)


def test_the_package_has_the_limits_that_were_found():
    ours = {
        line["fault"]: line["limit"]
        for line in tables.read("artifacts")["results"]
        if line["detector"] in FAULTS
    }
    assert ours == LIMITS


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(("artifacts", tables.artifacts), ("artifacts", tables.held_out)),
        *(("audits", tables.audits), ("previews", tables.previews)),
    ],
)
def test_the_page_shows_what_was_found(name, make):
    assert make(tables.read(name)) in PAGE
    assert tables.read(name)["command"] in PAGE


def test_what_the_page_says_of_previews_is_what_was_counted():
    text = " ".join(PAGE.partition("### On previews")[2].partition("###")[0].split())
    models = {name: each["alarms"] for name, each in tables.read("previews")["models"].items()}
    cog, wan = models["shapes-cogvideox"], models["shapes-wan"]
    for fault, at, line in (
        (
            "drift",
            "50%",
            "it is a false alarm on {} on `shapes-cogvideox` and {} on `shapes-wan` ({} and {} %)",
        ),
        ("drift", "25%", "after a quarter on {} and {} ({} and {} %)"),
        ("drift", "75%", "After three quarters it is {} and {} ({} and {} %)"),
        ("flicker", "50%", "on `shapes-wan` too, {1} ({3} %), and not on `shapes-cogvideox`, {0} ({2} %)"),
    ):
        found = [each[fault][at] for each in (cog, wan)]
        counts = [f"{each['above']}/{each['of']}" for each in found]
        assert line.format(*counts, *(f"{100 * each['share'][0]:.0f}" for each in found)) in text
    for found in (cog["frozen"]["50%"], wan["frozen"]["50%"], wan["drift"]["50%"]):
        low, high = (f"{100 * end:.0f}" for end in found["share"][1:])
        assert f"[{low}, {high}] % of {found['above']}/{found['of']}" in text
    loud = {fault for each in (cog, wan) for fault in each if any(at["above"] for at in each[fault].values())}
    assert loud == {"drift", "flicker"} and len(cog) == 7
