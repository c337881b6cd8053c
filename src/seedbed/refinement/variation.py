"""Noises near a good one, between two, of several and like several: noises made of noises alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.errors import BadInput, finite, fraction, shown, whole
from seedbed.noise import MOST_CANDIDATES, GivenNoise, NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.refinement.formulas import erase, interpolate
from seedbed.refinement.refiner import Refiner
from seedbed.texts import text_of

_LARGEST = 2**64 - 1  # of the numbers that key a noise, see `NoiseRecipe`


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
        object.__setattr__(self, "strength", finite("a variation's strength", self.strength, 0, 1))
        object.__setattr__(self, "index", whole("a variation's index", self.index, 1, _LARGEST))

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
        object.__setattr__(self, "share", finite("a walk's share", self.share, 0, 1))
        object.__setattr__(self, "candidate", whole("a walk's candidate", self.candidate, 0, _LARGEST))
        object.__setattr__(self, "seed", whole("a walk's seed", self.seed, 0, _LARGEST, True))

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`; it costs no evaluation."""
        if not isinstance(recipe, NoiseRecipe):
            raise BadInput("a walk leads from one recipe to another, and this noise is a tensor of your own")
        seed = recipe.seed if self.seed is None else self.seed
        other = dataclasses.replace(recipe, candidate=self.candidate, seed=seed, refinements=(), sha256=None)
        return interpolate(noise.double(), other.draw().double(), self.share)


@dataclass(frozen=True)
class Erasure(Refiner):
    """The normalised sum of the noise and of n − 1 companions of the same prior (arXiv 2511.07756).

    It is distributed as the noise itself: on average over seeds it changes nothing, and serves as a control.

    Args:
        n: noises in the sum, up to 10,000; 1 leaves the noise as it is. The paper does not say how many.

    Raises:
        BadInput: n is no such whole number.
    """

    name = "erasure"

    n: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("erasure's n", self.n, 1, 10_000))

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`; it costs no evaluation."""
        others = (recipe.beside(number) for number in range(1, self.n))
        # In float64, so that rounding hides in which order a machine adds.
        return erase(each.double() for each in itertools.chain([noise], others))


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Refiner):
    """The noise with other low frequencies, like those of the best that a search has visited.

    What `seedbed.acquisition.search.LowFrequencies` visits. The coefficients c of the lowest cosines along
    `axes` are drawn anew, `c = mean + std ε`, at the norm that the noise's own have: the noise stays on its
    shell. Mean and std are those of the elite, which are drawn again in the same way to tell.

    Args:
        index: of the noise among all visited, which keys ε.
        batch: noises of a round.
        axes: of the drawn noise, that hold positions and frames, each once.
        share: of the frequencies of each axis, in (0, 1]; at least one, the mean.
        smoothing: how much of the mean and std before stays, from 0 to 1.
        elites: after each round before this one, the indices of the best so far, at least two.

    Raises:
        BadInput: one of them is out of its range.
    """

    name = "cross-entropy"

    index: int
    batch: int
    axes: tuple[int, ...]
    share: float = 1 / 16
    smoothing: float = 0.0
    elites: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", fraction("share", self.share))
        object.__setattr__(self, "smoothing", finite("smoothing", self.smoothing, 0, 1))
        try:
            axes, elites = tuple(self.axes), tuple(map(tuple, self.elites))
        except TypeError:
            raise BadInput(
                f"axes and elites must be lists, not {shown(self.axes)} and {shown(self.elites)}"
            ) from None
        batch = whole("batch", self.batch, 1, 2**32)
        elites = tuple(
            tuple(whole("each of an elite", index, 0, batch * number - 1) for index in elite)
            for number, elite in enumerate(elites, 1)
        )
        checked = {
            "axes": tuple(whole("each of axes", axis, 0) for axis in axes),
            "batch": batch,
            "index": whole("index", self.index, 0, batch * (len(elites) + 1) - 1),
            "elites": elites,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if len(set(self.axes)) < len(axes) or any(len(set(elite)) < 2 for elite in elites):
            raise BadInput("cross-entropy needs each of axes once, and two indices or more in each of elites")

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`; it costs no evaluation."""
        packing = recipe.packing if isinstance(recipe, NoiseRecipe) else None
        shape = packing.shape if packing else recipe.shape
        if max(self.axes, default=0) >= len(shape):
            raise BadInput(f"cross-entropy along the axes {self.axes}, but the noise has shape {shape}")
        bases = [(axis, _cosines(shape[axis], self.share)) for axis in self.axes]
        # Of independent numbers, whatever the prior's are.
        white = dataclasses.replace(recipe, prior="gaussian") if isinstance(recipe, NoiseRecipe) else recipe

        def low(values: Tensor) -> Tensor:
            drawn = packing.unpack(values.double()) if packing else values.double()
            for axis, basis in bases:
                drawn = (drawn.movedim(axis, -1) @ basis.T).movedim(-1, axis)
            return drawn

        own = low(noise)
        moments: list[tuple[Tensor, Tensor]] = [(torch.zeros_like(own), torch.ones_like(own))]

        @functools.cache
        def coefficients(index: int) -> Tensor:
            if index < self.batch:
                found = low(recipe.beside(index + 1))
            else:
                mean, spread = moments[index // self.batch]
                found = mean + spread * low(white.beside(index + 1))
            scale: Tensor = own.norm() / found.norm()
            return found * scale

        for best in self.elites:
            elite = torch.stack([coefficients(index) for index in best])
            fitted = (elite.mean(0), elite.std(0))
            kept = zip(moments[-1], fitted, strict=True)
            mean, spread = (self.smoothing * old + (1 - self.smoothing) * new for old, new in kept)
            moments.append((mean, spread))
        change = coefficients(self.index) - own
        for axis, basis in bases:
            change = (change.movedim(axis, -1) @ basis).movedim(-1, axis)
        return noise.double() + (packing.pack(change, recipe.shape) if packing else change)


def _cosines(length: int, share: float) -> Tensor:
    """The lowest frequencies of the orthonormal cosine transform (DCT-II): (frequencies, length) float64."""
    number = torch.arange(math.ceil(share * length), dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / length * (torch.arange(length, dtype=torch.float64) + 0.5) * number)
    length_of: Tensor = basis.norm(dim=1, keepdim=True)
    return basis / length_of


def variations(
    recipe: NoiseRecipe, strength: float = 0.3, count: int = 9, first: int = 1
) -> list[NoiseRecipe]:
    """Recipes of noises near one, for `contact_sheet(pipe, prompt, noises=...)` and `score`.

    Args:
        strength: see `Variation`.
        count: how many, each towards another companion; at most as many as one choice takes.
        first: the number of the first companion.

    Raises BadInput where an argument is out of its range.
    """
    first = whole("first", first)
    indices = range(first, first + whole("count", count, 1, MOST_CANDIDATES))
    return [continued(recipe, Variation(strength, index)) for index in indices]


def walk(start: NoiseRecipe, end: NoiseRecipe, count: int = 9) -> list[NoiseRecipe]:
    """Recipes of noises from one to another, both included, for `contact_sheet(pipe, prompt, noises=...)`.

    Raises:
        BadInput: a count below 2, or more than one choice takes; an end that was refined, or is of another
            shape or prior.
    """
    count = whole("count", count, 2, MOST_CANDIDATES)
    if not isinstance(start, NoiseRecipe) or not isinstance(end, NoiseRecipe):
        raise BadInput(f"a walk leads from one recipe to another, not from {shown(start)} to {shown(end)}")
    same = dataclasses.replace(end, candidate=start.candidate, seed=start.seed, sha256=start.plain.sha256)
    if end.refinements or same != start.plain:
        raise BadInput("a walk ends at a noise of the same shape and prior as its start, and not refined")
    between = [Walk(step / (count - 1), end.candidate, end.seed) for step in range(1, count - 1)]
    return [start, *(continued(start, refiner) for refiner in between), end]


def continued(recipe: NoiseRecipe, refiner: Refiner) -> NoiseRecipe:
    """The recipe of the noise that a refiner makes of one; `seedbed.refinement.rebuilt` makes it."""
    if not isinstance(recipe, NoiseRecipe):
        raise BadInput(f"variations are of a noise's recipe, not of {shown(recipe)}")
    refinements = (*recipe.refinements, {"refiner": text_of(refiner)})
    return dataclasses.replace(recipe, refinements=refinements, sha256=None)
