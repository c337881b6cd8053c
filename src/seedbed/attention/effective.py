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
        logits: (rows, keys). Overwritten.
        excluded: bool, (rows, keys), or None.

    Returns:
        size, count: (nodes, rows) each; how large each effective key is, and how many keys it stands for.
    """
    largest, at = logits.max(-1, keepdim=True)
    relative = logits.sub_(largest)
    if logits.shape[-1] <= SHORT:
        return relative.exp_().T.contiguous(), _all_keys(logits, excluded)
    root = relative.mul_(0.25).exp_()
    # The largest key stands for itself; the sums run over the others alone, which may be tiny beside it.
    weight = (root * root).mul_(root).scatter_(-1, at, 0)
    one = torch.ones_like(largest.T)
    node, share = _gauss(root, weight, one)
    # 1e-6 stands for e^-55: nothing, but it can be divided by.
    node = node.clamp_(min=1e-6)
    square = node * node
    return torch.cat([one, square * square]), torch.cat([one, share.div_(square.mul_(node))])


def effective_logits(logits: Tensor, excluded: Tensor | None, keep: float) -> tuple[Tensor, Tensor, Tensor]:
    """Effective keys for sums over keys of which each is either e^s or, masked, 1 = e^0.

    Exact are the sums of `sqrt(keep e^s + 1 - keep) * log(1 + e^{s/2})^k` for k = 0..5: what a row makes of a
    key levels off below s = 0 and grows like s e^s above it.

    Returns:
        size, count: (nodes, rows), as above, but relative to `e^base`.
        zero: (1, rows), the relative size e^-base of a masked key; base is the largest logit, or 0.
    """
    largest, at = logits.max(-1, keepdim=True)
    base = largest.clamp(min=0)
    zero = (-base).exp()
    if logits.shape[-1] <= SHORT:
        return logits.sub_(base).exp_().T.contiguous(), _all_keys(logits, excluded), zero.T
    weight = (logits - base).exp_().mul_(keep).add_((1 - keep) * zero).sqrt_()
    if excluded is not None:
        weight = weight.masked_fill_(excluded, 0)
    weight.scatter_(-1, at, 0)
    x = torch.nn.functional.softplus(logits.mul_(0.5))
    largest, base, zero = largest.T, base.T, zero.T
    node, share = _gauss(x, weight, torch.nn.functional.softplus(largest / 2))
    size = (torch.expm1(-node) * (node - base / 2).exp()).square()
    count = share / (keep * size + (1 - keep) * zero).sqrt().clamp(min=torch.finfo(size.dtype).tiny)
    first = (largest - base).exp()
    return torch.cat([first, size]), torch.cat([torch.ones_like(first), count]), zero


def _all_keys(logits: Tensor, excluded: Tensor | None) -> Tensor:
    return torch.ones_like(logits.T) if excluded is None else (~excluded.T).to(logits.dtype)


def _gauss(x: Tensor, weight: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Three-point Gauss quadrature of the measure `weight` on points x in [0, most], row by row.

    Takes (rows, keys), (rows, keys) and (1, rows); the first two are overwritten. Returns nodes and weights,
    (3, rows) each, that match the sums of weight * x^k for k = 0..5. Central moments keep their digits when
    the points lie close together. Rows of fewer than three distinct points get nodes of (almost) no weight.
    """
    total = weight.sum(-1)
    whole = total.clamp(min=torch.finfo(x.dtype).tiny)
    mean = (weight * x).sum(-1).div_(whole)
    x = x.sub_(mean[:, None])
    product = weight.mul_(x)
    second, third, fourth, fifth = (product.mul_(x).sum(-1).div_(whole) for _ in range(4))
    spread = second.sqrt().clamp_(min=1e-6)
    square = spread * spread
    skewness = third.div_(square * spread)
    kurtosis = fourth.div_(square * square)
    fifth = fifth.div_(square * square * spread)
    # Jacobi matrix [[0, 1, 0], [1, skewness, beta], [0, beta, last]] of the standardised measure. Two points
    # make beta 0; the floor keeps the third node apart, at a weight of the size of the floor.
    beta = (kurtosis - skewness * skewness - 1).clamp_(min=1e-5)  # squared
    last = (fifth - skewness * (2 * kurtosis - skewness * skewness)).div_(beta)
    last = torch.minimum(torch.maximum(last, -mean / spread), (most[0] - mean).div_(spread))
    node = _cubic_roots(-(skewness + last), skewness * last - 1 - beta, last)
    square = node * node
    share = 1 / (square - skewness * node - 1).square_().div_(beta).add_(square).add_(1)
    return torch.minimum((node.mul_(spread).add_(mean)).clamp_(min=0), most), share.mul_(total)


def _cubic_roots(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The roots of x^3 + b x^2 + c x + d, known to be real: (rows,) each -> (3, rows)."""
    centre = b / -3
    square = centre * centre
    radius = 2 * (square - c / 3).clamp_(min=0).sqrt_()
    value = 2 * centre * square - centre * c - d
    angle = (4 * value / (radius * radius * radius)).clamp_(-1, 1).acos_().div_(3)
    turns = torch.arange(3, dtype=b.dtype, device=b.device)[:, None] * (2 * math.pi / 3)
    return centre + radius * torch.cos(angle - turns)
