"""The rooms of the house: imports run downwards only, and the two lowest rooms never meet diffusers."""

import ast
from pathlib import Path

import pytest

import seedbed

ROOMS = (
    "errors",
    "files",
    "progress",
    "texts",
    "statistics",
    "halving",
    "attention",
    "noise",
    "report",
    "pipelines",
    "zoo",
    "worlds",
    "verifiers",
    "refinement",
    "acquisition",
    "adaptation",
    "selection",
    "training",
    "lab",
    "ui",
    "cli",
    "integrations",
)
WITHOUT_DIFFUSERS = ("attention", "noise")
PACKAGE = Path(seedbed.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path, package):
    parts = ("seedbed", *path.relative_to(package).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(source, module, is_package):
    """(line, dotted name) of everything imported anywhere in `source`: functions and TYPE_CHECKING included.

    `from a import b` counts as both a and a.b, since b may be a module. `importlib.import_module("a.b")` with
    a literal name counts too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = list(module) if is_package else list(module[:-1])
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and "import_module" in ast.unparse(node.func)
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, node.args[0].value


def wrong_imports(path, package=PACKAGE):
    """One line for each import in the file that the order of the rooms forbids."""
    module = module_of(path, package)
    room = module[1]
    where = path.relative_to(package)
    if room not in ROOMS:
        return [f"{where}: the room {room!r} is not in the list of rooms"]
    wrong = []
    for line, name in imported_modules(path.read_text(), module, path.name == "__init__.py"):
        parts = name.split(".")
        if parts[0] == "diffusers" and room in WITHOUT_DIFFUSERS:
            wrong.append(f"{where}:{line} {room} imports {name}")
        if parts[0] != "seedbed":
            continue
        target = parts[1] if len(parts) > 1 else None
        if target == "__version__":
            continue
        if target not in ROOMS:
            if room == "cli":  # the room at the top is a user of the package like any other
                continue
            wrong.append(f"{where}:{line} {room} imports {name}: take it from its room, not the root")
        elif ROOMS.index(target) > ROOMS.index(room):
            wrong.append(f"{where}:{line} {room} imports {name}, which lies above it")
    return wrong


def test_the_package_is_read():
    assert {"errors.py", "files.py", "progress.py", "texts.py"} <= {path.name for path in FILES}
    assert {module_of(path, PACKAGE)[1] for path in FILES} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    assert wrong_imports(path) == []


def test_every_public_name_lives_where_the_root_says():
    for name in seedbed.__all__:
        assert getattr(seedbed, name) is not None
    assert set(seedbed.__all__) <= set(dir(seedbed))
    with pytest.raises(AttributeError, match="no attribute 'seletc'"):
        _ = seedbed.seletc


BAD = {
    "noise/a.py": "import seedbed.pipelines",
    "noise/b.py": "from seedbed.selection import select",
    "noise/c.py": "from seedbed import report",
    "noise/d.py": "from seedbed import select",
    "noise/e.py": "from ..pipelines.session import Session",
    "noise/f.py": "from .. import zoo",
    "noise/g.py": "def f():\n    from seedbed.cli import main",
    "noise/h.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from seedbed.lab import work",
    "noise/i.py": "import importlib\nimportlib.import_module('seedbed.worlds')",
    "noise/j.py": "import numpy, diffusers.models",
    "noise/k.py": "from diffusers import DiffusionPipeline",
    "noise/l.py": "import seedbed",
    "noise/__init__.py": "from ..worlds.shapes import render",
    "cellar/a.py": "",
}
GOOD = {
    "selection/a.py": "from seedbed.noise import A\nfrom ..pipelines.session import B\nfrom . import b",
    "selection/b.py": "import diffusers, seedbed.errors\nfrom seedbed import __version__, noise",
    "selection/__init__.py": "from .a import x\nfrom ..attention.tap import Tap",
    "cli/main.py": "def f():\n    from seedbed.zoo import load",
}


@pytest.mark.parametrize("name", BAD)
def test_the_check_finds_a_wrong_import(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(BAD[name])
    assert len(wrong_imports(path, tmp_path)) == 1


@pytest.mark.parametrize("name", GOOD)
def test_the_check_accepts_a_right_import(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(GOOD[name])
    assert wrong_imports(path, tmp_path) == []
