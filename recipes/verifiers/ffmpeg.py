"""What ffmpeg's own detectors say of a video in memory, as numbers that can be held beside ours."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from seedbed.verifiers import Frames

FPS = 8
# freezedetect's noise tolerance: its default, and what lets one grey level of noise pass.
TOLERANCES = (0.001, 0.005)


def available() -> bool:
    """Whether there is an ffmpeg whose version has blurdetect (5.1 and later)."""
    if shutil.which("ffmpeg") is None:
        return False
    said = subprocess.run(["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True)
    return " blurdetect " in said.stdout


def detected(video: Frames) -> dict[str, float]:
    """By the names of `seedbed.verifiers.artifacts`, of uint8 (frames, height, width, 3).

    - `frozen`: share of steps within what freezedetect (at its tolerance) calls a freeze; `frozen .005` at
      another one.
    - `cut`: scdet's greatest score, percent.
    - `flicker`, `drift`: as ours, of the means that signalstats gives: of luma, and of U and V.
    - `black`, `blown`: share of frames within what blackdetect calls black, of the video and its negative.
    - `blur`: blurdetect's number, the median over frames; 0 where it has none.
    """
    frames, height, width, _ = video.shape
    with tempfile.TemporaryDirectory() as folder:
        chains = []
        for place, tolerance in enumerate(TOLERANCES):
            more = "signalstats,scdet=t=100,blurdetect,blackdetect=d=0,"
            found = f"metadata=mode=print:file={folder}/{place}"
            freeze = f"freezedetect=n={tolerance}:d={0.5 / FPS}"
            chains.append(f"[v{place}]{more * (place == 0)}{freeze},{found}[o{place}]")
        chains.append(f"[v2]negate,blackdetect=d=0,metadata=mode=print:file={folder}/2[o2]")
        graph = "format=yuv444p,split=3[v0][v1][v2];" + ";".join(chains)
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-filter_complex_threads", "1"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS)]
        command += ["-i", "-", "-filter_complex", f"[0:v]{graph}"]
        command += [part for place in range(3) for part in ("-map", f"[o{place}]", "-f", "null", "-")]
        subprocess.run(command, input=video.tobytes(), check=True, capture_output=True)
        first, second, negative = (_read(Path(folder) / str(place)) for place in range(3))
    end = (frames - 1) / FPS
    freeze = "freezedetect.freeze_{}"
    luma, u, v = (np.array(first[f"signalstats.{channel}AVG"]) for channel in "YUV")
    blurs = [value for value in first["blur"] if math.isfinite(value)]
    return {
        # The step in which a freeze ends is none of its own.
        "frozen": _covered(first, freeze, end, 1) / (frames - 1),
        "frozen .005": _covered(second, freeze, end, 1) / (frames - 1),
        "cut": max(first["scd.score"]),
        "flicker": float(np.median(np.abs(np.diff(luma, 2))) / max(float(np.mean(luma - 16)), 1e-6)),
        "black": _covered(first, "black_{}", end + 1 / FPS, 0) / frames,
        "blown": _covered(negative, "black_{}", end + 1 / FPS, 0) / frames,
        "blur": float(np.median(blurs)) if blurs else 0.0,
        "drift": float(np.hypot(u - u[0], v - v[0]).max()),
    }


def _read(path: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in re.findall(r"^lavfi\.(.+)=(.+)$", path.read_text(), re.MULTILINE):
        found[name].append(float(value))
    return found


def _covered(found: dict[str, list[float]], names: str, end: float, less: int) -> int:
    """Frames from starts to ends, `end` where there is none; `less` for each that ends before the video."""
    starts, ends = found[names.format("start")], found[names.format("end")]
    closed = sum(round((stop - start) * FPS) - less for start, stop in zip(starts, ends, strict=False))
    return closed + sum(round((end - start) * FPS) for start in starts[len(ends) :])
