"""VBench (Huang et al., CVPR 2024, arXiv:2311.17982): finished videos in its layout, its results as a table.

VBench needs packages of other versions than ours, so it runs in an environment of its own.
Its layout is PROMPT-INDEX.mp4 in one folder, INDEX from 0 for each prompt; its results are files
NAME_eval_results.json, {dimension: [score, [{"video_path": ..., "video_results": ...}, ...]]}.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seedbed.errors import BadInput, BadRecord, shown
from seedbed.files import read_text, write_bytes_atomically
from seedbed.lab.presentation import Cell, Table
from seedbed.report.video import read_record
from seedbed.statistics import bootstrap

# What VBench measures on prompts of one's own; its ten other dimensions need those of its own lists.
OWN_PROMPTS = (
    *("subject_consistency", "background_consistency", "motion_smoothness"),
    *("dynamic_degree", "aesthetic_quality", "imaging_quality"),
)
# Its command starts whatever `python` is, so the environment has to be the active one.
INSTALL = (
    "python3 -m venv vbench-env && . vbench-env/bin/activate && "
    "pip install torch torchvision && pip install vbench"
)
_RESULTS = "_eval_results.json"


def export(sources: Iterable[Path], folder: Path) -> list[Path]:
    """Copy videos that carry their record to FOLDER/PROMPT-INDEX.mp4, in the order in which they are given.

    Args:
        sources: .mp4 files, or folders of them, whose names decide their order.
        folder: made where it is missing; holds no video yet.

    Raises:
        BadInput: no video, one that is no .mp4, a prompt that is no file name, videos in the folder.
        BadRecord: a video without a record.
    """
    found: list[Path] = []
    for source in sources:
        found += sorted(source.glob("*.mp4")) if source.is_dir() else [source]
    if not found:
        raise BadInput("there is no .mp4 to export")
    if any(folder.glob("*.mp4")):
        raise BadInput(f"{folder} holds videos already: give another folder")
    counted: Counter[str] = Counter()
    copies = {}
    for video in found:
        if video.suffix.lower() != ".mp4":
            raise BadInput(f"cannot export {video}: VBench reads a folder of one kind of video, .mp4")
        prompt = read_record(video).get("prompt")
        name = f"{prompt}-{counted[str(prompt)]}.mp4"
        if not prompt or "/" in name or "\0" in name or len(name.encode()) > 255:
            raise BadInput(
                f"cannot export {video}: VBench names a file by its prompt, and {shown(prompt)} cannot be one"
            )
        counted[prompt] += 1
        copies[folder / name] = video
    folder.mkdir(parents=True, exist_ok=True)
    for path, video in copies.items():
        write_bytes_atomically(path, video.read_bytes())
    return list(copies)


def command(folder: Path) -> str:
    """A shell command that evaluates the videos; where vbench is not found, how to install it first."""
    place, results = (shlex.quote(str(path.resolve())) for path in (folder, folder / "results"))
    run = (
        f"for d in {' '.join(OWN_PROMPTS)}; do vbench evaluate --dimension $d "
        f"--videos_path {place} --output_path {results} --mode custom_input; done"
    )
    return run if shutil.which("vbench") else f"{INSTALL}\n{run}"


def results(folder: Path) -> Table | None:
    """What VBench found, a row for each dimension; None where it has not run on the folder yet.

    Read from all files of its results below the folder; of a dimension that is in several, from the one whose
    name, a time, is the last.

    Raises:
        BadRecord: a file that is not as VBench writes it.
    """
    found: dict[str, tuple[float, dict[str, list[float]]]] = {}
    for path in sorted(folder.rglob(f"*{_RESULTS}"), key=lambda path: path.name):
        try:
            for dimension, (score, videos) in json.loads(read_text(path, "VBench's results")).items():
                # Of this one alone, VBench divides the mean by 100 and not the videos.
                unit = 100 if dimension == "imaging_quality" else 1
                prompts: dict[str, list[float]] = defaultdict(list)
                for video in videos:
                    prompt = re.sub(r"-\d+$", "", Path(video["video_path"]).stem)
                    prompts[prompt].append(float(video["video_results"]) / unit)
                found[dimension] = float(score), prompts
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"cannot read {path}: it is not as VBench writes its results") from error
    if not found:
        return None
    rows: list[list[Cell]] = []
    for dimension, (score, prompts) in sorted(found.items()):
        means = bootstrap(np.array([np.mean(values) for values in prompts.values()]))
        rows.append([dimension, sum(map(len, prompts.values())), len(prompts), score, means])
    note = (
        "Score: VBench's own, over all videos. Over prompts: the mean of each prompt's mean, with a 95 % "
        "interval, bootstrap over prompts."
    )
    return Table("VBench", ["dimension", "videos", "prompts", "score", "over prompts"], rows, note)
