"""Recipes of the toy task, and `seedbed` as a process that can be killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import seedbed

HERE = Path(__file__).parent
# For other processes: the toy task, and the package that this one tests.
PYTHONPATH = os.pathsep.join([str(HERE), str(Path(seedbed.__file__).parents[1])])


def recipe_of(**changes):
    """The content of a recipe: the toy task on six prompts and three noises."""
    content = {
        "schema": "seedbed.recipe/1",
        "name": "toy",
        "task": "toy:work",
        "models": [],
        "prompts": {"list": [str(number) for number in range(6)]},
        "noises": {"seed": 7, "count": 3},
        "options": {},
    }
    return {**content, **changes}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(**changes)`: the path of a recipe file; the toy task can be imported."""
    monkeypatch.syspath_prepend(str(HERE))

    def written(**changes):
        path = tmp_path / "recipe-file.json"
        path.write_text(json.dumps(recipe_of(**changes)))
        return path

    return written


def start(*arguments, **options):
    """`seedbed ARGUMENTS` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from seedbed.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # A shell that runs the tests in the background has them, and so this process, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
