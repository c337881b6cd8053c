"""What the scores of randomly masked attention rows average to, without drawing masks.

The masked rows of a key meet only in their normalisers, and a normaliser S is a sum of independent terms:
its Laplace transform E[e^{-tS}] is a product over keys. All else is quadrature over a logarithmic grid of t.
docs/bansa.md holds the derivation; the symbols are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from seedbed.attention.effective import effective_keys

# Rows worked on at a time; on a CPU what they need should stay in the cache.
_ROWS_CPU = 2**11
_ROWS_ELSEWHERE = 2**17

# The smallest normaliser that is resolved, as a share of the largest: in ordinary rows, in rows of which the
# larger keys may all be dropped, and for masks on the logits.
_ORDINARY = 4e-3
_SHARP = 1e-6


def expected_of_probabilities(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks on the probabilities, each keeping at least one key: (..., keys) -> (...). Overwrites logits."""
    if excluded is None:
        keys = torch.full_like(logits[..., :1], logits.shape[-1])
    else:
        keys = (~excluded).sum(-1, keepdim=True).to(logits.dtype).clamp_(min=1)
    # Of the masks that keep something, the part that keeps a given key.
    kept = keep / -torch.expm1(keys * math.log1p(-keep))
    size, count, _ = effective_keys(logits, excluded)
    share = (size / (size * count).sum(-1, keepdim=True)).clamp_(min=_SHARP)
    return _by_rows(lambda *row: _of_probabilities(*row, masks, keep), share, count, kept)


def _of_probabilities(share: Tensor, count: Tensor, kept: Tensor, masks: int, keep: float) -> Tensor:
    """(rows, nodes), (rows, nodes), (rows, 1) -> (rows,)."""
    # Chernoff: P(S < s) <= e E[e^{-S/s}]. Rows where that is below e^-8 do with the short grid.
    transform = (count * torch.log1p(keep * torch.expm1(-share / _ORDINARY))).sum(-1)
    ordinary = transform < -9
    scores = torch.empty_like(transform)
    for rows, smallest in ((ordinary, _ORDINARY), (~ordinary, _SHARP)):
        at = rows.nonzero().squeeze(-1)
        if len(at):
            scores[at] = _disagreement(share[at], count[at], kept[at], masks, keep, smallest)
    return scores


def _disagreement(
    share: Tensor, count: Tensor, kept: Tensor, masks: int, keep: float, smallest: float
) -> Tensor:
    t, bound, inverse, constant, quadrature = _reciprocal_grid(smallest, share.dtype, share.device)
    # All names but those of the grid hold a quantity less its value at t = 0 or u = 0: small differences
    # count, and rounding must not eat them.
    fall = torch.expm1(share[..., None] * -t)
    factor = keep * fall
    whole = torch.expm1((count[..., None] * factor.log1p()).sum(-2, keepdim=True))
    # E[e^{-tS}] given that the key is kept: its own factor is e^{-t a}, no longer random.
    own = fall.mul_(1 - keep).div_(factor.add_(1)).mul_(whole + 1).add_(whole)
    # E[e^{-u/S}] from it; S is at least the key's own share a, which bounds the fall by u / a.
    change = (own @ inverse).sub_(constant).clamp_(-1, 0)
    change = torch.maximum(change, bound / share[..., None]).mul_(kept[..., None])
    agreement = change.log1p().mul_(masks).expm1_().div_(masks).sub_(change) @ quadrature
    return math.log(masks) - (share * count * agreement).sum(-1)


@cache
def _reciprocal_grid(smallest: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Nodes t, minus the nodes u, and weights: e^{-u/S} - 1 = sum_t (e^{-tS} - 1) inverse[t, u] - constant[u].

    On a logarithmic scale both sides are steps of the same shape that run against one another, so the fit is
    well-conditioned: good to 1e-3 for a single S in [smallest, 1], and to 1e-5 in the scores. `quadrature`
    integrates over du / u^2 from 0 to infinity, given that the integrand starts as u^2 and ends constant.
    """
    step = 0.8
    t = torch.arange(math.log(0.15), math.log(20 / smallest) + step, step, dtype=torch.float64).exp()
    u = torch.arange(math.log(0.02 * smallest), math.log(20) + step, step, dtype=torch.float64).exp()
    s = torch.linspace(math.log(smallest / 50), 0, 1500, dtype=torch.float64).exp()[:, None]
    trust = torch.where(s < smallest, 0.1, 1)
    basis = torch.cat([torch.expm1(-s * t), -torch.ones_like(s)], 1)
    ridge = 1e-6 * math.sqrt(len(s)) * torch.eye(len(t) + 1, dtype=torch.float64)
    target = torch.cat([torch.expm1(-u / s) * trust, torch.zeros(len(t) + 1, len(u), dtype=torch.float64)])
    fit = torch.linalg.lstsq(torch.cat([basis * trust, ridge]), target).solution
    quadrature = step / u
    quadrature[[0, -1]] *= 1 + 1 / math.expm1(step)
    return tuple(part.to(device, dtype) for part in (t, -u, fit[:-1], fit[-1], quadrature))


def expected_of_logits(logits: Tensor, excluded: Tensor | None, masks: int, keep: float) -> Tensor:
    """Masks that set logits to 0: (..., keys) -> (...). Overwrites logits."""
    size, count, base = effective_keys(logits, excluded, slope=keep, offset=1 - keep)
    return _by_rows(lambda *row: _of_logits(*row, masks, keep), size, count, (-base).exp())


def _of_logits(size: Tensor, count: Tensor, zero: Tensor, masks: int, keep: float) -> Tensor:
    """`zero` is the size of a key whose logit was set to 0."""
    dtype = size.dtype
    count = count.double()
    largest = (count * torch.maximum(size, zero)).sum(-1, keepdim=True)
    size, zero = size / largest, zero / largest
    t, weights = _moment_grid(size.device)
    low, gap = torch.minimum(size, zero), (size - zero).abs()
    upper = torch.where(size > zero, keep, 1 - keep)
    factor = torch.log1p(upper[..., None] * torch.expm1(-gap[..., None] * t)) - low[..., None] * t
    others = (count[..., None] * factor).sum(-2, keepdim=True) - factor
    moments = [(others - value[..., None] * t).exp() @ weights for value in (size, zero.expand_as(size))]
    chosen = torch.arange(masks + 1, dtype=torch.float64, device=size.device)
    log_odds = math.lgamma(masks + 1) - torch.lgamma(chosen + 1) - torch.lgamma(masks + 1 - chosen)
    chance = (log_odds + chosen * math.log(keep) + (masks - chosen) * math.log1p(-keep)).exp()

    mean = variance = third = torch.zeros((), dtype=torch.float64)
    single = average = torch.zeros((), dtype=torch.float64)
    for value, moment, number, probability in (
        (size, moments[0], chosen, keep),
        (zero, moments[1], masks - chosen, 1 - keep),
    ):
        first, second, cube, entropy = moment.unbind(-1)
        single = single + probability * (value * entropy + torch.xlogy(value, value) * first)
        average = average + probability * value * first
        v = second - first.square()
        c = cube - 3 * first * second + 2 * first**3
        mean = mean + (value * first)[..., None] * number
        variance = variance + (value.square() * v)[..., None] * number
        third = third + (value**3 * c)[..., None] * number
    spread = variance / mean.square()
    skew = third / mean**3
    total = mean * (mean.log() + torch.log1p(spread) - torch.log1p(3 * spread + skew) / 6)
    mixed = (total * chance).sum(-1) / masks - average * math.log(masks)
    return (count * (single - mixed)).sum(-1).to(dtype)


@cache
def _moment_grid(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes t and weights (t, 4) that turn e^{-tS} into 1/S, 1/S^2, 1/S^3 and -log(S)/S, for S in [1e-6, 1].

    In float64: the spread of a diffuse row's normaliser is a difference of almost equal moments.
    """
    step = 0.4
    t = torch.arange(math.log(0.1), math.log(25 / _SHARP) + step, step, dtype=torch.float64).exp()
    s = torch.linspace(math.log(_SHARP), 0, 2500, dtype=torch.float64).exp()[:, None]
    ridge = 1e-9 * math.sqrt(len(s)) * torch.eye(len(t), dtype=torch.float64)
    columns = []
    for power, target in ((1, 1 / s), (2, 1 / s**2), (3, 1 / s**3), (1, -s.log() / s)):
        # Relative errors count, and coefficients are of the size of t^power.
        basis = torch.exp(-s * t) * (s * t) ** power
        wanted = torch.cat([target * s**power, torch.zeros(len(t), 1, dtype=torch.float64)])
        columns.append(torch.linalg.lstsq(torch.cat([basis, ridge]), wanted).solution[:, 0] * t**power)
    return t.to(device), torch.stack(columns, 1).to(device)


def _by_rows(function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Calls `function` on a limited number of rows at a time; parts are (..., n), the result is (...)."""
    rows = _ROWS_CPU if parts[0].device.type == "cpu" else _ROWS_ELSEWHERE
    pieces = zip(*(part.flatten(0, -2).split(rows) for part in parts), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).reshape(parts[0].shape[:-1])
