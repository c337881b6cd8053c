"""What decoding costs a contact sheet, by a large autoencoder and by a linear map fitted to it, in one run.

The autoencoder of Wan 2.1 at its published size, with random weights: time depends on shapes alone. Seconds
are of the processor, and ratios are of this run.
"""

from __future__ import annotations

import argparse
import functools
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from running import RESULTS, machine, seconds, write

from seedbed.pipelines.decoding import Linear

CANDIDATES = 10


def measure(vae: Any, frames: int, height: int, width: int, candidates: int = CANDIDATES) -> dict[str, Any]:
    """Seconds of one exact decode, of the first linear preview and of a later one, and what a sheet saves."""
    times, sides = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    shape = (1, vae.config.z_dim, (frames - 1) // times + 1, height // sides, width // sides)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    session: Any = SimpleNamespace(
        pipe=SimpleNamespace(vae=vae), asked=SimpleNamespace(name=type(vae).__name__)
    )
    with torch.no_grad():
        decode = functools.cache(lambda: vae.decode(z).sample)
        spent = {"exact": seconds(decode)}  # remembered, so that the fit is told apart
        linear = Linear(session)
        spent["fit"] = seconds(lambda: linear.pixels(z, decode))
        spent["linear"] = seconds(lambda: linear.pixels(z, decode))
    fitted = spent["exact"] + spent["fit"] + (candidates - 1) * spent["linear"]
    return {
        "latents": list(shape),
        "frames": list(decode().shape[2:]),
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "candidates": candidates,
        "seconds": spent,
        "saved": 1 - fitted / (candidates * spent["exact"]),
        "times_faster": spent["exact"] / spent["linear"],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(5, 128, 224), help="frames, height, width")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    where = machine()
    torch.manual_seed(0)
    wan = AutoencoderKLWan().eval().requires_grad_(False)
    found = {"machine": where, "autoencoder": "AutoencoderKLWan", **measure(wan, *arguments.size)}
    write("preview_decoding", found, arguments.out)
    print(found)
