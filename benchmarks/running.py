"""What every benchmark needs: where it runs, medians with their spread, files written whole."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import diffusers
import torch

from seedbed.files import write_bytes_atomically

RESULTS = Path(__file__).parent / "results"


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a reader needs to judge a time by."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.open() if line.startswith("model name")]
        name = models[0] if models else name
    asked = ["git", "-C", str(RESULTS), "rev-parse", "--short=7", "HEAD"]
    return {
        "commit": subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip(),
        "device": torch.cuda.get_device_name() if device == "cuda" else name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # what else is running; 0 to 0.5 on an idle machine
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles; of a single value all three are that value."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if values[1:] else values * 3
    return {"median": middle, "low": low, "high": high}


def clock(device: str = "cpu") -> float:
    """Seconds: the processor's, which other programs on the machine disturb little; by the wall on a GPU."""
    if device != "cuda":
        return process_time()
    torch.cuda.synchronize()
    return perf_counter()


def seconds(function: Callable[[], Any], device: str = "cpu") -> float:
    """Of one call, with everything it queued on the device; see `clock`."""
    started = clock(device)
    function()
    return clock(device) - started


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Writes a result as JSON under its name, also into a new folder: minutes of work hang on it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(folder / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
