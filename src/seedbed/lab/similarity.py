"""How alike noise maps of frames are, and the α of the two priors of PYoCo that come closest to them.

Everything is float64, and intervals are 95 %, by a percentile bootstrap over videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import BadInput
from seedbed.noise import Mixed, Progressive
from seedbed.statistics import LEVEL, Interval

Array = NDArray[np.float64]

LEAST_FRAMES = 3  # at two both priors are the same
_MOST = 1 - 1e-9  # of a correlation: at 1 α is infinite


@dataclass(frozen=True)
class Fit:
    """The least-squares α of a prior: every pair of frames counts alike.

    Attributes:
        alpha: as of `seedbed.noise.Mixed` and `Progressive`.
        residual: root of the mean squared difference of the correlations, over pairs of frames.
    """

    alpha: Interval
    residual: Interval


@dataclass(frozen=True)
class Similarity:
    """How alike noise maps are; intervals at 95 %, by a bootstrap over videos.

    Attributes:
        same: mean cosine of two frames of a video; cross: of two videos; excess: same - cross.
        lags: correlation, over the elements of a map, of frames 1, 2, ... apart, beyond what videos share:
            (r - c)/(1 - c) with c that of two videos. A model's own bias, the same for every video, makes a c
            above 0; it is a mean of the noise, which no prior has, and not a correlation.
        mixed, progressive: the priors closest to `lags`.
        difference: residual of `mixed` minus that of `progressive`: above 0, `progressive` fits better.
    """

    same: Interval
    cross: Interval
    excess: Interval
    lags: tuple[Interval, ...]
    mixed: Fit
    progressive: Fit
    difference: Interval


def similarity(maps: Array, draws: int = 1000, seed: int = 0) -> Similarity:
    """How alike the noise maps of frames are.

    Args:
        maps: (videos, frames, elements), none of them constant.
        draws: resamples of the videos.

    Raises:
        BadInput: fewer than 2 videos or 3 frames, or numbers that are not finite.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[0] < 2 or maps.shape[1] < LEAST_FRAMES or not np.isfinite(maps).all():
        raise BadInput(f"noise maps must be finite (videos, frames, elements), not {maps.shape}")
    count, frames = maps.shape[:2]
    unit = maps / np.linalg.norm(maps, axis=2, keepdims=True)
    centred = maps - maps.mean(2, keepdims=True)
    centred /= np.linalg.norm(centred, axis=2, keepdims=True)
    lags = np.stack(
        [(centred[:, lag:] * centred[:, :-lag]).sum(2).mean(1) for lag in range(1, frames)], axis=1
    )
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    # A resample of one video alone has no two.
    drawn = drawn[(drawn > 0).sum(1) > 1]
    times = np.concatenate([np.ones((1, count)), drawn])  # the data themselves come first
    # The sum over pairs of frames of products is the product of sums.
    sums, off = unit.sum(1), 1 - np.eye(count)
    within = (np.square(sums).sum(1) - frames) / (frames * (frames - 1))
    same = times @ within / count
    pairs = (count**2 - np.square(times).sum(1)) * frames**2
    cross, common = (
        ((times @ (each @ each.T * off)) * times).sum(1) / pairs for each in (sums, centred.sum(1))
    )
    curves = (times @ lags / count - common[:, None]) / (1 - common[:, None])
    (mixed, one), (progressive, other) = _fitted(curves, Mixed), _fitted(curves, Progressive)
    return Similarity(
        _interval(same),
        _interval(cross),
        _interval(same - cross),
        tuple(_interval(curve) for curve in curves.T),
        Fit(_interval(mixed), _interval(one)),
        Fit(_interval(progressive), _interval(other)),
        _interval(one - other),
    )


def _fitted(curves: Array, prior: type[Mixed] | type[Progressive]) -> tuple[Array, Array]:
    """α and residual of each curve of correlations, (curves, lags); frames without correlation have α = 0."""
    lags = np.arange(1, curves.shape[1] + 1)
    share = lags[::-1] / lags.sum()  # of the pairs of frames that are so far apart
    if prior is Mixed:
        ratio = np.clip(curves @ share, 0, _MOST)[:, None]
        alpha, fitted = np.sqrt(ratio / (1 - ratio)), np.broadcast_to(ratio, curves.shape)
    else:
        # α/√(1 + α²), on a grid that is made finer around its best value.
        ratio, width = np.full((len(curves), 1), 0.5), 0.5
        for _ in range(12):
            grid = np.clip(ratio + width * np.linspace(-1, 1, 33), 0, _MOST)
            losses = (share * (grid[..., None] ** lags - curves[:, None]) ** 2).sum(2)
            ratio = np.take_along_axis(grid, losses.argmin(1)[:, None], axis=1)
            width /= 8
        alpha, fitted = ratio / np.sqrt(1 - ratio**2), ratio**lags
    return alpha[:, 0], np.sqrt((share * (curves - fitted) ** 2).sum(1))


def _interval(values: Array) -> Interval:
    """The first value, with the percentile interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))
