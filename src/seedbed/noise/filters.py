"""Low-pass filters over frames and positions, and one noise's low with another's high frequencies."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from seedbed.errors import BadInput, fraction, whole

Shape = Literal["butterworth", "gaussian", "ideal", "box"]


def low_pass(
    lengths: tuple[int, ...],
    shape: Shape = "butterworth",
    *,
    stop: float = 0.25,
    frame_stop: float = 0.25,
    order: int = 4,
) -> Tensor:
    """How much of each frequency passes, 0 to 1.

    As FreeInit defines them (arXiv 2312.07537, and its authors' code): with d the distance from frequency 0
    in units of the highest one, frames scaled by `stop / frame_stop`: Butterworth
    `1/(1 + (d/stop)^(2 order))`, Gaussian `exp(−d²/(2 stop²))`, ideal `d² <= 2 stop` (the paper says
    d <= stop: their code is followed), box: each axis by itself within its stop.

    Args:
        lengths: of (frames, height, width), or of (height, width) for images.
        stop, frame_stop: where the filter ends, as a share of the highest frequency.
        order: of the Butterworth filter: the higher, the steeper.

    Returns:
        (*lengths) float64, frequency 0 in the middle as `torch.fft.fftshift` puts it (with an odd length half
        a step beside it, as in FreeInit's and diffusers' code).

    Raises:
        BadInput: no such filter, a stop outside (0, 1], an order that is no whole number from 1 to 1000.
    """
    if shape not in get_args(Shape):
        raise BadInput(f"there is no filter {shape!r:.40}: choose one of {', '.join(get_args(Shape))}")
    stop, frame_stop = fraction("stop", stop), fraction("frame_stop", frame_stop)
    order = whole("order", order, 1, 1000)
    grids = [2 * torch.arange(length, dtype=torch.float64) / length - 1 for length in lengths]
    if len(grids) == 3:
        grids[0] = grids[0] * (stop / frame_stop)
    mesh = torch.stack(torch.meshgrid(*grids, indexing="ij"))
    square = mesh.square().sum(0)
    match shape:
        case "butterworth":
            return 1 / (1 + (square / stop**2) ** order)
        case "gaussian":
            return torch.exp(-square / (2 * stop**2))
        case "ideal":
            return (square <= 2 * stop).double()
        case _:
            return (mesh.abs() <= stop).all(0).double()


def mix_frequencies(low: Tensor, high: Tensor, passing: Tensor, *, keep_variance: bool = False) -> Tensor:
    """The low frequencies of one tensor with the high ones of another.

    Args:
        low, high: (..., *passing.shape), real.
        passing: what `low_pass` returns.
        keep_variance: weigh the high frequencies by `√(1 − passing²)`, as FreqPrior does (arXiv 2502.03496),
            instead of FreeInit's `1 − passing`, which loses variance wherever `passing` is neither 0 nor 1.

    Returns:
        float32 of their shape.
    """
    axes = tuple(range(-passing.ndim, 0))
    passing = torch.fft.ifftshift(passing.to(low.device, torch.float32))
    # With an odd length FreeInit's grid has frequency 0 beside its middle. Of a real tensor, the real part of
    # what passes is what this symmetric filter passes; only of it is `√(1 − passing²)` the complement.
    passing = (passing + passing.flip(axes).roll([1] * passing.ndim, axes)) / 2
    others = (1 - passing**2).sqrt() if keep_variance else 1 - passing
    spectrum = torch.fft.fftn(low.float(), dim=axes) * passing
    spectrum = spectrum + torch.fft.fftn(high.float(), dim=axes) * others
    mixed: Tensor = torch.fft.ifftn(spectrum, dim=axes).real
    return mixed
