"""Initial noise: recipes that draw the very same tensor anywhere, and the priors they draw from."""

from seedbed.noise.recipe import Gaussian, GivenNoise, NoiseRecipe, Prior, prior_named, sha256_of

__all__ = ["Gaussian", "GivenNoise", "NoiseRecipe", "Prior", "prior_named", "sha256_of"]
