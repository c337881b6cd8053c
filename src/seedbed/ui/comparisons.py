"""Blind comparisons of two takes of one prompt: which to show next, what was said, the ratings it makes."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from seedbed.errors import BadInput, one_of
from seedbed.files import read_text, write_bytes_atomically, write_json
from seedbed.ui.jobs import Job

Noise = tuple[int, int]
"""Seed and candidate."""
Finished = dict[str, dict[Noise, Path]]
"""The finished videos by everything that they share, a JSON text with "prompt", and by their noise."""


class Pair(NamedTuple):
    """Two takes as they are shown; `shared` is their key of `Finished`."""

    shared: str
    left: Noise
    right: Noise


def finished(jobs: list[Job]) -> Finished:
    """The finished videos of all jobs but variations, whose noises ratings by seed and number cannot name.

    The same noise under the same request twice is one take.
    """
    found: Finished = {}
    for job in (job for job in jobs if job.request.noise is None):
        asked = {name: value for name, value in vars(job.request).items() if value is not None}
        for other in ("seed", "candidates", "verifier", "strength"):  # which change no finished video
            asked.pop(other, None)
        shared = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        for candidate in range(job.request.candidates):
            if job.has("finish", candidate):
                noise = (job.request.seed, candidate)
                found.setdefault(shared, {})[noise] = job.file(candidate, ".mp4")
    return found


class Comparisons:
    """What was said of pairs, kept in one file; errors as `seedbed.files.write_bytes_atomically`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[dict[str, Any]] = []
        if path.is_file():
            try:
                self.said = [dict(each) for each in json.loads(read_text(path, "the comparisons"))]
            except (ValueError, TypeError) as error:
                raise BadInput(f"{path} is no file of comparisons: move it away") from error

    def add(self, pair: Pair, better: str) -> None:
        """Keep what was said: "left", "right" or "neither"."""
        one_of("better", better, ("left", "right", "neither"))
        said = [*self.said, {**pair._asdict(), "better": better}]
        write_json(self.path, said)
        self.said = said

    def pair(self, takes: Finished, draw: random.Random) -> Pair | None:
        """The pair that was compared least, sides by chance; None where no prompt has two takes."""
        times = Counter(
            (each["shared"], frozenset((tuple(each["left"]), tuple(each["right"])))) for each in self.said
        )
        pairs = [
            Pair(shared, *sides)
            for shared, noises in takes.items()
            for sides in itertools.combinations(noises, 2)
        ]
        if not pairs:
            return None
        draw.shuffle(pairs)
        shared, *sides = min(pairs, key=lambda pair: times[pair.shared, frozenset(pair[1:])])
        draw.shuffle(sides)
        return Pair(shared, *sides)

    def table(self) -> list[dict[str, Any]]:
        """A row for each take that was compared: prompt, seed, candidate, rating, low, high, comparisons.

        The rating is the strength of `seedbed.verifiers.ratings.strengths`, among the takes of its prompt.
        """
        from seedbed.verifiers.ratings import strengths  # loads torch

        rows = []
        for shared in dict.fromkeys(each["shared"] for each in self.said):
            said = [each for each in self.said if each["shared"] == shared]
            sides = [(tuple(each["left"]), tuple(each["right"])) for each in said]
            noises = sorted({noise for pair in sides for noise in pair})
            share = {"left": 1.0, "right": 0.0, "neither": 0.5}
            compared = [
                (noises.index(left), noises.index(right), share[each["better"]])
                for (left, right), each in zip(sides, said, strict=True)
            ]
            times = Counter(noise for pair in sides for noise in pair)
            for noise, found in zip(noises, strengths(len(noises), compared).tolist(), strict=True):
                row = {"prompt": json.loads(shared)["prompt"], "seed": noise[0], "candidate": noise[1]}
                numbers = dict(zip(("rating", "low", "high"), found, strict=True))
                rows.append({**row, **numbers, "comparisons": times[noise], "shared": shared})
        return rows

    def export(self, path: Path) -> Path:
        """Write the ratings as a CSV file that `seedbed calibrate --ratings` takes.

        Raises:
            BadInput: nothing was compared, or one prompt with different models or arguments, whose videos
                such a file cannot tell apart.
        """
        rows = self.table()
        prompts: dict[str, str] = {}
        for row in rows:
            if prompts.setdefault(row["prompt"], row["shared"]) != row["shared"]:
                raise BadInput(
                    f"takes of {row['prompt']!r} with different models or arguments were compared, which "
                    "ratings cannot tell apart: compare them in a --folder of their own"
                )
        if not rows:
            raise BadInput("nothing was compared yet: compare two takes first")
        text = io.StringIO()
        names = [name for name in rows[0] if name != "shared"]
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return write_bytes_atomically(path, text.getvalue().encode())
