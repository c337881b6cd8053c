"""The contact sheet on the command line: making it, finishing one of its candidates, and what is refused."""

import json
import signal
from pathlib import Path

import pytest

from seedbed.errors import NotSupported

PROMPT = "a red circle moving left"
STEM = "a-red-circle-moving-left"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def sheet(seedbed, model):
    return seedbed("contact-sheet", PROMPT, "--model", model, "--candidates", 3, "--steps", 4)


def test_a_sheet_is_written_and_a_candidate_is_finished(seedbed, sheet, tmp_path: Path) -> None:
    assert (sheet.code, sheet.err) == (0, "")
    made = {f"{STEM}-sheet.{kind}" for kind in ("html", "json", "safetensors")}
    assert names(tmp_path) == made
    command = f"seedbed replay {STEM}-sheet.json --candidate"
    assert f"{command} N" in sheet.out and "2 of 4 steps" in sheet.out
    page = (tmp_path / f"{STEM}-sheet.html").read_text()
    assert page.count("<video") == 3 and command in page

    code, out, err = seedbed("replay", f"{STEM}-sheet.json", "--candidate", 2)
    assert (code, err) == (0, "")
    assert names(tmp_path) - made == {f"{STEM}-2.{kind}" for kind in ("html", "json", "mp4")}
    assert "chosen by a person" in out and "started over" not in out
    record = json.loads((tmp_path / f"{STEM}-2.json").read_text())
    assert record["best"] == 2 and record["ledger"]["generation"] == 8
    assert f"seedbed replay {STEM}-2.mp4" in (tmp_path / f"{STEM}-2.html").read_text()
    code, out, _ = seedbed("replay", f"{STEM}-2.mp4", "--fps", 5, "--json")
    again = json.loads(out)
    assert code == 0 and again["identical"] is True and again["record"]["fps"] == 5 and record["fps"] == 8


def test_a_sheet_without_its_memory_starts_over(seedbed, sheet, tmp_path: Path) -> None:
    (tmp_path / f"{STEM}-sheet.safetensors").unlink()
    code, out, err = seedbed("replay", f"{STEM}-sheet.json", "--candidate", 0, "--out", "x.mp4", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["files"] == {"video": "x.mp4", "report": "x.html", "record": "x.json"}
    assert "started over, as" in answer["record"]["reason"]


def test_the_command_to_finish_is_for_this_folder_and_that_of_the_page_for_its_own(
    seedbed, model, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    size = ("--candidates", 1, "--steps", 2)
    _, out, _ = seedbed("contact-sheet", PROMPT, "--model", model, *size, "--out", "sub/s.json")
    assert "seedbed replay sub/s.json --candidate N" in out
    assert "seedbed replay s.json --candidate" in (tmp_path / "sub/s.html").read_text()


def test_json_and_options_arrive(seedbed, model, tmp_path: Path) -> None:
    arguments = ["--candidates", 2, "--seed", 7, "--steps", 3, "--after", 2, "--batch-size", 2]
    code, out, err = seedbed(
        "contact-sheet", PROMPT, "--model", model, *arguments, "--out", "s.json", "--json"
    )
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["files"] == {"page": "s.html", "record": "s.json", "memory": "s.safetensors"}
    record = answer["record"]
    assert record == json.loads((tmp_path / "s.json").read_text())
    assert record["sheet"]["steps"] == 2 and record["sheet"]["of"] == 3
    assert [recipe["seed"] for recipe in record["recipes"]] == [7, 7]
    assert record["ledger"] == {"preview": 8}


def test_a_verifier_scores_the_previews(seedbed, model, tmp_path: Path) -> None:
    code, out, err = seedbed(
        "contact-sheet", PROMPT, "--model", model, "--candidates", 2, "--verifier", "shapes"
    )
    assert (code, err) == (0, "") and "rank" in out
    assert "Scores by <code>shapes</code>" in (tmp_path / f"{STEM}-sheet.html").read_text()
    assert seedbed("replay", f"{STEM}-sheet.json").code == 0


def test_previews_are_decoded_by_what_is_asked_for(seedbed, model, tmp_path: Path) -> None:
    base = ("--model", model, "--candidates", 2, "--seed", 3)
    code, out, err = seedbed("contact-sheet", PROMPT, *base, "--decode", "linear")
    assert (code, err) == (0, "") and "previews decoded by a linear map" in out
    chosen = "previews:verifier=shapes,schedule=[[1,1]],decode=linear"
    code, out, _ = seedbed("generate", PROMPT, *base, "--acquisition", chosen, "--out", "a.mp4")
    assert code == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["options"]["decode"] == "linear" and "linear map" in record["reason"]
    given = ("--verifier", "shapes", "--steps", 2, "--decode", "linear")
    assert seedbed("generate", PROMPT, *base, *given, "--out", "b.mp4").code == 0
    assert json.loads((tmp_path / "b.json").read_text())["options"]["decode"] == "linear"
    files = names(tmp_path)
    for wrong in ((), ("--acquisition", "random")):
        refused(
            seedbed("generate", PROMPT, *base, *wrong, "--decode", "linear"),
            "--decode is of previews that are",
        )
    refused(seedbed("contact-sheet", PROMPT, *base, "--decode", "tiny"), "decode must be exact, linear or")
    refused(
        seedbed("generate", PROMPT, *base, "--acquisition", chosen.replace("linear", "tiny")),
        "decode must be exact, linear or",
    )
    assert names(tmp_path) == files


def test_generate_with_a_verifier_chooses_by_previews(seedbed, model, tmp_path: Path) -> None:
    arguments = ["--model", model, "--candidates", 6, "--steps", 4, "--verifier", "shapes", "--fps", 4]
    code, out, err = seedbed("generate", PROMPT, *arguments)
    assert (code, err) == (0, "") and "judged previews after 2 and 3 of 4 steps" in out
    record = json.loads((tmp_path / f"{STEM}.json").read_text())
    assert record["acquisition"] == "previews" and record["fps"] == 4
    assert record["rungs"][0]["candidates"] == list(range(6)) and record["ledger"]["generation"] == 8
    assert (tmp_path / f"{STEM}.html").read_text().count("<video") == 7
    assert seedbed("replay", f"{STEM}.mp4").code == 0
    refused(seedbed("generate", PROMPT, *arguments, "--acquisition", "bansa"), "leave one out")


def test_generate_with_a_search(seedbed, model, tmp_path: Path) -> None:
    search = "neighbours:verifier=shapes,budget=20,steps=1"
    arguments = ["--model", model, "--steps", 2, "--fps", 4, "--acquisition", search]
    code, out, err = seedbed("generate", PROMPT, *arguments)
    assert (code, err) == (0, "") and "judged 9 noises after 1 of 2 steps" in out
    record = json.loads((tmp_path / f"{STEM}.json").read_text())
    assert record["acquisition"] == "neighbours" and record["options"]["budget"] == 20
    assert record["ledger"] == {"preview": 16, "generation": 4}
    assert (tmp_path / f"{STEM}.html").read_text().count("<video") == 10
    code, out, _ = seedbed("replay", f"{STEM}.mp4")
    assert code == 0 and "identical" in out
    files = names(tmp_path)
    refused(seedbed("generate", PROMPT, *arguments, "--candidates", 3), "makes its own pool")
    refused(
        seedbed("generate", PROMPT, *arguments[:-1], search.replace("20", "3")), "is below one generation"
    )
    assert names(tmp_path) == files


@pytest.mark.slow
def test_an_image_is_finished_too(seedbed, model_of, tmp_path: Path) -> None:
    code, _, err = seedbed(
        "contact-sheet", PROMPT, "--model", model_of("sdxl"), "--candidates", 2, "--out", "i.json"
    )
    assert (code, err) == (0, "") and (tmp_path / "i.html").read_text().count("<img") == 2
    assert seedbed("replay", "i.json", "--candidate", 1).code == 0
    assert {"i-1.png", "i-1.html", "i-1.json"} <= names(tmp_path)


def refused(outcome, message: str) -> None:
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1 and message in outcome.err


def test_what_is_refused(seedbed, sheet, model, tmp_path: Path) -> None:
    before = names(tmp_path)
    base = ("contact-sheet", PROMPT, "--model", model)
    refused(seedbed("replay", f"{STEM}-sheet.json"), "nobody has chosen from")
    refused(seedbed("replay", f"{STEM}-sheet.json", "--candidate", 3), "there is no candidate 3")
    refused(seedbed(*base, "--after", 3), "after=3, but the schedule has only 2")
    refused(seedbed(*base, "--verifier", "eyes"), "there is no verifier 'eyes'")
    refused(seedbed(*base, "--out", "a.mp4"), "must end in .json")
    assert names(tmp_path) == before
    assert seedbed("select", *base[1:], "--candidates", 2, "--out", "plain.json").code == 0
    refused(seedbed("replay", "plain.json", "--candidate", 0), "not the record of a contact sheet")


@pytest.mark.parametrize("command", ["contact-sheet", "replay"])
def test_ctrl_c_leaves_nothing_half_written(
    seedbed, sheet, model, tmp_path: Path, monkeypatch, command
) -> None:
    """Interrupted while the second of the files is written, before any is in place."""
    from seedbed import ContactSheet, Generation

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*arguments, **named):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ContactSheet, "page", interrupted)
    monkeypatch.setattr(Generation, "report", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if command == "contact-sheet":
            outcome = seedbed("contact-sheet", PROMPT, "--model", model, "--seed", 9)
        else:
            outcome = seedbed("replay", f"{STEM}-sheet.json", "--candidate", 1)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert outcome.code == 130 and outcome.err == "interrupted: nothing was written\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_scheduler_without_clean_latents_has_a_report_but_no_sheet(
    seedbed, model, tmp_path: Path, monkeypatch
) -> None:
    def mute(*arguments: object) -> None:
        raise NotSupported("no preview: Mute tells neither its clean latents nor its noise levels")

    monkeypatch.setattr("seedbed.pipelines.steps.clean_latents", mute)
    code, _, err = seedbed("generate", PROMPT, "--model", model, "--candidates", 2, "--out", "a.mp4")
    assert (code, err) == (0, "")
    assert (tmp_path / "a.html").read_text().count("<video") == 1
    refused(seedbed("contact-sheet", PROMPT, "--model", model, "--candidates", 2), "Mute tells neither")
