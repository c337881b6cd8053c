"""Semantic erasure: the normalised sum of several noises, which is as Gaussian as each of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from seedbed.errors import whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.refinement.formulas import erase
from seedbed.refinement.refiner import Refiner


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
