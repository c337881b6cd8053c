"""Ratings by people of videos that were generated before, and what pairwise comparisons make of one."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, shown
from seedbed.files import read_text
from seedbed.noise import NoiseRecipe


class Ratings:
    """A table of ratings. It is no `Verifier`: it judges no other videos than those in it, and no previews.

    It can say what a signal at the start was worth, since the noise of a rated video can be drawn again.

    Args:
        ratings: (prompt, seed, candidate) to the rating, higher is better. Several ratings of a video are
            averaged by `load`.
        source: what messages call the table.
    """

    COLUMNS = ("prompt", "seed", "candidate", "rating")

    def __init__(self, ratings: Mapping[tuple[str, int, int], float], source: str = "the ratings") -> None:
        self.ratings = dict(ratings)
        self.source = source

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ratings:
        """Read a CSV file with the columns prompt, seed, candidate and rating; others are left alone.

        Raises:
            BadInput: no such file, a column that is missing, or a value that is no number; names the line.
        """
        reader = csv.DictReader(read_text(path, "the ratings").splitlines())
        missing = [name for name in cls.COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(f"{path} has no column {missing[0]!r}: it needs {', '.join(cls.COLUMNS)}")
        found: dict[tuple[str, int, int], list[float]] = {}
        for row in reader:
            try:
                key = (row["prompt"], int(row["seed"]), int(row["candidate"]))
                rating = float(row["rating"])
            except (TypeError, ValueError):
                rating = math.nan
            if not math.isfinite(rating):
                raise BadInput(
                    f"{path}, line {reader.line_num}: seed and candidate must be whole numbers, and the "
                    "rating a number"
                )
            found.setdefault(key, []).append(rating)
        return cls({key: sum(values) / len(values) for key, values in found.items()}, str(path))

    def of(self, prompt: str, recipes: Sequence[NoiseRecipe]) -> Tensor:
        """The rating of each noise's video, (noises,) float64.

        Raises:
            BadInput: a video was not rated; names it.
        """
        keys = [(prompt, recipe.seed, recipe.candidate) for recipe in recipes]
        for key in keys:
            if key not in self.ratings:
                raise BadInput(
                    f"{self.source} has no rating of {shown(prompt)}, seed {key[1]}, candidate {key[2]}: "
                    "rate that video, or calibrate on fewer prompts or noises"
                )
        return torch.tensor([self.ratings[key] for key in keys], dtype=torch.float64)


def strengths(
    videos: int, comparisons: Sequence[tuple[int, int, float]], draws: int = 1000, seed: int = 0
) -> Tensor:
    """How strong each video is by pairwise comparisons, after Bradley and Terry (1952), a rating.

    A video of strength a is preferred to one of strength b with probability 1 / (1 + exp(b - a)). Every video
    has one tie with an imaginary one of strength 0 besides: so a video that won, or lost, every time has a
    strength too, and one that was never compared has 0.

    Args:
        videos: how many there are, at least 1.
        comparisons: (first, second, share): numbers of two videos, and 1 where the first was preferred, 0
            where the second was, 0.5 for neither.
        draws: resamples of the comparisons, for the 95 % percentile intervals.
        seed: of the resamples.

    Returns:
        (videos, 3) float64: strength, lower and upper end; the ends are nan below two comparisons, and for a
        video that was never compared. Where all comparisons of a video agree, so do all resamples, and its
        interval is too narrow.

    Raises:
        BadInput: a video that there is not, or compared with itself; a share other than 0, 0.5 and 1.
    """
    for first, second, share in comparisons:
        if not {first, second} <= {*range(videos)} or first == second or share not in (0, 0.5, 1):
            raise BadInput(
                f"({first}, {second}, {share}) compares no two of {videos} videos: the share is 1, 0 or 0.5"
            )
    pairs = torch.tensor([pair[:2] for pair in comparisons], dtype=torch.long).reshape(-1, 2)
    shares = torch.tensor([pair[2] for pair in comparisons], dtype=torch.float64)
    # The comparisons as they are, and resampled: how often each counts.
    count = len(comparisons)
    times = torch.ones(1, count, dtype=torch.float64)
    if count > 1:
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        times = torch.cat([times, torch.from_numpy(drawn).double()])
    wins = torch.zeros(len(times), videos * videos, dtype=torch.float64)
    wins.index_add_(1, pairs[:, 0] * videos + pairs[:, 1], times * shares)
    wins.index_add_(1, pairs[:, 1] * videos + pairs[:, 0], times * (1 - shares))
    wins = wins.unflatten(1, (videos, videos))
    met, won = wins + wins.mT, wins.sum(2) + 0.5
    found = torch.zeros(len(times), videos, dtype=torch.float64)
    for _ in range(200):
        chance = torch.sigmoid(found[:, :, None] - found[:, None])
        alone = torch.sigmoid(found)
        slope = won - (met * chance).sum(2) - alone
        weight = met * chance * (1 - chance)
        curvature = torch.diag_embed(weight.sum(2) + alone * (1 - alone)) - weight
        step = torch.linalg.solve(curvature, slope)
        longest = step.abs().amax(1, keepdim=True)
        found = found + step / (1 + longest)  # Newton's step alone may overshoot
        if float(longest.max()) < 1e-10:
            break
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    known = met[0].sum(1) > 0 if count > 1 else torch.zeros(videos, dtype=torch.bool)
    nan = torch.full((videos,), math.nan, dtype=torch.float64)
    return torch.stack([found[0], low.where(known, nan), high.where(known, nan)], 1)
