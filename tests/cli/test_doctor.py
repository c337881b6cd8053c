"""`seedbed doctor`, where nothing, an extra, or the core lacks something."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from seedbed.cli import doctor

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_what_is_here(seedbed):
    code, out, err = seedbed("doctor", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["packages"]["torch"]["installed"] == metadata.version("torch")
    assert found["device"][0].startswith("cpu, ") and ".mp4" in found["writes"]
    assert {*found["features"]} == {"core", "lab", "ui", "train"}
    assert found["features"]["core"]["missing"] == found["features"]["lab"]["missing"] == []
    declared = PYPROJECT.read_text()
    for name, each in found["packages"].items():
        assert name == "gradio" or f'"{name}{each["needs"]}"' in declared  # two bounds come in another order


@pytest.fixture
def declared(monkeypatch):
    lines = ["numpy>=1.26", "torch>=2.6", "nonesuch>=1.0; extra == 'ui'", "scipy>=99; extra == 'lab'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    return lines


def test_an_extra_that_lacks_something(seedbed, declared):
    code, out, err = seedbed("doctor")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["core"].startswith("ready, for generate")
    assert lines["ui"].startswith("missing nonesuch (not installed): pip install 'seedbed[ui]'")
    assert lines["lab"].startswith("missing scipy (needs >=99): pip install 'seedbed[lab]'")
    assert lines["numpy"].split() == [metadata.version("numpy"), ">=1.26"]


def test_a_core_that_is_broken(seedbed, declared, tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("raise OSError('libbroken.so: not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(doctor._MODULES, "numpy", "brokenpackage")
    code, out, err = seedbed("doctor", "--json")
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert found["features"]["core"]["missing"] == ["numpy (cannot be imported: libbroken.so: not found)"]
    assert "device" not in found and "brokenpackage" not in sys.modules


@pytest.mark.parametrize(
    ("installed", "needs", "problem"),
    [
        ("2.6.0+cpu", ">=2.6", ""),
        ("2.13.0", ">=2.6", ""),
        ("2.5.1", ">=2.6", "needs >=2.6"),
        ("6.31.0", "<7,>=6.31", ""),
        ("7.0", "<7,>=6.31", "needs <7,>=6.31"),
    ],
)
def test_versions(monkeypatch, installed, needs, problem):
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    assert doctor._look("torch", needs) == {"installed": installed, "needs": needs, "problem": problem}


def test_files_that_pip_has_not_installed(seedbed, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    code, out, err = seedbed("doctor")
    assert (code, out) == (2, "") and "pip has not installed" in err and err.count("\n") == 1
