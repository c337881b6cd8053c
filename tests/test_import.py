"""Importing seedbed costs next to nothing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import seedbed

RECORDS = Path(__file__).parent / "golden" / "records.jsonl"

HEAVY = {"torch", "diffusers", "transformers", "numpy", "av", "pydantic", "jinja2", "rich", "typer"}


def top_level_modules(statement):
    """The top-level modules that Python's own report lists for `statement`, run in a new interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in report.splitlines() if "|" in line}


def test_import_loads_nothing_heavy():
    assert not top_level_modules("import seedbed; dir(seedbed); seedbed.BadInput") & HEAVY


@pytest.mark.slow
def test_the_report_of_imports_would_show_what_is_heavy():
    assert {"torch", "numpy"} <= top_level_modules("import seedbed; seedbed.NoiseRecipe")


def test_the_public_names():
    assert seedbed.__all__ == [
        "BadInput",
        "BadOutput",
        "BadRecord",
        "ContactSheet",
        "Edit",
        "Generation",
        "NoiseRecipe",
        "NotSupported",
        "Profile",
        "SeedbedError",
        "Selection",
        "calibrate",
        "contact_sheet",
        "edit",
        "enhance",
        "generate",
        "guide",
        "maps",
        "replay",
        "score",
        "select",
        "study",
        "zoo",
    ]


def test_reading_a_record_loads_no_pipeline_video_or_page(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads(RECORDS.read_text().splitlines()[1])["attention"]))
    began = time.perf_counter()
    loaded = top_level_modules(f"import seedbed; print(seedbed.Selection.load({str(path)!r}).order)")
    print(f"{time.perf_counter() - began:.1f} s for an interpreter that reads a record")
    assert "torch" in loaded
    assert not loaded & {"diffusers", "transformers", "av", "jinja2"}
