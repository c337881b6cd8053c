"""Noises near a good one, and noises between two: points on the sphere of Gaussian noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from seedbed.errors import BadInput, number, shown, whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.refinement.base import Refiner
from seedbed.refinement.formulas import interpolate
from seedbed.texts import text_of


@dataclass(frozen=True)
class Variation(Refiner):
    """Spherical interpolation towards a companion of the noise.

    Args:
        strength: from 0, the noise itself, to 1, its companion.
        index: which companion, from 1.

    Raises:
        BadInput: one of them is out of its range.
    """

    name = "variation"

    strength: float = 0.3
    index: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", _share("a variation's strength", self.strength))
        object.__setattr__(self, "index", whole("a variation's index", self.index))

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`; it costs no evaluation."""
        return interpolate(noise.double(), recipe.beside(self.index).double(), self.strength)


@dataclass(frozen=True)
class Walk(Refiner):
    """Spherical interpolation towards another candidate's noise, of the same prior.

    Args:
        share: of the way, from 0 to 1.
        candidate, seed: of the other noise; seed None: that of the noise.

    Raises:
        BadInput: one of them is out of its range; later, a noise of the caller's own, which has no seed.
    """

    name = "walk"

    share: float
    candidate: int
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", _share("a walk's share", self.share))
        object.__setattr__(self, "candidate", whole("a walk's candidate", self.candidate, 0))
        object.__setattr__(self, "seed", whole("a walk's seed", self.seed, 0, optional=True))

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`; it costs no evaluation."""
        if not isinstance(recipe, NoiseRecipe):
            raise BadInput("a walk leads from one recipe to another, and this noise is a tensor of your own")
        seed = recipe.seed if self.seed is None else self.seed
        other = dataclasses.replace(recipe, candidate=self.candidate, seed=seed, refinements=(), sha256=None)
        return interpolate(noise.double(), other.draw().double(), self.share)


def variations(recipe: NoiseRecipe, strength: float = 0.3, count: int = 9) -> list[NoiseRecipe]:
    """Recipes of noises near one, for `contact_sheet(pipe, prompt, noises=...)` and `score`.

    Args:
        strength: see `Variation`.
        count: how many, each towards another companion.
    """
    indices = range(1, whole("count", count) + 1)
    return [_then(recipe, Variation(strength, index)) for index in indices]


def walk(start: NoiseRecipe, end: NoiseRecipe, count: int = 9) -> list[NoiseRecipe]:
    """Recipes of noises from one to another, both included, for `contact_sheet(pipe, prompt, noises=...)`.

    Raises:
        BadInput: a count below 2; an end that was refined, or is of another shape or prior.
    """
    count = whole("count", count, 2)
    same = dataclasses.replace(end, candidate=start.candidate, seed=start.seed, sha256=start.plain.sha256)
    if end.refinements or same != start.plain:
        raise BadInput("a walk ends at a noise of the same shape and prior as its start, and not refined")
    between = [Walk(step / (count - 1), end.candidate, end.seed) for step in range(1, count - 1)]
    return [start, *(_then(start, refiner) for refiner in between), end]


def _then(recipe: NoiseRecipe, refiner: Refiner) -> NoiseRecipe:
    refinements = (*recipe.refinements, {"refiner": text_of(refiner)})
    return dataclasses.replace(recipe, refinements=refinements, sha256=None)


def _share(name: str, value: object) -> float:
    found = number(value)
    if found is None or not 0 <= found <= 1:
        raise BadInput(f"{name} must be a number from 0 to 1, not {shown(value)}")
    return float(found)
