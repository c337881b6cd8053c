"""How much memory does scoring add to a denoiser's forward at 8,192 tokens?

`python benchmarks/scoring_memory.py`: a video transformer of CogVideoX's class (8 heads of width 64, two
layers, 8,192 video tokens, float32, random weights) runs one forward for one candidate, once plain and once
under a tap that scores every attention call with the mask-free BANSA over all query rows. Each runs in a
process of its own. Reports, above what the weights and inputs take,

- the peak of live tensor bytes, from a record of every allocation (on CUDA: the allocator's peak counter),
- the rise of the process's peak resident memory (CPU only; it includes what the allocator keeps for later).

One layer's attention map over all heads would take 2.1 GB. Writes benchmarks/results/scoring_memory.json and
exits with 1 where scoring needs more than 1.2 times the plain forward.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch

from seedbed.attention.bansa import bansa_expected
from seedbed.attention.tap import AttentionCall, Tap
from seedbed.files import write_bytes_atomically

LIMIT = 1.2
FRAMES, SIDE, TEXT = 8, 32, 16
RESULT = Path(__file__).parent / "results" / "scoring_memory.json"


def measure(scoring: bool, device: str) -> dict[str, float]:
    """One forward in this process: peak bytes above its start, seconds, and the scores."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=64,
        sample_width=2 * SIDE,
        sample_height=2 * SIDE,
        sample_frames=4 * FRAMES - 3,
        max_text_seq_length=TEXT,
        spatial_interpolation_scale=1.0,
    )
    model = model.eval().requires_grad_(False).to(device)
    inputs = {
        "hidden_states": torch.randn(1, FRAMES, 4, 2 * SIDE, 2 * SIDE, device=device),
        "encoder_hidden_states": torch.randn(1, TEXT, 64, device=device),
        "timestep": torch.tensor([999], device=device),
    }
    scores: list[float] = []

    def handler(call: AttentionCall) -> None:
        rows = bansa_expected(call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal)
        scores.append(call.by_candidate(rows).item())

    def forward() -> None:
        with torch.no_grad():
            if not scoring:
                model(**inputs)
                return
            with Tap(model, handler):
                model(**inputs)

    def resident() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, started = resident(), perf_counter()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        forward()
        peak = torch.cuda.max_memory_allocated() - held
    else:
        forward()
    seconds, rise = perf_counter() - started, resident() - before
    if device == "cpu":
        # A second run, since recording every allocation takes memory of its own.
        scores.clear()
        cpu = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[cpu], profile_memory=True, acc_events=True) as profile:
            forward()
        events = profile.profiler.kineto_results.events()
        moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        live = peak = 0
        for _, size in moves:
            live += size
            peak = max(peak, live)
    return {"live": peak, "resident": rise, "seconds": seconds, "scores": scores}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--measure", choices=["plain", "scoring"], help="measure one kind in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure == "scoring", arguments.device)))
        return 0
    figures = {}
    for kind in ("plain", "scoring"):
        command = [sys.executable, __file__, "--device", arguments.device, "--measure", kind]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # The profiler may print lines of its own before.
        figures[kind] = json.loads(output.splitlines()[-1])
    measured = ("live",) if arguments.device == "cuda" else ("live", "resident")
    result = {
        "tokens": FRAMES * SIDE * SIDE + TEXT,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "bytes": {kind: {name: figures[kind][name] for name in measured} for kind in figures},
        "ratio": {name: figures["scoring"][name] / figures["plain"][name] for name in measured},
        "seconds": {kind: figures[kind]["seconds"] for kind in figures},
        "scores": figures["scoring"]["scores"],
        "limit": LIMIT,
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_bytes_atomically(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))
    return int(max(result["ratio"].values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
