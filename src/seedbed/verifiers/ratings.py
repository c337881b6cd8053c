"""Ratings by people of videos that were generated before."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence

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
