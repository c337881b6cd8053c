"""`seedbed lab` as it is typed."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from seedbed.lab.work import Store
from tests.cli.conftest import seedbed
from tests.lab.conftest import PYTHONPATH

__all__ = ["seedbed"]  # the fixture


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_run_table_and_report(seedbed, write, out):
    recipe = write()
    code, shown, err = seedbed("lab", "run", recipe, "--out", out)
    assert (code, shown, err) == (0, f"18 rows in {out}/rows.jsonl\n", "")
    assert len(Store(out).rows()) == 18

    code, shown, err = seedbed("lab", "table", out)
    assert code == 0 and err == ""
    assert re.search(r"^value +6 +3 +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]$", shown, re.MULTILINE)

    code, shown, err = seedbed("lab", "report", out)
    assert (code, shown, err) == (0, f"report  {out}/report.html\n", "")
    assert "<title>toy" in (out / "report.html").read_text()
    assert seedbed("lab", "run", recipe, "--out", out).code == 0  # its own report is nothing foreign


def test_the_folder_is_named_after_the_recipe(seedbed, write, tmp_path):
    assert seedbed("lab", "run", write(name="mine")).out == "18 rows in runs/mine/rows.jsonl\n"
    assert (tmp_path / "runs" / "mine" / "rows.jsonl").is_file()


def test_the_table_of_an_unfinished_run_says_how_far_it_is(seedbed, write, out):
    seedbed("lab", "run", write(), "--out", out)
    table = Store(out).rows()
    (out / "rows.jsonl").unlink()
    assert seedbed("lab", "table", out) == (2, "", "error: no prompt is finished yet: run the recipe first\n")
    (out / "rows.jsonl").write_text(json.dumps(table[:5]) + "\n")
    code, shown, err = seedbed("lab", "table", out)
    assert (code, err) == (0, "unfinished: 1 of 6 prompts are finished\n")
    assert re.search(r"^value +1 +3 ", shown, re.MULTILINE)


def wrong(seedbed, *arguments):
    code, out, err = seedbed("lab", *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_mistakes_are_one_line_each(seedbed, write, tmp_path, out):
    assert "cannot read none.json" in wrong(seedbed, "run", "none.json")
    assert "propmts: a recipe has no such key" in wrong(seedbed, "run", write(propmts={"list": ["a"]}))
    assert "there is no task 'signal'" in wrong(seedbed, "run", write(task="signal"))
    assert "there is no model at cogvideox:" in wrong(seedbed, "run", write(models=["cogvideox"]))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photo.png").touch()
    assert "not an experiment's folder" in wrong(seedbed, "run", write(), "--out", foreign)
    assert "is not the folder of a run" in wrong(seedbed, "table", foreign)
    assert "is not the folder of a run" in wrong(seedbed, "report", tmp_path / "none")
    assert "--workers" in wrong(seedbed, "run", write(), "--workers", 0)
    seedbed("lab", "run", write(), "--out", out)
    assert "does not ask for" in wrong(seedbed, "run", write(options={"x": 1}), "--out", out)


@pytest.mark.slow
def test_a_bar_with_the_time_left_is_for_terminals(write, out):
    command = [sys.executable, "-c", "from seedbed.cli import main; main()", "lab", "run", str(write())]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "TERM": "xterm", "COLUMNS": "100"}
    for option, expected in ([], True), (["--quiet"], False):
        master, terminal = pty.openpty()
        done = subprocess.run(
            [*command, "--out", str(out), *option], stdout=subprocess.PIPE, stderr=terminal, env=environment
        )
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(master, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(master)
        assert done.returncode == 0 and done.stdout == f"18 rows in {out}/rows.jsonl\n".encode()
        assert (b"18/18" in shown) == expected


@pytest.mark.parametrize("arguments", [["lab", "--help"], ["lab", "run", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    python = [sys.executable, "-X", "importtime", "-c", "from seedbed.cli import main; main()", *arguments]
    done = subprocess.run(python, check=True, capture_output=True, text=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded & {"torch", "numpy", "diffusers", "jinja2", "multiprocessing"} == set()
