"""Initial noise: recipes that draw the very same tensor anywhere, and the priors they draw from."""

from seedbed.noise.packing import Packing as Packing
from seedbed.noise.priors import Covariance as Covariance
from seedbed.noise.priors import Gaussian as Gaussian
from seedbed.noise.priors import Mixed as Mixed
from seedbed.noise.priors import Prior as Prior
from seedbed.noise.priors import Progressive as Progressive
from seedbed.noise.priors import Repeated as Repeated
from seedbed.noise.priors import Shuffled as Shuffled
from seedbed.noise.priors import Torch as Torch
from seedbed.noise.recipe import MOST_CANDIDATES as MOST_CANDIDATES
from seedbed.noise.recipe import GivenNoise as GivenNoise
from seedbed.noise.recipe import NoiseRecipe as NoiseRecipe
from seedbed.noise.recipe import Pool as Pool
from seedbed.noise.recipe import prior_named as prior_named
from seedbed.noise.recipe import sha256_of as sha256_of
