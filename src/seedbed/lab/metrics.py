"""How near generated videos are to real ones: Fréchet video distance and Inception Score, by torchmetrics.

Both are numbers of a network as much as of the videos, so the network is an argument: any callable from
uint8 videos to features, or logits. Values of other networks, sizes of samples or preprocessings do not
compare.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seedbed.errors import BadInput, BadOutput, NotSupported, shown, whole
from seedbed.statistics import Interval, bootstrap

try:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
except ImportError as _error:
    raise NotSupported("metrics need torchmetrics: pip install 'seedbed[lab]'") from _error

Videos = NDArray[np.uint8]
Network = Callable[[Videos], Tensor]
"""From videos, uint8 (n, frames, height, width, 3), to features or logits (n, d)."""


class Score(NamedTuple):
    """An Inception Score: mean over the splits, and their standard deviation, nan of one split."""

    mean: float
    deviation: float


class _Known(nn.Module):
    """Stands in for the network of torchmetrics: rows that were computed before are given as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def features_of(videos: Videos | Sequence[Videos], network: Network, batch_size: int = 32) -> Tensor:
    """What a network makes of videos, in batches: (n, d) float64 on the CPU.

    Args:
        videos: uint8 (n, frames, height, width, 3), or so many videos of one size.

    Raises:
        BadInput: videos of another kind, or a network that does not return a row for each.
        BadOutput: a feature that is not finite.
    """
    given = list(videos)
    batch_size = whole("batch_size", batch_size)
    shape: tuple[int, ...] = np.shape(given[0]) if given else ()
    if len(shape) != 4 or shape[-1] != 3 or any(v.shape != shape or v.dtype != np.uint8 for v in given):
        raise BadInput("metrics read uint8 videos of one size, (n, frames, height, width, 3), at least one")
    rows = list[Tensor]()
    for first in range(0, len(given), batch_size):
        batch = np.stack(given[first : first + batch_size])
        with torch.no_grad():
            found = network(batch)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(batch):
            raise BadInput(f"the network is to return (n, d) features of {len(batch)} videos: {shown(found)}")
        rows.append(found.detach().cpu().double())
    return _rows("features", torch.cat(rows), 1)


def frechet(real: Any, made: Any) -> float:
    """Fréchet distance of two sets of features as if they were Gaussian (arXiv 1706.08500, eq. 6), squared.

    That is |μ - ν|² + tr(Σ + T - 2 √(Σ T)), of video features the Fréchet video distance (arXiv 1812.01717).

    Args:
        real, made: (n, d) and (m, d), more rows than d for covariances that have an inverse.

    Raises:
        BadInput: not two sets of at least 2 rows of one width.
        BadOutput: a feature that is not finite.
    """
    one, other = (_rows(name, rows, 2) for name, rows in (("real", real), ("made", made)))
    if one.shape[1] != other.shape[1]:
        raise BadInput(f"features of widths {one.shape[1]} and {other.shape[1]} are not of one network")
    metric = FrechetInceptionDistance(_Known(one.shape[1])).set_dtype(torch.float64)
    # Where both are shifted alike nothing changes, and sums of squares round less.
    middle = one.mean(0)
    metric.update(one - middle, real=True)
    metric.update(other - middle, real=False)
    return float(metric.compute())


def inception_score(logits: Any, splits: int = 10, seed: int = 0) -> Score:
    """exp of the mean divergence of each video's classes from those of all (arXiv 1606.03498, section 4).

    It is between 1 and the number of classes, and lower for fewer videos in each of the splits.

    Args:
        logits: (n, classes) of a classifier, n at least `splits`.
        splits: parts of the videos with a score of their own.
        seed: of the split.

    Raises:
        BadInput: fewer rows than splits.
        BadOutput: logits or a score that are not finite.
    """
    splits = whole("splits", splits)
    rows = _rows("logits", logits, splits)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all logits
        torch.manual_seed(whole("seed", seed, least=0))
        metric = InceptionScore(_Known(rows.shape[1]), splits=splits)
        metric.update(rows)
        mean, deviation = (float(each) for each in metric.compute())
    if not math.isfinite(mean):
        raise BadOutput("the Inception Score is not finite: logits so far apart leave a class at exactly 0")
    return Score(mean, deviation)


def frechet_bias(real: Any, sizes: Sequence[int], draws: int = 20, seed: int = 0) -> list[Interval]:
    """The distance of samples that differ in nothing, by their size: what `frechet` adds by itself.

    For each size n, the mean over draws of the distance of n rows to n others of the same set, and its 95 %
    interval. It falls about as 1/n (arXiv 1911.07023): compare distances of equal n alone, and hold them
    against this one.

    Raises:
        BadInput: a size below 2 or above half of the rows; else as `frechet`.
    """
    rows = _rows("real", real, 4)
    draws, most = whole("draws", draws, 2), len(rows) // 2
    sizes = [whole("each of sizes", size, 2, most) for size in sizes]
    generator = np.random.default_rng(whole("seed", seed, least=0))
    found = []
    for size in sizes:
        orders = [torch.from_numpy(generator.permutation(len(rows))) for _ in range(draws)]
        distances = [frechet(rows[order[:size]], rows[order[size : 2 * size]]) for order in orders]
        found.append(bootstrap(distances))
    return found


def _rows(name: str, given: Any, least: int) -> Tensor:
    """Rows of numbers, (n, d) float64 on the CPU, at least so many; errors name them."""
    try:
        rows = torch.as_tensor(given).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name} must be numbers (n, d), not {shown(given)}") from error
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise BadInput(f"{name} must be (n, d) with n at least {least}, not {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise BadOutput(f"{name}: row {int((~rows.isfinite().all(1)).nonzero()[0])} is not finite")
    return rows
