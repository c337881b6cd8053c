"""The Gaussian prior is N(0, I): bounds are five standard errors of each statistic under that hypothesis."""

import itertools
import math

import pytest
import torch
from scipy import stats

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe, prior_named

SHAPE = (5, 8, 24, 25)
SIZE = math.prod(SHAPE)
SEEDS = (0, 1, 2**63)


@pytest.fixture(scope="module")
def noises():
    """float64 (9, SIZE): three candidates of each of three seeds."""
    recipes = [NoiseRecipe(seed, candidate, SHAPE) for seed in SEEDS for candidate in range(3)]
    return torch.stack([recipe.draw().double().flatten() for recipe in recipes])


def test_moments(noises):
    mean, variance = noises.mean(1), noises.var(1)
    skew = ((noises - mean[:, None]) / variance[:, None].sqrt()).pow(3).mean(1)
    kurtosis = ((noises - mean[:, None]) / variance[:, None].sqrt()).pow(4).mean(1)
    assert mean.abs().max() < 5 * math.sqrt(1 / SIZE)
    assert (variance - 1).abs().max() < 5 * math.sqrt(2 / SIZE)
    assert skew.abs().max() < 5 * math.sqrt(6 / SIZE)
    assert (kurtosis - 3).abs().max() < 5 * math.sqrt(24 / SIZE)


def test_the_whole_distribution_is_normal(noises):
    """Kolmogorov-Smirnov over nine noises together; the level is that of five standard errors."""
    assert stats.kstest(noises.flatten().numpy(), "norm").pvalue > 5.7e-7


def test_no_correlation_between_candidates_nor_between_seeds(noises):
    for first, second in itertools.combinations(range(len(noises)), 2):
        assert abs(torch.dot(noises[first], noises[second]) / SIZE) < 5 * math.sqrt(1 / SIZE)


def test_no_correlation_between_neighbours_along_any_axis(noises):
    for noise in noises.view(-1, *SHAPE):
        for axis, length in enumerate(SHAPE):
            product = noise.narrow(axis, 0, length - 1) * noise.narrow(axis, 1, length - 1)
            assert abs(product.mean()) < 5 * math.sqrt(1 / product.numel())


def test_the_bounds_notice_a_noise_that_is_not_gaussian(noises):
    """The checks above can fail: frames that repeat, or a spread five per cent too wide, break a bound."""
    repeated = noises[0].view(SHAPE)[:1].expand(SHAPE)
    assert (repeated[:-1] * repeated[1:]).mean() > 5 * math.sqrt(1 / SIZE)
    wide = 1.05 * noises[0]
    assert (wide.var() - 1).abs() > 5 * math.sqrt(2 / SIZE)


def test_an_unknown_prior_is_refused_with_the_names_there_are():
    assert prior_named("gaussian").name == "gaussian"
    with pytest.raises(BadInput, match=r"no noise prior 'pink': choose one of gaussian, torch, mixed,"):
        prior_named("pink")
