"""How sure a choice is that was made from a sample of the query rows.

Candidates are scored on the same rows, so what tells two of them apart is the mean of paired differences. Its
standard error comes from their spread over the sampled rows, with the finite-population correction for rows
drawn without replacement; layers, whose rows are drawn independently, add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from seedbed.selection.acquisitions import Prefer
from seedbed.selection.racing import ranked

# Below this, rivals that cannot be told apart are scored again with more rows.
SURE = 0.95
# Times the rows before.
MORE = 4


@dataclass
class Look:
    """The sampled rows behind a candidate's scores.

    Attributes:
        layers: for each layer that was sampled its (rows,) values, and how many rows there are.
    """

    layers: list[tuple[Tensor, int]] = field(default_factory=list)

    def add(self, rows: Tensor, of: int) -> None:
        """One more layer."""
        self.layers.append((rows, of))


def doubt(gap: float, chosen: Look, rival: Look) -> float:
    """The chance that all rows would put a rival before the chosen one, by the normal approximation.

    Args:
        gap: how much better the chosen one's scores are, summed over layers and evaluations.
        chosen, rival: seen in the same layers and rows.

    Returns:
        0 where all rows were seen.
    """
    variance = 0.0
    for (ours, of), (theirs, _) in zip(chosen.layers, rival.layers, strict=True):
        rows = len(ours)
        spread = float((ours - theirs).var()) if rows > 1 else math.inf
        variance += spread / rows * (1 - rows / of)
    return math.erfc(gap / math.sqrt(2 * variance)) / 2 if variance else 0.0


def tell_apart(
    near: list[int],
    scores: Tensor,
    looks: list[Look],
    times: Tensor,
    rows: int | None,
    again: Callable[[list[int], int], tuple[Tensor, list[Look]]],
    prefer: Prefer,
    evaluations: int = 1,
) -> float:
    """Look at more rows until one candidate is the best for sure, or all rows are in.

    Rivals that are told apart stay as they are; the others are seen again, with the one that leads.

    Args:
        near: the candidates to choose from.
        scores: (candidates, layers), without nan for those in `near`; brought up to date.
        looks: for each candidate the rows behind its scores.
        times: (candidates,), counts how often each was seen again.
        rows: how many were looked at, None for all.
        again: from candidates and a number of rows to their (candidates, layers) scores and looks.
        evaluations: that the scores are means over.

    Returns:
        The probability that all rows would have chosen the same, see `doubt`; at most `1 - SURE` is shared
        between the rivals.
    """
    seen = dict(enumerate(looks))
    enough = (1 - SURE) / (2 * max(1, len(near) - 1))
    set_aside = 0.0
    while True:
        first, *rivals = (near[place] for place in ranked(scores[near].mean(1), prefer))
        gaps = (scores.sum(1) - scores[first].sum()).abs() * evaluations
        doubts = {rival: doubt(float(gaps[rival]), seen[first], seen[rival]) for rival in rivals}
        confidence = max(0.0, 1 - set_aside - sum(doubts.values()))
        if confidence >= SURE or rows is None:
            return confidence
        near = sorted([first, *(rival for rival in rivals if doubts[rival] > enough)])
        set_aside += sum(chance for chance in doubts.values() if chance <= enough)
        rows *= MORE
        scores[near], fresh = again(near, rows)
        seen.update(zip(near, fresh, strict=True))
        times[near] += 1
