"""How much memory does choosing among ten noises take, next to a plain generation?

`python benchmarks/selection_memory.py` (some minutes): the subjects of `overhead.py`, each run in a process
of its own: two guided steps of the pipeline's own call, or `seedbed.select(candidates=10)` with its defaults.
Reports

- the peak of the bytes that live tensors hold, weights included, followed through every operation,
- the peak of the process's resident memory.

Nothing is decoded, and no text encoder is loaded for CogVideoX-2B: with them a plain generation takes more,
and selecting does not. Writes benchmarks/results/selection_memory.json and exits with 1 where selecting takes
more than 1.1 times the memory of the plain generation.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from overhead import SMALL, guided_step, selections
from running import RESULTS, machine, write
from scoring_memory import LiveBytes
from subjects import Subject, cogvideox_2b, embedded

LIMIT = 1.1
SUBJECTS = {"embedded model": embedded, "CogVideoX-2B": partial(cogvideox_2b, size=SMALL)}


def measure(subject: Subject, selecting: bool, following: bool) -> int:
    """Peak bytes of this process: of live tensors, or resident.

    Args:
        following: follow live tensors, which takes time and memory of its own, or look at the process.
    """
    run = selections(subject, 0)["ours"] if selecting else partial(guided_step, subject, "cpu")
    if not following:
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    modules = [part for part in subject.pipe.components.values() if isinstance(part, torch.nn.Module)]
    held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    with LiveBytes(held) as tracker:
        run()
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in held}
    return tracker.peak + sum(storages.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--measure", nargs=3, help="subject, plain or select, live or resident: in this process"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    if arguments.measure:
        name, what, how = arguments.measure
        print(json.dumps(measure(SUBJECTS[name]("cpu"), what == "select", how == "live")))
        return 0
    # Tensors above this size go back to the system when freed: the resident peak is then that of live memory.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    rows: list[dict[str, Any]] = []
    for name in SUBJECTS:
        row: dict[str, Any] = {"subject": name}
        for how in ("live", "resident"):
            peaks = {}
            for what in ("plain", "select"):
                command = [sys.executable, __file__, "--measure", name, what, how]
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                peaks[what] = json.loads(run.stdout.splitlines()[-1])
            row[how] = {**peaks, "ratio": peaks["select"] / peaks["plain"]}
        print(row, flush=True)
        rows.append(row)
    write("selection_memory", {"machine": machine(), "limit": LIMIT, "rows": rows}, arguments.out)
    return int(max(row[how]["ratio"] for row in rows for how in ("live", "resident")) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
