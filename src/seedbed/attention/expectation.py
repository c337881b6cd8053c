"""What the scores of randomly masked attention rows average to, without drawing masks.

The masked rows of a key meet only in their normalisers, and a normaliser S is a sum of independent terms:
its Laplace transform E[e^{-tS}] is a product over keys. All else is quadrature over a logarithmic grid of t.

Random masks see a row only through sums over its keys, `sum_j f(e^{s_j})` with smooth `f`. The largest keys
stand for themselves. For the others Gauss quadrature turns such a sum into one over three nodes: effective
keys with real-valued multiplicities.

No step has a threshold: every row has the same grid, and rows that want more keys apart pass over to them by
degrees. So the score is a continuous function of the logits: where these differ by rounding, so do scores.

docs/bansa.md holds the derivation; the symbols are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Entries of what is worked on at a time; on a CPU this should stay in the cache.
_ENTRIES_CPU = 2**17
_ENTRIES_ELSEWHERE = 2**23

Grid = tuple[float, float, float, float]

# The smallest part of a normaliser that is resolved, and its logarithm: smaller keys count as of that size.
_SMALLEST = 2e-7
_FLOOR = math.log(_SMALLEST)
# The same of masks on the logits, where it keeps a masked key from vanishing beside the largest.
_LEAST, _FLOOR_LOGITS, _UNIT = 1e-12, -20.0, 3e-5
# How many keys stand for themselves in rows whose larger keys may all be dropped. In calls this short all do:
# attention over the frames of a video, in particular.
_APART, _SHORT = 8, 16
# Grids of t and u, on a logarithmic scale: the smallest S that is resolved, the step, and how far beyond the
# inverse of the smallest S the nodes of u and of t go. Coarse is for rows that resolve no more, most rows.
_FINE, _COARSE = (_SMALLEST, 0.7, 200, 700), (1e-3, 0.9, 200, 100)
# Where the products t u lie within a step: this makes the weights fall off fastest.
_OFFSET = 0.95


def expected_of_probabilities(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks on the probabilities that keep at least one key: (rows, keys) -> (rows,). Overwrites logits."""
    # In the fourth root, three nodes span keys that differ by orders of magnitude.
    top, largest = logits.max(-1, keepdim=True)
    root = logits.sub_(top).clamp_(min=_FLOOR).mul_(0.25).exp_()
    if excluded is None:
        keys = root.new_full((len(root),), root.shape[-1])
    else:
        root.masked_fill_(excluded, 0)
        keys = (~excluded).sum(-1).to(root.dtype)
    short = root.shape[-1] <= _SHORT
    scores, small = _of_roots(root, keys, largest, _FINE if short else _COARSE, masks, keep)
    if not short:
        # Rows of which all the larger keys may be dropped, and those of few keys, want more of them apart.
        # They get so by degrees, and in float64: the moments of few, very different keys forgive no rounding.
        care = torch.where(keys <= _SHORT, 1, (2 * (small + 4)).clamp_(0, 1))
        again = care.nonzero().squeeze(1)
        if len(again):
            root = root[again]
            apart = root.topk(_APART, -1).indices
            careful, _ = _of_roots(root.double(), keys[again], apart, _FINE, masks, keep)
            scores[again] = torch.lerp(scores[again], careful, care[again])
    return scores


def _of_roots(
    root: Tensor, keys: Tensor, apart: Tensor, grid: Grid, masks: int, keep: float
) -> tuple[Tensor, Tensor]:
    """Scores, and log E[e^{-1000 S}], by which Chernoff's P(S < 1e-3) <= e E[e^{-1000 S}], (rows,) each.

    The latter is that of keep = 0.2 where keep is higher: a row ruled by few keys is hard for float32, too.

    Args:
        root: (rows, keys), fourth roots of the probabilities but for a factor; 0 where excluded.
        keys: (rows,), how many are not.
        apart: as `_effective` has it.
    """
    node, share = (part.to(keys.dtype) for part in _effective(root, root * root, apart))
    square = (node * node).clamp_(min=_SMALLEST)
    size, count = square * square, (share / square).clamp_(max=root.shape[-1])
    size.div_((size * count).sum(0).clamp_(min=_SMALLEST)).clamp_(min=_SMALLEST)
    # Of the masks that keep something, the part that keeps a given key.
    kept = keep / -torch.expm1(keys.clamp(min=1) * math.log1p(-keep))
    t, weights, quadrature = _grid(grid, size.dtype, size.device)
    scores = []
    for a, n, p in _pieces(len(size) * len(t), size, count, kept[None]):
        # Logarithms of Laplace transforms, (t, nodes, rows): of the normaliser less one key, which is kept.
        exponent = -t[:, None] * a
        factor = exponent.expm1().mul_(keep).log1p_()
        exponent.add_((factor * n).sum(1, keepdim=True)).sub_(factor)
        scores.append(_score(masks, _fall(weights, exponent).mul_(p), quadrature, a * n))
    return torch.cat(scores), (size * -1e3).expm1_().mul_(min(keep, 0.2)).log1p_().mul_(count).sum(0)


def expected_of_logits(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks that set logits to 0: (rows, keys) -> (rows,). Overwrites logits."""
    # A key is e^s or, masked, 1 = e^0. What a row makes of a key levels off below s = 0.
    top, largest = logits.max(-1, keepdim=True)
    top.add_(_FLOOR_LOGITS).clamp_(min=0)
    x = torch.nn.functional.softplus(logits.sub_(top).mul_(0.5))
    weight = x.expm1().pow_(2).mul_(keep).add_(1 - keep).sqrt_()
    if excluded is not None:
        weight = weight.masked_fill_(excluded, 0)
    # In float64, for the reason given above: here it holds for more rows.
    node, share = (part.to(x.dtype) for part in _effective(x.double(), weight.double(), largest))
    size = node.expm1().square_()
    count = share.div_((size * keep + (1 - keep)).sqrt_()).clamp_(max=x.shape[-1])
    t, weights, quadrature = _grid(_FINE, size.dtype, size.device)
    t, quadrature = t * _UNIT, quadrature * _UNIT
    whole = (size.clamp(min=1) * count).sum(0, keepdim=True).clamp_(min=1)
    size, masked = size.div_(whole).clamp_(min=_LEAST), 1 / whole
    scores = []
    for v, m, n in _pieces(len(size) * (len(size) + 1) * len(t), size, masked, count):
        # As above, (t, grids, nodes, rows). A term v / S asks for a grid of its own for every v: first that
        # of a masked key, then those of the others.
        scale = (t[:, None] / torch.cat([m, v]))[:, :, None]
        likely = torch.full_like(v, 1 - keep).masked_fill_(v > m, keep)
        factor = (scale * -(v - m).abs_()).expm1_().mul_(likely).log1p_()
        factor.sub_(scale * torch.minimum(v, m))
        whole = (factor * n).sum(2)
        dropped = (whole[:, :1] - factor[:, 0]).sub_(t[:, None])
        kept = (whole[:, 1:] - torch.einsum("tjjr->tjr", factor[:, 1:])).sub_(t[:, None])
        fall = _fall(weights, kept).mul_(keep).add_(_fall(weights, dropped), alpha=1 - keep)
        scores.append(_score(masks, fall, quadrature, n))
    return torch.cat(scores)


def _fall(weights: Tensor, exponent: Tensor) -> Tensor:
    """1 - E[e^{-u/S}] from log E[e^{-tS}], (t, nodes, rows) -> (u, nodes, rows). Overwrites the latter."""
    # Nothing so small that processors slow down.
    return (weights @ exponent.clamp_(min=-60).exp_().flatten(1)).view(len(weights), *exponent.shape[1:])


def _score(masks: int, fall: Tensor, quadrature: Tensor, parts: Tensor) -> Tensor:
    """1 - E[e^{-uX}] for every u and key, (u, nodes, rows) -> (rows,); `parts` (nodes, rows) weighs the keys.

    With f = 1 - E[e^{-uX}] of a single mask, integrates (1 - f)^K - 1 + K f over du / u^2. That is f^2 times
    a polynomial in 1 - f whose terms are all positive: no digit is lost where f is small.
    """
    fall.clamp_(0, 1)
    stays = 1 - fall
    series = stays + 2 if masks > 2 else torch.ones_like(fall)
    for coefficient in torch.arange(masks, dtype=fall.dtype, device=fall.device)[3:]:
        torch.addcmul(coefficient, series, stays, out=series)
    agreement = quadrature @ series.mul_(fall).mul_(fall).flatten(1)
    return math.log(masks) - agreement.view_as(parts).mul_(parts).sum(0) / masks


def _pieces(entries: int, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of (anything, rows) tensors, so that work with `entries` numbers a row stays in the cache."""
    most = _ENTRIES_CPU if parts[0].device.type == "cpu" else _ENTRIES_ELSEWHERE
    return zip(*(part.split(max(1, most // entries), 1) for part in parts), strict=True)


@cache
def _grid(grid: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (t, 1) and weights (u, t) of 1 - e^{-u/S} = sum_t weights[u, t] e^{-tS}, and (u,) `quadrature`.

    For S from the smallest of the grid to 1. On a logarithmic scale both sides are steps of the same shape
    that run against one another, so that weights depend on t u alone. Least squares over all S > 0, with
    errors relative to S^{-1/2}, are a quotient of Mellin transforms, Gamma functions, summed over the aliases
    of the grid.
    `quadrature` integrates over du / u^2 from 0 to infinity, given that the integrand starts as u^2 and ends
    constant. A closed form, so that every process has the same digits.
    """
    smallest, step, beyond_u, beyond_t = grid
    last = 10.0
    u = last * np.exp(-step * np.arange(math.ceil(math.log(beyond_u / smallest) / step))[::-1])
    first = math.floor(math.log(0.012 * last) / step)
    # Nodes below the first that is kept are folded into the first two, which e^{-tS} = 1 - tS permits.
    below = 30
    place = first - below + np.arange(below + math.ceil(math.log(beyond_t / smallest) / step) + 1) + _OFFSET
    t = np.exp(step * place) / last
    log_product = np.log(u[:, None] * t)
    # A midpoint rule for the inverse transform, trapezoids in log x for the gamma functions of 1/2 + iw.
    log_x = np.arange(-100, 6, 0.02)
    density = 0.02 * np.exp(log_x / 2 - np.exp(log_x))
    frequency = (np.arange(128) + 0.5) / 128 * 2 * np.pi / step - np.pi / step
    above, norm = np.zeros(128, complex), np.zeros(128)
    for alias in range(-2, 3):
        w = frequency + 2 * np.pi * alias / step
        gamma = (density * np.exp(1j * w[:, None] * log_x)).sum(-1)
        above += gamma.conj() ** 2 / (0.5 + 1j * w) * np.exp(2j * np.pi * alias * _OFFSET)
        norm += np.abs(gamma) ** 2
    waves = np.exp(1j * frequency * log_product[..., None])
    weights = (above / norm * waves).mean(-1).real * np.exp(log_product / 2)
    head, t, weights = weights[:, :below], t[below:], weights[:, below:]
    low = np.exp(step * place[:below]) / last
    tilt = (head * (low - t[0])).sum(-1) / (t[1] - t[0])
    weights[:, 0] += head.sum(-1) - tilt
    weights[:, 1] += tilt
    quadrature = step / u
    quadrature[[0, -1]] *= 1 + 1 / math.expm1(step)
    parts = (t[:, None], weights, quadrature)
    return tuple(torch.from_numpy(part).to(device, dtype) for part in parts)  # type: ignore[return-value]


def _effective(x: Tensor, weight: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """Effective keys for sums over keys, whose sums of `weight * x^k` for k = 0..5 are exact.

    Takes (rows, keys), overwrites the second, and returns x and weight of each effective key, (nodes, rows):
    all of a short call; else the largest, whose indices `apart` has, and three for the rest.
    """
    if x.shape[-1] <= _SHORT:
        return x.T.contiguous(), weight.T.contiguous()
    largest, first = x.gather(-1, apart).T, weight.gather(-1, apart).T
    node, share = _gauss(x, weight.scatter_(-1, apart, 0), largest[-1])
    return torch.cat([largest, node]), torch.cat([first, share])


def _gauss(x: Tensor, weight: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Three-point Gauss quadrature of the measure `weight` on points x in [0, most], row by row.

    Takes (rows, keys), (rows, keys) and (rows,); the second is overwritten. Returns nodes and weights,
    (3, rows) each, that match the sums of weight * x^k for k = 0..5. Central moments keep their digits when
    the points lie close together. Rows of fewer than three distinct points get nodes of (almost) no weight.
    """
    total = weight.sum(-1)
    whole = total.clamp(min=torch.finfo(x.dtype).tiny)
    mean = (weight * x).sum(-1).div_(whole).clamp_(min=1e-9)
    # In units of the mean, so that no power underflows.
    x = x.div(mean[:, None]).sub_(1)
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
