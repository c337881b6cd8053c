"""What a release consists of: the files about it, and what is in the wheel."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
FORMS = sorted((ROOT / ".github").rglob("*.yml"))


def test_the_citation_speaks_of_this_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["authors"] == [{"name": "The seedbed authors"}]
    assert f'license = "{cited["license"]}"' in PYPROJECT
    assert all(f'"{word}"' in PYPROJECT for word in cited["keywords"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_and_workflows_are_read(path):
    content = yaml.safe_load(path.read_text())
    if path.parent.name == "ISSUE_TEMPLATE":
        assert {"name", "description", "body"} <= {*content}
        assert all(part["type"] == "markdown" or part["id"] for part in content["body"])
        return
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    runs = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
    made = [target for run in runs for target in re.findall(r"\bmake ([\w-]+)", run)]
    assert "test" in made and {*made} <= {*targets}


@pytest.mark.slow
def test_the_wheel_and_the_sdist(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size <= 32e6
    names = zipfile.ZipFile(wheel).namelist()
    assert "seedbed/py.typed" in names and "seedbed/report/templates/selection.html" in names
    models = {name.split("/")[3] for name in names if name.startswith("seedbed/zoo/models/")}
    assert models == {path.name for path in (ROOT / "src/seedbed/zoo/models").iterdir() if path.is_dir()}
    assert all(name.split("/")[0].startswith("seedbed") for name in names)  # no models/ of the checkout
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "README.md",
        "tests/test_release.py",
        "CITATION.cff",
        ".github/workflows/test.yml",
    } <= files
