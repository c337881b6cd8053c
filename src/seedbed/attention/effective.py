"""Stands a few effective keys in for all keys of an attention row, matched in the moments that matter.

Random masks see a row only through sums over its keys, `sum_j f(e^{s_j})` with smooth `f`. Gauss quadrature
turns such a sum into one over a few nodes: effective keys with real-valued multiplicities. Where the largest
keys rule a row, they stand for themselves, and effective keys for the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seedbed.attention.logits import EXCLUDED

# Calls this short keep all their keys: attention over the frames of a video, in particular.
SHORT = 16


def effective_probabilities(logits: Tensor, apart: int) -> tuple[Tensor, Tensor]:
    """Effective keys for sums over the probabilities of a row's keys, such as a row's normaliser.

    Three of them, which make the sums of `probability^(3/4 + k/4)` for k = 0..5 exact, among them those of
    probability and probability^2: the fourth root lets three nodes span keys that differ by orders of
    magnitude.

    Args:
        logits: (rows, keys).
        apart: how many of the largest keys stand for themselves, before the three.

    Returns:
        share, count: (apart + 3, rows) each, or (apart, rows) if that is all keys; the probability of each
        effective key, at least 1e-6, and how many keys it stands for.
    """
    root = (logits * 0.25).softmax(-1)
    weight = (root * root).mul_(root)
    size, count = root.new_empty(0, len(root)), root.new_empty(0, len(root))
    if apart:
        largest, at = root.topk(apart, -1)
        attends = logits.gather(-1, at) > EXCLUDED / 2  # also where the root underflowed
        size, count = largest.T.square().square(), attends.T.to(root.dtype)
        root, weight = root.scatter_(-1, at, 0), weight.scatter_(-1, at, 0)
    if apart < root.shape[-1]:
        node, share = _gauss(root, weight, torch.ones_like(root[:, 0]))
        # Nothing, but it can be divided by.
        node = node.clamp_(min=1e-6)
        square = node * node
        # A node that rounding left at zero would stand for any number of keys, and leave nothing of a score.
        rest = share.div_(square * node).clamp_(max=root.shape[-1])
        size, count = torch.cat([size, square * square]), torch.cat([count, rest])
    return size.div_((size * count).sum(0)).clamp_(min=1e-6), count


def effective_logits(logits: Tensor, excluded: Tensor | None, keep: float) -> tuple[Tensor, Tensor, Tensor]:
    """Effective keys for sums over keys of which each is either e^s or, masked, 1 = e^0.

    The largest stands for itself, for it alone can rule a row, and three more for the others. Exact are the
    sums of `sqrt(keep e^s + 1 - keep) * log(1 + e^{s/2})^k` for k = 0..5: what a row makes of a key levels
    off below s = 0 and grows like s e^s above it.

    Returns:
        size, count: (nodes, rows) each; how large each effective key is, relative to `e^base`, and how many
            keys it stands for.
        zero: (1, rows), the relative size e^-base of a masked key; base is the largest logit, or 0.
    """
    largest, at = logits.max(-1, keepdim=True)
    base = largest.clamp(min=0)
    zero = (-base).exp()
    if logits.shape[-1] <= SHORT:
        ones = torch.ones_like(logits.T) if excluded is None else (~excluded.T).to(logits.dtype)
        return logits.sub_(base).exp_().T.contiguous(), ones, zero.T
    weight = (logits - base).exp_().mul_(keep).add_((1 - keep) * zero).sqrt_()
    if excluded is not None:
        weight = weight.masked_fill_(excluded, 0)
    weight.scatter_(-1, at, 0)
    x = torch.nn.functional.softplus(logits.mul_(0.5))
    largest, base, zero = largest.T, base.T, zero.T
    node, share = _gauss(x, weight, torch.nn.functional.softplus(largest[0] / 2))
    size = (torch.expm1(-node) * (node - base / 2).exp()).square()
    count = share / (keep * size + (1 - keep) * zero).sqrt().clamp(min=torch.finfo(size.dtype).tiny)
    count = count.clamp_(max=logits.shape[-1])  # see above
    first = (largest - base).exp()
    return torch.cat([first, size]), torch.cat([torch.ones_like(first), count]), zero


def _gauss(x: Tensor, weight: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Three-point Gauss quadrature of the measure `weight` on points x in [0, most], row by row.

    Takes (rows, keys), (rows, keys) and (rows,); the first two are overwritten. Returns nodes and weights,
    (3, rows) each, that match the sums of weight * x^k for k = 0..5. Central moments keep their digits when
    the points lie close together. Rows of fewer than three distinct points get nodes of (almost) no weight.
    """
    total = weight.sum(-1)
    whole = total.clamp(min=torch.finfo(x.dtype).tiny)
    mean = (weight * x).sum(-1).div_(whole).clamp_(min=1e-9)
    # In units of the mean, so that no power underflows.
    x = x.div_(mean[:, None]).sub_(1)
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
    last = torch.minimum(torch.maximum(last, -1 / spread), (most / mean - 1).div_(spread))
    node = _cubic_roots(-(skewness + last), skewness * last - 1 - beta, last)
    square = node * node
    share = 1 / (square - skewness * node - 1).square_().div_(beta).add_(square).add_(1)
    return torch.minimum(node.mul_(spread).add_(1).clamp_(min=0).mul_(mean), most), share.mul_(total)


def _cubic_roots(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The roots of x^3 + b x^2 + c x + d, known to be real: (rows,) each -> (3, rows)."""
    centre = b / -3
    square = centre * centre
    radius = 2 * (square - c / 3).clamp_(min=0).sqrt_()
    value = 2 * centre * square - centre * c - d
    angle = (4 * value / (radius * radius * radius)).clamp_(-1, 1).acos_().div_(3)
    turns = torch.arange(3, dtype=b.dtype, device=b.device)[:, None] * (2 * math.pi / 3)
    return centre + radius * torch.cos(angle - turns)
