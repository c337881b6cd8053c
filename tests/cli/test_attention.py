"""`seedbed study` and `seedbed maps`."""

import json
from pathlib import Path

import pytest

from seedbed.adaptation.findings import Study

PROMPT = "a red circle moving left"


def test_a_study_writes_its_report_and_its_table(seedbed, model, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\na blue square\n")
    arguments = ("study", "prompts.txt", "--model", model, "--perturb", "uniform", "--at", "1", "--rows", 4)
    code, out, err = seedbed(*arguments, "--table", "study.json")
    assert (code, err) == (0, "") and "report  study.html" in out and "table   study.json" in out
    study = Study.load("study.json")
    assert study.prompts == (PROMPT, "a blue square") and study.steps == (1,)
    assert {perturb for perturb, _ in study.effects} == {"uniform"}
    assert Path("study.html").read_text().startswith("<!doctype html>")
    plain = (*arguments[:4], *arguments[6:], "--perturb", "none")
    code, out, _ = seedbed(*plain, "--layers", "*.0.*", "--json")
    content = json.loads(out)
    assert code == 0 and content["files"] == {"report": "study.html"}
    assert content["high"] == ["transformer_blocks.0.attn1"] and content["low"] == []
    page = Path("study.html").read_text()  # nothing was replaced
    assert ">The maps</h2>" in page and "what becomes of its videos" not in page and "unperturbed" not in page


def test_maps_of_a_word_and_of_a_place(seedbed, model):
    code, out, err = seedbed("maps", PROMPT, "--word", "circle", "--model", model)
    assert (code, out, err) == (0, "maps    a-red-circle-moving-left-maps.html\n", "")
    code, out, err = seedbed(
        "maps", PROMPT, "--place", "0,0.5,1", "--at", "0", "--model", model, "--out", "m.png"
    )
    assert (code, out, err) == (0, "maps    m.png\n", "")
    assert Path("m.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "none.txt"], "cannot read the prompts none.txt: No such file or directory"),
        (["study", "empty.txt"], "empty.txt has no prompt: write one on each line"),
        (["study", "p.txt", "--window", "1"], "cannot read --window 1: write 2 numbers with commas"),
        (
            ["study", "p.txt", "--table", "t.csv"],
            "cannot write t.csv: the name must end in .parquet",
        ),
        (
            ["study", "p.txt", "--table", "folder/t.json"],
            "the table folder/t.json must lie in the folder of",
        ),
        (["study", "p.txt", "--at", "99"], "study's steps must be a whole number from 0 to 1, not 99"),
        (["study", "p.txt", "--perturb", "none", "--perturb", "uniform"], "--perturb none stands alone"),
        (["study", "p.txt", "--layers", "no"], "no layer matches 'no'"),
        (["maps", PROMPT], "maps needs a word of the prompt or a place of the video, one of the two"),
        (["maps", PROMPT, "--word", "green"], "the prompt has no word 'green': it has a, red, circle"),
        (["maps", PROMPT, "--place", "0,0"], "cannot read --place 0,0: write 3 numbers with commas"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(seedbed, model, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "p.txt").write_text(PROMPT)
    (tmp_path / "folder").mkdir()
    code, out, err = seedbed(*arguments, "--model", model)
    assert (code, out) == (2, "") and err.startswith(f"error: {message}") and err.count("\n") == 1
