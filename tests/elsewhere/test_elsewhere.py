"""seedbed on a device that is not the CPU, without having one: see `device`.

In a process of its own, for once torch knows the device, libraries take it for the machine's accelerator.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as registration

needs_python_backends = pytest.mark.skipif(
    not hasattr(registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch has no backends written in Python",
)


def run(marked: str) -> None:
    inside = Path(__file__).with_name("inside.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-m",
        marked,
        "-p",
        "no:cacheprovider",
        str(inside),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=inside.parents[2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_python_backends
@pytest.mark.slow
def test_what_runs_on_a_device():
    run("not slow")


@needs_python_backends
@pytest.mark.slow
def test_every_pipeline_of_the_table():
    run("slow")
