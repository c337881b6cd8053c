"""How far a noise is from N(0, I): moments, spectrum by axis and correlation by lag, each with a p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput

_LAGS = 3


@dataclass(frozen=True)
class Statistic:
    """One number of a noise.

    Attributes:
        name: what it is.
        value: of the noise.
        expected: under N(0, I).
        p: two-sided, how often N(0, I) gives a number at least as far from the expected one. Exact for the
            norm and the spectrum; from the normal limit for the others, whose elements should be thousands.
    """

    name: str
    value: float
    expected: float
    p: float


def gaussianity(noise: Tensor, frame_axis: int | None = None) -> list[Statistic]:
    """The statistics of one noise against N(0, I).

    Mean, norm (a chi-square of n: the shell that Gaussian noise lies on), third and fourth moment. For each
    axis longer than 3 the share of the lowest quarter of the frequencies in the power: the coefficients of an
    orthonormal cosine transform are N(0, 1) again, so that a band is a chi-square too. With an axis of
    frames, the mean product of frames 1, 2, 3 apart.

    Args:
        noise: any shape, at least two elements, without a batch axis.
        frame_axis: the axis that counts latent frames.

    Raises:
        BadInput: fewer elements, or no such axis.
        BadOutput: the noise is not finite.
    """
    values = noise.detach().double().cpu()
    count = values.numel()
    if count < 2:
        raise BadInput(f"a noise of shape {tuple(noise.shape)} is too small to be examined")
    if frame_axis is not None and not 0 <= frame_axis < values.ndim:
        raise BadInput(f"frame_axis={frame_axis} is no axis of a noise of shape {tuple(noise.shape)}")
    if not values.isfinite().all():
        raise BadOutput("the noise is not finite")
    energy = values.square().sum().item()
    found = [
        Statistic("mean", values.mean().item(), 0.0, _normal(values.sum().item() / math.sqrt(count))),
        Statistic("norm", math.sqrt(energy), math.sqrt(count), _chi_square(energy, count)),
    ]
    for name, power, expected, variance in (("skewness", 3, 0.0, 15.0), ("kurtosis", 4, 3.0, 96.0)):
        value = (values**power).mean().item()
        found.append(
            Statistic(name, value, expected, _normal((value - expected) / math.sqrt(variance / count)))
        )
    for axis, length in enumerate(values.shape):
        if length > 3:
            # Up to phases the cosine transform is half the Fourier transform of the values and their mirror.
            spectrum = torch.fft.rfft(torch.cat([values, values.flip(axis)], axis), dim=axis).movedim(axis, 0)
            low = length // 4
            band = (spectrum[:low].abs().square().sum() - spectrum[0].abs().square().sum() / 2).item()
            band /= 2 * length
            share = band / energy if energy else 0.0
            p = _chi_square(band, low * count // length)
            found.append(Statistic(f"low frequencies of axis {axis}", share, low / length, p))
    if frame_axis is not None:
        frames = values.movedim(frame_axis, 0)
        for lag in range(1, min(_LAGS, len(frames) - 1) + 1):
            products = frames[lag:] * frames[:-lag]
            p = _normal(products.sum().item() / math.sqrt(products.numel()))
            found.append(Statistic(f"frames {lag} apart", products.mean().item(), 0.0, p))
    return found


def leaves_shell(noise: Tensor) -> str:
    """What says that a noise is no draw of N(0, I), in a few words; "" where nothing does.

    At a level of 1e-6 for all statistics together (Bonferroni).
    """
    found = gaussianity(noise)
    worst = min(found, key=lambda statistic: statistic.p)
    if worst.p * len(found) > 1e-6:
        return ""
    return f"its {worst.name} is {worst.value:.4g} where N(0, I) has {worst.expected:.4g}"


def _normal(deviation: float) -> float:
    return math.erfc(abs(deviation) / math.sqrt(2))


def _chi_square(value: float, freedom: int) -> float:
    half = torch.tensor([freedom / 2, value / 2], dtype=torch.float64)
    below, above = torch.special.gammainc(*half), torch.special.gammaincc(*half)
    return min(1.0, 2 * torch.minimum(below, above).item())
