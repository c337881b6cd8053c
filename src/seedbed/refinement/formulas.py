"""The formulas of refinement as functions of tensors, for models of every kind, also outside diffusers.

A noise z has any shape; a batch axis is no other axis: what is standardised or measured is the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seedbed.errors import BadInput, finite, one_of, whole

Rescale = Literal["standardise", "spherical", "none"]


def erase(noises: Iterable[Tensor]) -> Tensor:
    """`Σ z_i / √n` (arXiv 2511.07756, semantic erasure).

    Exactly N(0, I) for every n where the z_i are: on average over seeds it changes no distribution, and
    serves as a control.

    Args:
        noises: (n, *shape), or n of (*shape) one after another; at least one.

    Returns:
        (*shape).
    """
    others, count = iter(noises), 1
    total = next(others)
    for noise in others:
        total, count = total + noise, count + 1
    return total / math.sqrt(count)


def inject(
    noise: Tensor,
    predict: Callable[[Tensor, Any], Tensor],
    times: Sequence[Any],
    *,
    weights: Sequence[float] | None = None,
    delta: float = 0.1,
    sign: Literal[1, -1] = 1,
    rescale: Rescale = "standardise",
) -> Tensor:
    """Write what a model predicts into the noise (arXiv 2511.07756, semantic injection).

    `ε_agg = Σ_k w_k predict(z, t_k) / √(Σ_k w_k²)`, all at the same z; then as `add_direction`.

    Args:
        noise: (*shape).
        predict: `predict(z, t)` returns (*shape): the noise ε, the clean x0 or the velocity.
        times: the t_k, in whatever terms `predict` takes.
        weights: w_k, one for each time; None for equal ones.
        delta, sign, rescale: see `add_direction`.

    Raises:
        BadInput: no times, or weights that are not one finite number for each, or all zero.
    """
    weights = [1.0] * len(times) if weights is None else [finite("a weight", each) for each in weights]
    if not len(times) or len(weights) != len(times):
        raise BadInput(f"injection needs a weight for each time, not {len(weights)} for {len(times)}")
    length = math.hypot(*weights)
    if not 0 < length < math.inf:
        raise BadInput("injection needs finite weights that are not all zero")
    total = torch.zeros_like(noise)
    for time, weight in zip(times, weights, strict=True):
        total = total + weight / length * predict(noise, time)
    return add_direction(noise, total, delta, sign=sign, rescale=rescale)


def add_direction(
    noise: Tensor,
    direction: Tensor,
    delta: float,
    *,
    sign: Literal[1, -1] = 1,
    rescale: Rescale = "standardise",
) -> Tensor:
    """`(z + δ d)/√(1 + δ²)`, brought back to the shell of Gaussian noise.

    The published denominator keeps the variance of independent terms only; predictions are correlated with z,
    by .95 in a measurement, which gave std 1.16 at δ = .1.

    Args:
        noise, direction: of one shape.
        delta: strength, at least 0; 0 leaves the noise bit by bit as it is.
        sign: -1 subtracts.
        rescale: "standardise": to the mean and the norm that the noise had. "spherical": along the great
            circle from the noise towards the direction (at the noise's norm), by the angle atan δ: the same
            as published where the two are orthogonal. "none": as published.

    Raises:
        BadInput: a strength that is negative or not finite, another sign or rescale.
    """
    delta = finite("delta", delta, 0)
    one_of("sign", sign, (1, -1))
    one_of("rescale", rescale, get_args(Rescale))
    if delta == 0:
        return noise
    length = math.hypot(1, delta)
    mixed = noise / length + sign * delta / length * direction
    match rescale:
        case "none":
            return mixed
        case "standardise":
            mixed = mixed - mixed.mean()
            spread: Tensor = (noise - noise.mean()).norm() / mixed.norm()
            return mixed * spread + noise.mean()
        case _:
            return rotate(noise, sign * direction, math.atan(delta))


def rotate(noise: Tensor, towards: Tensor, angle: float) -> Tensor:
    """The noise turned by an angle (radians) on its shell, in the plane of itself and another tensor.

    Where the two are parallel there is no such plane, and the noise stays.
    """
    aside = towards - noise * ((noise * towards).sum() / noise.square().sum())
    length: Tensor = aside.norm()
    if length <= 1e-6 * towards.norm():
        return noise
    radius: Tensor = noise.norm()
    return math.cos(angle) * noise + math.sin(angle) * aside * (radius / length)


def interpolate(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation: from one noise (0) to another (1), on a shell whose radius follows.

    Raises BadInput where the share is outside [0, 1].
    """
    share = finite("the strength of a variation", share, 0, 1)
    if share in (0, 1):
        return end if share else start
    cosine = ((start * end).sum() / (start.norm() * end.norm())).clamp(-1, 1)
    angle = math.acos(cosine.item())
    if math.sin(angle) < 1e-6:
        return start + share * (end - start)
    first, second = math.sin((1 - share) * angle), math.sin(share * angle)
    return (first * start + second * end) / math.sin(angle)


def guide_noise(
    noise: Tensor,
    gap: Callable[[Tensor], Tensor],
    *,
    steps: int = 20,
    rate: float = 1.0,
    clip: float = 1.0,
) -> Tensor:
    """Noise-level guidance: `z ← renorm(z − rate · clip(ε_c(z) − ε_∅(z)))`, so many times.

    Args:
        gap: what the prompt changes in the prediction of the noise.
        clip: largest norm of a step, as a share of the noise's.

    Raises:
        BadInput: no steps.
    """
    radius = noise.norm()
    for _ in range(whole("the steps of guidance", steps)):
        step = rate * gap(noise)
        step = step * torch.clamp(clip * radius / step.norm().clamp_min(1e-30), max=1.0)
        moved = noise - step
        noise = moved * (radius / moved.norm())
    return noise
