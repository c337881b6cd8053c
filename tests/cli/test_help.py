import os
import re
import subprocess
import sys
from functools import partial

import pytest
from typer.main import get_command

from seedbed import __version__
from seedbed.cli.app import app

COMMAND = [sys.executable, "-c", "from seedbed.cli import main; main()"]
HEAVY = {"torch", "diffusers", "transformers", "numpy", "jinja2", "av", "huggingface_hub"}


def test_help_answers_at_once() -> None:
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
        after = os.times()
        # Processor time of the child: a busy machine must not fail this.
        spent.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(spent) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["replay", "--help"], ["calibrate", "--help"], ["--version"]],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    python = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(python, check=True, capture_output=True, text=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_every_command_with_a_seed_draws_a_random_one_for_minus_one() -> None:
    def commands(group, path=()):
        for name, command in getattr(group, "commands", {}).items():
            yield from commands(command, (*path, name))
        if not hasattr(group, "commands"):
            yield " ".join(path), {option: each for each in group.params for option in each.opts}

    seeds = {name: options["--seed"] for name, options in commands(get_command(app)) if "--seed" in options}
    assert {*seeds} == {
        *("generate", "select", "contact-sheet", "study", "maps", "edit", "calibrate"),
        *("noise spread", "noise fit", "verifier audit"),
    }
    for name, seed in seeds.items():
        assert seed.default == 0 and seed.help.startswith("Of "), name
        assert seed.help.endswith("; -1 for a random one, shown."), name


def test_version(seedbed) -> None:
    assert seedbed("--version") == (0, f"seedbed {__version__}\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_takes(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reader, pipe = os.pipe()
    os.close(reader)
    with open(pipe, "wb") as closed, open("/dev/full", "wb") as full:
        run = partial(subprocess.run, [*COMMAND, "--version"], stderr=subprocess.PIPE, env=environment)
        done = [run(stdout=closed), run(stdout=full)]
    message = b"error: cannot print the result: No space left on device\n"
    assert [(each.returncode, each.stderr) for each in done] == [(1, b""), (2, message)]


def test_nothing_typed_shows_the_help(seedbed) -> None:
    code, out, err = seedbed()
    assert code == 2 and err == ""
    assert all(
        name in out for name in ("generate", "select", "score", "contact-sheet", "replay", "calibrate")
    )


@pytest.mark.parametrize("command", ["generate", "select", "score", "contact-sheet", "replay", "calibrate"])
def test_every_option_says_what_it_does(seedbed, command: str, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = seedbed(command, "--help")
    assert code == 0
    rows = re.findall(r"│ +(--[\w-]+)(?: +--?[\w-]+)* +(?:<[^>]+>|[A-Z][\w.,]*) +(.*?) *│", out)
    assert len(rows) >= (15 if command in ("generate", "contact-sheet") else 5)
    assert all(len(text) > 5 for _, text in rows), rows
