"""Importing seedbed and asking for help cost next to nothing."""

import subprocess
import sys
import time
from pathlib import Path

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


def test_help_answers_in_half_a_second():
    """The best of three: what the program itself needs, without the machine's other work."""
    command = [str(Path(sys.executable).with_name("seedbed")), "--help"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        times.append(time.perf_counter() - start)
        assert "generate" in output
    assert min(times) < 0.5, f"seedbed --help took {min(times):.2f} s at best"
