"""Stands a few effective keys in for all keys of an attention row, matched in the moments that matter.

Random masks see a row only through sums over its keys, `sum_j f(e^{s_j})` with smooth `f`. Gauss quadrature
turns such a sum into one over a few nodes: the largest key stands for itself (it alone can rule a row), and
three effective keys with real-valued multiplicities take over the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows this short keep all their keys: attention over the frames of a video, in particular.
SHORT = 16


def effective_probabilities(logits: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    """Effective keys for sums over the sizes `e^{s - max s}` of a row, such as a row's normaliser.

    Exact are the sums of `size^(3/4 + k/4)` for k = 0..5, among them those of size and size^2: the fourth
    root lets three nodes span keys that differ by orders of magnitude.

    Args:
        logits: (..., keys). Overwritten.
        excluded: bool, (..., keys), or None.

    Returns:
        size, count: (..., nodes) each; how large each effective key is, and how many keys it stands for.
    """
    largest = logits.max(-1, keepdim=True)
    relative = logits.sub_(largest.values)
    if logits.shape[-1] <= SHORT:
        return relative.exp_(), _all_keys(logits, excluded)
    root = relative.mul_(0.25).exp_()
    # The largest key stands for itself; the sums run over the others alone, which may be tiny beside it.
    weight = (root * root).mul_(root).scatter_(-1, largest.indices, 0)
    one = torch.ones_like(largest.values)
    # 1e-6 stands for e^-55: nothing, but it can be divided by.
    node, share = _gauss(root, weight, one)
    node = node.clamp(min=1e-6)
    return torch.cat([one, node.square().square()], -1), torch.cat([one, share / node**3], -1)


def effective_logits(logits: Tensor, excluded: Tensor | None, keep: float) -> tuple[Tensor, Tensor, Tensor]:
    """Effective keys for sums over keys of which each is either e^s or, masked, 1 = e^0.

    Exact are the sums of `sqrt(keep e^s + 1 - keep) * log(1 + e^{s/2})^k` for k = 0..5: what a row makes of a
    key levels off below s = 0 and grows like s e^s above it.

    Returns:
        size, count: (..., nodes), as above, but relative to `e^base`.
        zero: (..., 1), the relative size e^-base of a masked key; base is the largest logit, or 0.
    """
    largest = logits.max(-1, keepdim=True)
    base = largest.values.clamp(min=0)
    zero = (-base).exp()
    if logits.shape[-1] <= SHORT:
        return logits.sub_(base).exp_(), _all_keys(logits, excluded), zero
    first = (largest.values - base).exp()
    weight = (logits - base).exp_().mul_(keep).add_((1 - keep) * zero).sqrt_()
    if excluded is not None:
        weight = weight.masked_fill_(excluded, 0)
    weight.scatter_(-1, largest.indices, 0)
    x = torch.nn.functional.softplus(logits.mul_(0.5))
    node, share = _gauss(x, weight, torch.nn.functional.softplus(largest.values / 2))
    size = (torch.expm1(-node) * (node - base / 2).exp()).square()
    count = share / (keep * size + (1 - keep) * zero).sqrt().clamp(min=torch.finfo(size.dtype).tiny)
    return torch.cat([first, size], -1), torch.cat([torch.ones_like(first), count], -1), zero


def _all_keys(logits: Tensor, excluded: Tensor | None) -> Tensor:
    return torch.ones_like(logits) if excluded is None else (~excluded).to(logits.dtype)


def _gauss(x: Tensor, weight: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Three-point Gauss quadrature of the measure `weight` on points x in [0, most], row by row.

    Returns nodes and weights, each (..., 3), that match the sums of weight * x^k for k = 0..5. Central
    moments keep their digits when the points lie close together. Rows of fewer than three distinct points
    get nodes of (almost) no weight. Overwrites its arguments.
    """
    total = weight.sum(-1, keepdim=True)
    whole = total.clamp(min=torch.finfo(x.dtype).tiny)
    mean = (weight * x).sum(-1, keepdim=True) / whole
    x = x.sub_(mean)
    product = weight.mul_(x)
    second, third, fourth, fifth = (product.mul_(x).sum(-1, keepdim=True) / whole for _ in range(4))
    spread = second.sqrt().clamp(min=1e-6)
    skewness, kurtosis, fifth = third / spread**3, fourth / spread**4, fifth / spread**5
    # Jacobi matrix [[0, 1, 0], [1, skewness, beta], [0, beta, last]] of the standardised measure. Two points
    # make beta 0; the floor keeps the third node apart, at a weight of the size of the floor.
    square = (kurtosis - skewness.square() - 1).clamp(min=1e-5)
    last = (fifth - 2 * skewness * kurtosis + skewness**3) / square
    last = torch.minimum(torch.maximum(last, -mean / spread), (most - mean) / spread)
    node = _cubic_roots(-(skewness + last), skewness * last - 1 - square, last)
    share = 1 / (1 + node.square() + (node.square() - skewness * node - 1).square() / square)
    return torch.minimum((mean + spread * node).clamp(min=0), most), share * total


def _cubic_roots(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The roots of x^3 + b x^2 + c x + d, known to be real: (..., 1) each -> (..., 3)."""
    centre = -b / 3
    radius = 2 * ((b.square() / 3 - c).clamp(min=0) / 3).sqrt()
    value = -(2 * b**3 / 27 - b * c / 3 + d)
    angle = torch.acos((4 * value / radius**3).clamp(-1, 1)) / 3
    turns = torch.arange(3, dtype=b.dtype, device=b.device) * (2 * math.pi / 3)
    return centre + radius * torch.cos(angle - turns)
