"""Initial noise: recipes that draw the very same tensor anywhere, and the priors they draw from."""

from seedbed.noise.packing import Packing
from seedbed.noise.priors import (
    Covariance,
    Gaussian,
    Mixed,
    Prior,
    Progressive,
    Repeated,
    Shuffled,
    Torch,
)
from seedbed.noise.recipe import MOST_CANDIDATES, GivenNoise, NoiseRecipe, Pool, prior_named, sha256_of

__all__ = [
    "MOST_CANDIDATES",
    "Covariance",
    "Gaussian",
    "GivenNoise",
    "Mixed",
    "NoiseRecipe",
    "Packing",
    "Pool",
    "Prior",
    "Progressive",
    "Repeated",
    "Shuffled",
    "Torch",
    "prior_named",
    "sha256_of",
]
