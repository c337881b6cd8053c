"""What the scores of randomly masked attention rows average to, without drawing masks.

The masked rows of a key meet only in their normalisers, and a normaliser S is a sum of independent terms:
its Laplace transform E[e^{-tS}] is a product over keys. All else is quadrature over a logarithmic grid of t.

Random masks see a row only through sums over its keys, `sum_j f(e^{s_j})` with smooth `f`. Gauss quadrature
turns such a sum into one over a few nodes: effective keys with real-valued multiplicities. Where the largest
keys rule a row, they stand for themselves, and effective keys for the rest.

docs/bansa.md holds the derivation; the symbols are the same.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from seedbed.attention.logits import EXCLUDED

# Entries of what is worked on at a time; on a CPU this should stay in the cache.
_ENTRIES_CPU = 2**17
_ENTRIES_ELSEWHERE = 2**23
# The same for masks on the logits, in rows.
_ROWS_CPU = 2**11
_ROWS_ELSEWHERE = 2**17

# The smallest normaliser that is resolved, as a share of the largest: in ordinary rows, and in rows of which
# the larger keys may all be dropped.
_ORDINARY, _SHARP = 1e-3, 1e-6
_ORDINARY_LOGITS, _SHARP_LOGITS = 4e-3, 1e-9
# How many keys stand for themselves in rows of the latter kind.
_APART = 8
# Calls this short keep all their keys: attention over the frames of a video, in particular.
_SHORT = 16


def expected_of_probabilities(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks on the probabilities that keep at least one key: (rows, keys) -> (rows,). Overwrites logits."""
    if excluded is None:
        keys = logits.new_full((1, 1), logits.shape[-1]).expand(1, len(logits))
    else:
        keys = (~excluded).sum(-1).to(logits.dtype).clamp_(min=1)[None]
    # Of the masks that keep something, the part that keeps a given key.
    kept = keep / -torch.expm1(keys * math.log1p(-keep))
    if logits.shape[-1] <= _SHORT:
        nodes = _effective_probabilities(logits, logits.shape[-1])
        return _disagreement(masks, keep, _SHARP, *nodes, kept)
    share, count = _effective_probabilities(logits, 0)
    scores = _disagreement(masks, keep, _ORDINARY, share, count, kept)
    # Chernoff: P(S < s) <= e E[e^{-S/s}]. Rows where that is below e^-3 (and the chance itself much lower) do
    # with this. The others, and rows of few keys in a longer call, are few enough to be done again with care.
    transform = (share / -_ORDINARY).expm1_().mul_(keep).log1p_().mul_(count).sum(0)
    again = (~(transform < -4) | (keys[0] <= _SHORT)).nonzero().squeeze(1)
    if len(again):
        nodes = _effective_probabilities(logits[again], _APART)
        scores[again] = _disagreement(masks, keep, _SHARP, *nodes, kept[:, again])
    return scores


def _disagreement(
    masks: int, keep: float, smallest: float, share: Tensor, count: Tensor, kept: Tensor
) -> Tensor:
    """(nodes, rows), (nodes, rows), (1, rows) -> (rows,)."""
    t, bound, inverse, constant, quadrature = _reciprocal_grid(smallest, share.dtype, share.device)
    entries = _ENTRIES_CPU if share.device.type == "cpu" else _ENTRIES_ELSEWHERE
    limit = max(1, entries // (len(share) * len(t)))
    scores = []
    for a, n, p in zip(share.split(limit, 1), count.split(limit, 1), kept.split(limit, 1), strict=True):
        # Every name but those of the grid holds a quantity less its value at t = 0 or u = 0: small
        # differences count, and rounding must not eat them. Shapes: (nodes, t or u, rows).
        factor = torch.mul(a[:, None], -t).expm1_().mul_(keep)
        whole = factor.log1p().mul_(n[:, None]).sum(0).expm1_()
        # E[e^{-tS}] given that the key is kept: its own factor is e^{-t a}, no longer random.
        own = factor.div_(factor + 1).mul_((whole + 1).mul_(p * ((1 - keep) / keep)))
        # E[e^{-u/S}] from it; S is at least the key's own share a, which bounds the fall by u / a.
        change = (inverse @ own).add_((inverse @ whole).sub_(constant).mul_(p)).clamp_(-1, 0)
        change = torch.maximum(change, bound * (p / a)[:, None], out=change)
        agreement = quadrature @ change.log1p().mul_(masks).expm1_().sub_(change, alpha=masks)
        scores.append(math.log(masks) - (agreement.squeeze(1).mul_(a).mul_(n)).sum(0) / masks)
    return torch.cat(scores)


@cache
def _reciprocal_grid(smallest: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Nodes t, -u, and weights: e^{-u/S} - 1 = sum_t inverse[u, t] (e^{-tS} - 1) - constant[u].

    On a logarithmic scale both sides are steps of the same shape that run against one another, so the fit is
    well-conditioned: good to about 1e-3 for a single S in [smallest, 1]. `quadrature` integrates over
    du / u^2 from 0 to infinity, given that the integrand starts as u^2 and ends constant.
    """
    # Found by search: the cheapest grids whose scores are good to 4e-5 in the ordinary rows of K = 10 and
    # keep = 0.2, and to 2e-4 over sharpness, keys, masks and keep (root mean square).
    step_t, step_u = 0.9, 1.1
    t = torch.arange(math.log(0.2), math.log(8 / smallest) + step_t, step_t, dtype=torch.float64).exp()
    u = torch.arange(math.log(0.1 * smallest), math.log(5) + step_u, step_u, dtype=torch.float64).exp()
    s = torch.linspace(math.log(smallest / 50), 0, 1500, dtype=torch.float64).exp()[:, None]
    trust = torch.ones_like(s, dtype=torch.float32).masked_fill_(s < smallest, 0.1)
    basis = torch.cat([torch.expm1(-s * t), -torch.ones_like(s)], 1)
    ridge = 1e-6 * math.sqrt(len(s)) * torch.eye(len(t) + 1, dtype=torch.float64)
    target = torch.cat([torch.expm1(-u / s) * trust, torch.zeros(len(t) + 1, len(u), dtype=torch.float64)])
    fit = torch.linalg.lstsq(torch.cat([basis * trust, ridge]), target).solution
    quadrature = step_u / u
    quadrature[[0, -1]] *= 1 + 1 / math.expm1(step_u)
    parts = (t[:, None], -u[:, None], fit[:-1].T.contiguous(), fit[-1][:, None], quadrature[None])
    return tuple(part.to(device, dtype) for part in parts)


def expected_of_logits(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks that set logits to 0: (rows, keys) -> (rows,). Overwrites logits."""
    dtype = logits.dtype
    # In float64 from here: the score is a small difference of moments.
    size, count, zero = (part.double() for part in _effective_logits(logits, excluded, keep))
    largest = (count * torch.maximum(size, zero)).sum(0)
    # Never 0, for both are divided by.
    size, zero = (size / largest).clamp(min=1e-30), (zero / largest).clamp(min=1e-30)
    # No normaliser falls below this.
    least = (count * torch.minimum(size, zero)).sum(0)
    parts = (size, zero, count)
    limit = _ROWS_CPU if size.device.type == "cpu" else _ROWS_ELSEWHERE
    pieces = zip(*(part.split(limit, 1) for part in parts), strict=True)
    scores = torch.cat([_logit_disagreement(masks, keep, _ORDINARY_LOGITS, *piece) for piece in pieces])
    sharp = (~(least > _ORDINARY_LOGITS)).nonzero().squeeze(1)
    for some in sharp.split(limit) if len(sharp) else ():
        piece = tuple(part[:, some] for part in parts)
        scores[some] = _logit_disagreement(masks, keep, _SHARP_LOGITS, *piece)
    return scores.to(dtype)


def _logit_disagreement(
    masks: int, keep: float, smallest: float, size: Tensor, zero: Tensor, count: Tensor
) -> Tensor:
    """(nodes, rows), (1, rows), (nodes, rows) -> (rows,)."""
    t, weights = _moment_grid(smallest, size.device)
    grows = size > zero
    low, gap = torch.minimum(size, zero), (size - zero).abs()
    # Shapes from here: (nodes, t or moments or chosen, rows).
    fall = torch.expm1(gap[:, None] * -t)
    likely = torch.full_like(size, 1 - keep, dtype=torch.float32).masked_fill_(grows, keep)
    factor = torch.log1p(likely[:, None] * fall)
    # The floor keeps every normaliser within the longest grid.
    least = (count * low).sum(0) + _SHARP_LOGITS
    whole = (count[:, None] * factor).sum(0) - t * least
    lower = (whole - factor).exp_()
    lower, upper = _cumulants(weights @ lower), _cumulants(weights @ fall.add_(1).mul_(lower))
    kept = torch.where(grows[:, None], upper, lower)
    dropped = torch.where(grows[:, None], lower, upper)

    chosen = torch.arange(masks + 1, dtype=size.dtype, device=size.device)[:, None]
    orders = math.lgamma(masks + 1) - torch.lgamma(chosen + 1) - torch.lgamma(masks + 1 - chosen)
    chance = (orders + chosen * math.log(keep) + (masks - chosen) * math.log1p(-keep)).exp()
    mean, variance, third = (
        chosen * (size**power * kept[:, power - 1])[:, None]
        + (masks - chosen) * (zero**power * dropped[:, power - 1])[:, None]
        for power in (1, 2, 3)
    )
    total = _entropic(mean, variance, third)
    single = torch.zeros_like(size)
    for number, probability, value, moments in (
        (chosen, keep, size, kept),
        (masks - chosen, 1 - keep, zero, dropped),
    ):
        first = value * moments[:, 0]
        exact = value * moments[:, 3] + torch.xlogy(value, value) * moments[:, 0]
        single = single + probability * exact
        # What the cubic misses of a single term is known. It is a matter of the fourth cumulant: of a sum of
        # terms it misses the sum of that, measured by the cube of the mean.
        missed = exact - _entropic(first, value**2 * moments[:, 1], value**3 * moments[:, 2])
        total = total + number * (missed * first**3)[:, None] / mean**3
    mixed = (chance.T @ (total - mean * math.log(masks))).squeeze(1) / masks
    return (count * (single - mixed)).sum(0)


def _entropic(mean: Tensor, variance: Tensor, third: Tensor) -> Tensor:
    """E[T log T] of a positive T from its cumulants: the cubic through log E[T^n] at n = 0, 1, 2, 3."""
    spread = variance / mean.square()
    return mean * (mean.log() + spread.log1p() - (3 * spread + third / mean**3).log1p() / 6)


def _cumulants(moments: Tensor) -> Tensor:
    """Mean, variance and third central moment in place of the first three raw ones, (nodes, 4, rows)."""
    first, second, third, other = moments.unbind(1)
    variance = second - first.square()
    return torch.stack([first, variance, third - first * (3 * variance + first.square()), other], 1)


@cache
def _moment_grid(smallest: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes t and weights (4, t) that turn e^{-tS} into 1/S, 1/S^2, 1/S^3 and -log(S)/S.

    For S in [smallest, 1], to a relative 1e-7 (1/S^3).
    """
    step = 0.4
    t = torch.arange(math.log(0.1), math.log(25 / smallest) + step, step, dtype=torch.float64).exp()
    s = torch.linspace(math.log(smallest), 0, 2500, dtype=torch.float64).exp()[:, None]
    ridge = 1e-9 * math.sqrt(len(s)) * torch.eye(len(t), dtype=torch.float64)
    columns = []
    for power, target in ((1, 1 / s), (2, 1 / s**2), (3, 1 / s**3), (1, -s.log() / s)):
        # Relative errors count, and the coefficients are of the size of t^power.
        basis = torch.exp(-s * t) * (s * t) ** power
        wanted = torch.cat([target * s**power, torch.zeros(len(t), 1, dtype=torch.float64)])
        columns.append(torch.linalg.lstsq(torch.cat([basis, ridge]), wanted).solution[:, 0] * t**power)
    return t[:, None].to(device), torch.stack(columns).to(device)


def _effective_probabilities(logits: Tensor, apart: int) -> tuple[Tensor, Tensor]:
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


def _effective_logits(logits: Tensor, excluded: Tensor | None, keep: float) -> tuple[Tensor, Tensor, Tensor]:
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
    if logits.shape[-1] <= _SHORT:
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
