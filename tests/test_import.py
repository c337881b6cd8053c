"""Importing seedbed costs next to nothing."""

import subprocess
import sys

HEAVY = {"torch", "diffusers", "transformers", "numpy", "av", "pydantic", "jinja2", "rich", "typer"}


def top_level_modules(statement):
    """The top-level modules that Python's own report lists for `statement`, run in a new interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in report.splitlines() if "|" in line}


def test_import_loads_nothing_heavy():
    assert not top_level_modules("import seedbed; dir(seedbed); seedbed.BadInput") & HEAVY


def test_the_report_of_imports_would_show_what_is_heavy():
    assert {"torch", "numpy"} <= top_level_modules("import seedbed; seedbed.NoiseRecipe")
