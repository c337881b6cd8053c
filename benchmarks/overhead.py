"""What choosing among ten noises adds to a generation of 50 guided steps, next to what users run otherwise.

`python benchmarks/overhead.py` (a quarter of an hour): in one process, one after the other and over again,
in processor time of one thread, on the embedded model and on CogVideoX-2B's architecture (full depth and
width, random weights, bfloat16, prompt embeddings given),

- a plain generation; on CogVideoX-2B one guided step, counted 50 times,
- ours: `seedbed.select(candidates=10)` with the default for a model without a profile,
- raced: the same over all layers with race=((0.1, 0.2), (0.46, 1)),
- the published method: K = 10 masks drawn on the exact maps of the first d* layers, worked on in chunks,
- FreeInit with 3 iterations: three generations and the mixing of frequencies,
- best of 10: ten generations.

Nothing is decoded, so that seconds are those of denoising. Every round has noises of its own, from the seed
of its number. Ratios are of times in the same round; medians and quartiles are over rounds. `--device cuda
--native` measures CogVideoX-2B at 49 x 480 x 720 on a GPU instead, and the peak of its memory. Writes
benchmarks/results/overhead.json, or overhead_native.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cost_model import RACE
from freeinit import freeinit, next_start
from running import RESULTS, clock, machine, seconds, spread, write
from subjects import STEPS, Subject, cogvideox_2b, embedded

import seedbed
from seedbed.acquisition import Bansa

CANDIDATES, ITERATIONS = 10, 3
SMALL, NATIVE = (9, 128, 192), (49, 480, 720)


def guided_step(subject: Subject, device: str) -> float:
    """Seconds of one guided step: the second of two in the pipeline's own call."""
    ends: list[float] = []

    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(clock(device))
        pipe._interrupt = len(ends) == 2
        return tensors

    subject.pipe(**subject.call, output_type="latent", callback_on_step_end=end)
    return ends[1] - ends[0]


def selections(subject: Subject, seed: int) -> dict[str, Callable[[], seedbed.Selection]]:
    """The ways of choosing that are compared, by name; `seed` is that of the noises."""
    select = partial(
        seedbed.select, subject.pipe, candidates=CANDIDATES, seed=seed, progress=False, **subject.call
    )
    return {
        "ours": partial(select, acquisition=Bansa()),
        "raced": partial(select, acquisition=Bansa(depth=None, race=RACE)),
        "published": partial(select, acquisition=Bansa(estimator="masked", depth=subject.depth)),
    }


def plain(subject: Subject, first: torch.Tensor, device: str) -> float:
    """Seconds of one generation."""
    if not subject.whole:
        return STEPS * guided_step(subject, device)
    return seconds(partial(subject.pipe, **subject.call, latents=first, output_type="latent"), device)


def with_freeinit(subject: Subject, first: torch.Tensor, device: str, once: float) -> float:
    """Seconds of FreeInit; where generations are not run whole, from those of one."""
    scheduler = subject.pipe.scheduler
    if subject.whole:
        call = partial(subject.pipe, **subject.call, output_type="latent", return_dict=False)
        return seconds(lambda: freeinit(lambda z: call(latents=z)[0], scheduler, first, ITERATIONS), device)
    generator = torch.Generator().manual_seed(0)
    mixing = seconds(partial(next_start, scheduler, first, first, generator), device)
    return ITERATIONS * once + (ITERATIONS - 1) * mixing


def measure(subject: Subject, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Ledger and wall-clock overhead of every method, against a plain generation in the same round."""
    described = machine(device)
    made: list[seedbed.Selection] = []
    # Discovers the pipeline, which later selections on the same model need not do again, and warms up.
    beginning = seconds(lambda: made.append(selections(subject, 0)["ours"]()), device)
    first = made[0].noise.to(device, subject.pipe.transformer.dtype)
    guided = 2.0 * STEPS
    fixed = {"plain": guided, "FreeInit": ITERATIONS * guided, "best of 10": CANDIDATES * guided}
    times: list[dict[str, float]] = []
    evaluations: list[dict[str, float]] = []
    for number in range(rounds):
        once = plain(subject, first, device)
        times.append({"plain": once})
        evaluations.append(dict(fixed))
        for name, choose in selections(subject, number).items():
            choices: list[seedbed.Selection] = []
            times[-1][name] = once + seconds(lambda: choices.append(choose()), device)  # noqa: B023
            evaluations[-1][name] = guided + choices[0].ledger.total
        times[-1]["FreeInit"] = with_freeinit(subject, first, device, once)
        times[-1]["best of 10"] = CANDIDATES * once
        print({name: round(value, 2) for name, value in times[-1].items()}, flush=True)
    return {
        "subject": subject.name,
        "machine": described,
        "plain_generations_run_whole": subject.whole,
        "rounds": rounds,
        "first_selection": beginning / spread([each["plain"] for each in times])["median"],
        "methods": {
            name: {
                "evaluations": spread([each[name] for each in evaluations]),
                "ledger_overhead": spread([each[name] / guided - 1 for each in evaluations]),
                "seconds": spread([each[name] for each in times]),
                "overhead": spread([each[name] / each["plain"] - 1 for each in times]),
            }
            for name in times[0]
        },
    }


def gpu_memory(subject: Subject) -> dict[str, float]:
    """Peak bytes on the GPU of two guided steps and of a selection, weights included."""
    peaks = {}
    for name, run in (
        ("plain", partial(guided_step, subject, "cuda")),
        ("select", selections(subject, 0)["ours"]),
    ):
        torch.cuda.reset_peak_memory_stats()
        run()
        peaks[name] = torch.cuda.max_memory_allocated()
    return {**peaks, "ratio": peaks["select"] / peaks["plain"]}


def parsed(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--native", action="store_true", help="CogVideoX-2B alone, at 49 x 480 x 720")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds; three times as many if embedded")
    parser.add_argument("--only", choices=("embedded", "2b"), help="measure this one again, in the same file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args(given)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: leave out --device cuda")
    if arguments.native and arguments.device == "cpu":
        parser.error("--native takes days on a CPU: add --device cuda")
    return arguments


def main(given: list[str] | None = None) -> None:
    arguments = parsed(given)
    device, rounds = arguments.device, arguments.repetitions
    result: dict[str, Any] = {
        "candidates": CANDIDATES,
        "steps": STEPS,
        "size": NATIVE if arguments.native else SMALL,
    }
    if arguments.native:
        subject = cogvideox_2b(device, NATIVE)
        result["subjects"] = [measure(subject, rounds, device)]
        result["memory"] = gpu_memory(subject)
        write("overhead_native", result, arguments.out)
        return
    ways = {
        "embedded": lambda: measure(embedded(device), 3 * rounds, device),
        "2b": lambda: measure(cogvideox_2b(device, SMALL), rounds, device),
    }
    before = arguments.out / "overhead.json"
    known = json.loads(before.read_text())["subjects"] if arguments.only else [None] * len(ways)
    result["subjects"] = [
        way() if arguments.only in (None, name) else found
        for (name, way), found in zip(ways.items(), known, strict=True)
    ]
    write("overhead", result, arguments.out)


if __name__ == "__main__":
    main()
