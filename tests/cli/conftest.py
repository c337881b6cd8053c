"""A tiny model on disk, and the command line run as a user runs it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from seedbed.cli import main
from tests.pipelines import BUILDERS, CALLS


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`model_of(family)`: the folder of that tiny pipeline, with the call it needs beside it."""
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            folder = tmp_path_factory.mktemp("models") / family
            BUILDERS[family]().save_pretrained(folder)
            content = {"schema": "seedbed.model/1", "call": CALLS[family]}
            (folder / "seedbed.json").write_text(json.dumps(content))
            folders[family] = folder
        return folders[family]

    return saved


@pytest.fixture
def model(model_of: Callable[[str], Path]) -> str:
    return str(model_of("cogvideox"))


@pytest.fixture
def seedbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """`seedbed(*arguments)`: runs the command in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()  # what fixtures printed
        monkeypatch.setattr(sys, "argv", ["seedbed", *map(str, arguments)])
        with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1"), pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), captured.out, captured.err)

    return run
