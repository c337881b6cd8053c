"""What do a study and an edit cost beside a plain generation, in memory and in time?

`python benchmarks/attention_cost.py` (some minutes): the embedded model's pipeline with a larger denoiser of
random weights in its place (8 heads of width 64, two layers, patches of one latent pixel, float32), two
guided steps.

- Memory at 8,192 tokens: the peak of the bytes that live tensors hold above the weights, followed through
  every operation, of the pipeline's own call, of a study (every row looked at, and each layer replaced by
  uniform attention, one at a time), and of an edit of a noise with half of the layers injected.
- Time at 4,096 tokens: processor time of a study of every step without perturbation, over that of the plain
  generation; medians of pairs.

Writes benchmarks/results/attention_cost.json and exits with 1 where a study takes more than 1.2 times the
memory or 1.5 times the time, or an edit more than 1.6 times the memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from running import RESULTS, machine, spread, write
from scoring_memory import LiveBytes

import seedbed
from seedbed import zoo
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session

LIMITS = {"study": 1.2, "edit": 1.6, "time": 1.5}
SOURCE, TARGET = "a red circle moving left", "a blue circle moving left"
FRAMES, PAIRS = 8, 3


def subject(side: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline of 8 x side x side tokens, and its call."""
    pipe = zoo.load()
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    pipe.transformer = CogVideoXTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=64,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        text_embed_dim=96,
        max_text_seq_length=12,
        time_embed_dim=128,
        sample_width=side,
        sample_height=side,
        sample_frames=4 * FRAMES - 3,
        patch_size=1,
        spatial_interpolation_scale=1.0,
    ).eval()
    size = {"num_frames": 4 * FRAMES - 3, "height": 4 * side, "width": 4 * side}
    return pipe, {**size, "num_inference_steps": 2}


def run(what: str, pipe: Any, call: dict[str, Any]) -> None:
    """One generation, study or edit from the same noise."""
    if what == "study":
        seedbed.study(pipe, SOURCE, perturb=("uniform",), batch_size=1, progress=False, call=call)
        return
    session = Session(pipe, SOURCE, **call)
    recipe = NoiseRecipe(0, 0, tuple(session.spec.shape), frame_axis=session.spec.frame_axis)
    if what == "plain":
        session.generate(recipe.draw())
    else:
        names = {"layers": "transformer_blocks.1.*", "stop": 1.0}
        seedbed.edit(pipe, recipe, source=SOURCE, target=TARGET, progress=False, call=call, **names)


def peak(what: str) -> int:
    """Bytes that live tensors hold at most, above the weights."""
    pipe, call = subject(32)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    with LiveBytes([t for m in modules for t in (*m.parameters(), *m.buffers())]) as tracker:
        run(what, pipe, call)
    return tracker.peak


def times() -> dict[str, Any]:
    """Processor time of a study's look at every step over that of a plain generation."""
    pipe, call = subject(24)  # 8 x 24 x 24 = 4,608 tokens
    look = {"perturb": (), "steps": [0, 1], "progress": False, "call": call}
    seedbed.study(pipe, SOURCE, **look)  # finds the layout, once a pipeline
    ratios = []
    for _ in range(PAIRS):
        began = process_time()
        run("plain", pipe, call)
        between = process_time()
        seedbed.study(pipe, SOURCE, **look)
        ratios.append((process_time() - between) / (between - began))
    return {"tokens": FRAMES * 24 * 24, "pairs": PAIRS, "ratio": spread(ratios)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", choices=("plain", "study", "edit"), help="in this process")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(peak(arguments.measure)))
        return 0
    peaks = {}
    for what in ("plain", "study", "edit"):
        command = [sys.executable, __file__, "--measure", what]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[what] = json.loads(done.stdout.splitlines()[-1])
    ratios = {what: peaks[what] / peaks["plain"] for what in ("study", "edit")}
    result = {"limits": LIMITS, "tokens": FRAMES * 32 * 32, "bytes": peaks, "memory": ratios, "time": times()}
    print(result)
    write("attention_cost", {"machine": machine(), **result}, arguments.out)
    measured = {**ratios, "time": result["time"]["ratio"]["median"]}
    return int(any(measured[what] > limit for what, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
