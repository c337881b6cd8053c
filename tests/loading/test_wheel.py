"""The wheel carries the embedded models and stays small."""

import subprocess
import sys
import zipfile
from pathlib import Path

import seedbed
from seedbed.pipelines.loading import EMBEDDED

LIMIT = 32e6
PACKAGE = Path(seedbed.__file__).parent
ROOT = Path(__file__).parents[2]


def test_the_package_holds_the_embedded_models():
    models = PACKAGE / "zoo/models"
    assert {folder.name for folder in models.iterdir() if folder.is_dir()} == {*EMBEDDED}
    assert sum(path.stat().st_size for path in models.rglob("*") if path.is_file()) < LIMIT


def test_the_wheel_holds_the_package_and_the_models(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation"]  # which would fetch hatchling
    subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < LIMIT
    files = zipfile.ZipFile(wheel).namelist()
    models = {name.split("/models/")[1].split("/")[0] for name in files if "/models/" in name}
    assert models == {*EMBEDDED}
    modules = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")}
    assert modules == {name for name in files if name.endswith(".py")}
