"""Stands a few effective keys in for all keys of an attention row, matched in the moments that matter.

Random masks see a row only through sums over its keys, `sum_j f(e^{s_j})` with smooth `f`. Gauss quadrature
turns such a sum into one over a few nodes: the largest key stands for itself (it alone can rule a row), and
three effective keys with real-valued multiplicities take over the rest. The fourth root of e^s is the
variable, so that three nodes span keys that differ by orders of magnitude.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows this short keep all their keys: attention over the frames of a video, in particular.
SHORT = 16


def effective_keys(
    logits: Tensor, excluded: Tensor | None, slope: float = 1, offset: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Effective keys of each row, and how many keys each of them stands for.

    Exact are the sums of `weight * size^(k/4)` for k = 0..5, with the weight `size^(3/4)` where offset is
    None (so that the sums of size and of size^2 are exact), else `slope * size + offset * e^-base`.

    Args:
        logits: (..., keys). Overwritten.
        excluded: bool, (..., keys), or None.

    Returns:
        size: (..., nodes), `e^{s - base}` of each effective key.
        count: (..., nodes), how many keys it stands for.
        base: (..., 1), the largest logit, or 0 if that is negative and there is an offset.
    """
    largest = logits.max(-1, keepdim=True)
    base = largest.values if offset is None else largest.values.clamp(min=0)
    if logits.shape[-1] <= SHORT:
        size = logits.sub_(base).exp_()
        return size, torch.ones_like(size) if excluded is None else (~excluded).to(size.dtype), base
    first = (largest.values - base).exp()
    root = logits.sub_(base).mul_(0.25).exp_()
    if offset is None:
        weight = root**3
    else:
        zero = (-base).exp()
        weight = root.square().square_().mul_(slope).add_(offset * zero)
        if excluded is not None:
            weight = weight.masked_fill_(excluded, 0)
    # The largest key stands for itself; the sums run over the others alone, which may be tiny beside it.
    weight.scatter_(-1, largest.indices, 0)
    node, share = _gauss(root, weight)
    size = node.square().square()
    count = share / (node**3 if offset is None else slope * size + offset * zero)
    return torch.cat([first, size], -1), torch.cat([torch.ones_like(first), count], -1), base


def _gauss(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Three-point Gauss quadrature of the measure `weight` on points x in [0, 1], row by row.

    Returns nodes and weights, each (..., 3), that match the sums of weight * x^k for k = 0..5. Central
    moments keep their digits when the points lie close together. Rows of fewer than three distinct points
    get nodes of (almost) no weight. Overwrites its arguments.
    """
    tiny = torch.finfo(x.dtype).tiny
    total = weight.sum(-1, keepdim=True)
    whole = total.clamp(min=tiny)
    mean = (weight * x).sum(-1, keepdim=True) / whole
    x = x.sub_(mean)
    product = weight.mul_(x)
    moments = [product.mul_(x).sum(-1, keepdim=True) / whole for _ in range(4)]
    spread = moments[0].sqrt().clamp(min=1e-12)
    skewness, kurtosis, fifth = (
        moment / spread**power for power, moment in zip((3, 4, 5), moments[1:], strict=True)
    )
    # Jacobi matrix [[0, 1, 0], [1, skewness, beta], [0, beta, last]] of the standardised measure. Two points
    # make beta 0; the floor keeps the third node apart, at a weight of the size of the floor.
    square = (kurtosis - skewness.square() - 1).clamp(min=1e-5)
    last = (fifth - 2 * skewness * kurtosis + skewness**3) / square
    last = torch.minimum(torch.maximum(last, -mean / spread), (1 - mean) / spread)
    node = _cubic_roots(-(skewness + last), skewness * last - 1 - square, last)
    share = 1 / (1 + node.square() + (node.square() - skewness * node - 1).square() / square)
    # Where no key is left all nodes are empty, and their place must only be one that can be divided by.
    return (mean + spread * node).clamp(min=1e-6, max=1), share * total


def _cubic_roots(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The roots of x^3 + b x^2 + c x + d, known to be real: (..., 1) each -> (..., 3)."""
    centre = -b / 3
    radius = 2 * ((b.square() / 3 - c).clamp(min=0) / 3).sqrt()
    value = -(2 * b**3 / 27 - b * c / 3 + d)
    angle = torch.acos((4 * value / radius**3).clamp(-1, 1)) / 3
    turns = torch.arange(3, dtype=b.dtype, device=b.device) * (2 * math.pi / 3)
    return centre + radius * torch.cos(angle - turns)
