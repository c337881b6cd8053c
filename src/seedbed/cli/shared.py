"""What the commands share: loading with a spinner, options to arguments, and what is printed at the end."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from seedbed.cli.tables import print_ranking, print_summary
from seedbed.errors import BadInput


def shown(quiet: bool) -> bool:
    """Whether progress goes to the terminal."""
    return not quiet and sys.stderr.isatty()


def loaded(model: str | None, dtype: Any, device: str | None, quiet: bool) -> Any:
    """The pipeline, as `seedbed.pipelines.loading.load`, with a spinner while it loads."""
    with Console(stderr=True, quiet=not shown(quiet)).status("loading the model"):
        from seedbed.pipelines.loading import load, locate

        name = locate(model)
        prepare_process(name)
        return load(name, dtype=dtype, device=device)


def prepare_process(model: str) -> None:
    """Keep the chatter of the libraries below off the terminal for good, and compute on few threads.

    The embedded models' tensors are tiny: on a busy machine, threads that wait for one another are many times
    slower than one.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from seedbed.pipelines.loading import RECORDED, recorded_name, silence

    silence()
    if recorded_name(model).startswith(RECORDED):
        import torch

        torch.set_num_threads(1)


def pool_of(
    prompt: str,
    acquisition: str,
    profile: Path | None,
    keep: float | None,
    masks: int | None,
    layers: list[str] | None,
    depth: int | None,
    race: str,
    batch_size: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """How to score, as `select`, `score` and `generate` take it; checked before a model is loaded."""
    if not prompt.strip():
        raise BadInput("the prompt is empty: say what to generate")
    given = [f"{name}={value}" for name, value in (("keep", keep), ("masks", masks)) if value is not None]
    if profile is not None and acquisition != "auto":
        raise BadInput("--profile names the function: leave out --acquisition, or the profile")
    if given and acquisition == "auto":
        raise BadInput("--keep and --masks are settings of bansa: add --acquisition bansa")
    if given:
        acquisition += ("," if ":" in acquisition else ":") + ",".join(given)
    from seedbed.selection.acquisitions import resolve
    from seedbed.selection.profile import read_profile
    from seedbed.selection.racing import parsed

    if profile is not None:
        read_profile(profile)  # a mistake is one before the model is loaded
    return {
        "acquisition": acquisition if acquisition == "auto" else resolve(acquisition),
        "profile": profile,
        "layers": layers or None,
        "depth": depth,
        "race": parsed(race),
        "batch_size": batch_size or "auto",
        "progress": shown(quiet),
    }


def call_of(
    steps: int | None, guidance: float | None, frames: int | None, height: int | None, width: int | None
) -> dict[str, Any]:
    """The pipeline's arguments that were given; the pipeline has its own defaults for the others."""
    if guidance is not None and not math.isfinite(guidance):
        raise BadInput(f"--guidance-scale must be a finite number, not {guidance}")
    call = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_frames": frames,
        "height": height,
        "width": width,
    }
    return {name: value for name, value in call.items() if value is not None}


def show(record: dict[str, Any], files: dict[str, Path], as_json: bool, ranking: bool = False) -> None:
    """A record and its files, as one JSON object or for people."""
    names = {what: str(path) for what, path in files.items()}
    if as_json:
        print(json.dumps({"files": names, "record": record}))
        return
    console = Console(highlight=False)
    if ranking:
        print_ranking(console, record)
    print_summary(console, record, names)
