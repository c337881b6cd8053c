"""FreeInit (arXiv 2312.07537) for CogVideoX, small: what a user would otherwise pay for a better start.

Each iteration after the first keeps the low frequencies of the last result, noised again with the first
noise to the end of the schedule, and draws the high ones anew; then the video is generated again, whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ORDER, STOP = 4, 0.25  # of the Butterworth filter, as its authors recommend


def low_pass(frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """The Butterworth filter on the frequencies of `torch.fft.fftn`: (frames, height, width) in [0, 1]."""
    parts = (2 * torch.fft.fftfreq(size, device=device) for size in (frames, height, width))
    grid = torch.stack(torch.meshgrid(*parts, indexing="ij"))
    return 1 / (1 + (grid.square().sum(0) / STOP**2) ** ORDER)


def mix(low: Tensor, high: Tensor) -> Tensor:
    """Low frequencies of one and high frequencies of the other: (batch, frames, channels, height, width)."""
    axes = (1, 3, 4)
    weights = low_pass(*(low.shape[axis] for axis in axes), low.device)[None, :, None]
    spectrum = torch.fft.fftn(low.float(), dim=axes) * weights
    spectrum += torch.fft.fftn(high.float(), dim=axes) * (1 - weights)
    return torch.fft.ifftn(spectrum, dim=axes).real.to(low.dtype)


def next_start(scheduler: object, result: Tensor, first: Tensor, generator: torch.Generator) -> Tensor:
    """The start of the next iteration, from the last result and the first noise."""
    last = torch.full((len(first),), scheduler.config.num_train_timesteps - 1, device=first.device)
    noised = scheduler.add_noise(result, first, last)
    fresh = torch.randn(first.shape, generator=generator).to(first.device, first.dtype)
    return mix(noised, fresh)


def freeinit(
    generate: Callable[[Tensor], Tensor], scheduler: object, first: Tensor, iterations: int
) -> Tensor:
    """Latents after `iterations` generations; `generate` makes latents from a start."""
    generator = torch.Generator().manual_seed(0)
    result = generate(first)
    for _ in range(iterations - 1):
        result = generate(next_start(scheduler, result, first, generator))
    return result
