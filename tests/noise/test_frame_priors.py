"""Priors over frames: each element is N(0, 1), and frames correlate as the papers' formulas say.

Bounds are five standard errors of each statistic; what scales with correlated frames counts the independent
positions of a frame.
"""

import math

import numpy as np
import pytest
import torch

from seedbed.errors import BadInput
from seedbed.noise import prior_named
from seedbed.noise.priors import (
    PRIORS,
    Covariance,
    Gaussian,
    Mixed,
    Prior,
    Progressive,
    Repeated,
    Shuffled,
    Torch,
    apply_factor,
    cholesky,
)

FRAMES, POSITIONS = 16, 62_500
NARROW = Covariance(0.6 * np.eye(FRAMES) + 0.4)
SINGULAR = Covariance(np.kron(np.eye(4), np.ones((4, 4))))
ALL = [
    Gaussian(),
    Torch(),
    Mixed(),
    Mixed(0),
    Mixed(3),
    Progressive(),
    Progressive(0.5),
    Repeated(),
    Shuffled(8, 3),
]
ALL += [NARROW, SINGULAR]


def generator(seed=0):
    return np.random.Generator(np.random.Philox(key=seed))


def expected(prior):
    """The correlation of frames, from the papers' own words in float64."""
    share = getattr(prior, "alpha", 0.0) ** 2 / (1 + getattr(prior, "alpha", 0.0) ** 2)
    lags = np.abs(np.arange(FRAMES)[:, None] - np.arange(FRAMES))
    match prior:
        case Mixed():  # one common part of variance share, the rest each frame's own
            return np.where(lags == 0, 1, share)
        case Progressive():  # e_i = sqrt(share) e_(i-1) + own
            return share ** (lags / 2) if share else np.eye(FRAMES)
        case Repeated():
            return np.ones((FRAMES, FRAMES))
        case Covariance():
            return np.array(prior.matrix)
        case Gaussian():
            return np.eye(FRAMES)


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_marginals_and_correlations_at_a_million_samples(prior):
    noise = prior.draw((FRAMES, 250, 250), 0, generator(3))
    assert noise.dtype == torch.float32 and noise.shape == (FRAMES, 250, 250)
    frames = noise.double().flatten(1).numpy()
    assert frames.size == 10**6
    error = 5 / math.sqrt(POSITIONS)
    assert np.abs(frames.mean(1)).max() < error
    assert np.abs(frames.var(1) - 1).max() < error * math.sqrt(2)
    assert np.abs((frames**4).mean(1) - 3).max() < error * math.sqrt(96)
    found = frames @ frames.T / POSITIONS
    if isinstance(prior, Shuffled):
        sources = [int(np.argmax(found[index, :8])) for index in range(FRAMES)]
        assert sources[:8] == list(range(8))
        # each stride of three repeats the three frames one window before it
        for start in (8, 11, 14):
            end = min(start + 3, FRAMES)
            assert {sources[index] for index in range(start, end)} <= set(sources[start - 8 : start - 5])
        wanted = np.equal.outer(sources, sources).astype(float)
    else:
        wanted = expected(prior)
    assert np.abs(found - wanted).max() < error * math.sqrt(2)


def test_variances_taken_for_standard_deviations_are_noticed():
    """The fault of a public re-implementation: mixed then has std .707, progressive decays to .478."""
    own = generator(1).standard_normal((FRAMES, POSITIONS))
    mixed = generator(2).standard_normal(POSITIONS) / 2 + own / 2
    assert abs(mixed.std() - 0.707) < 0.01
    progressive = [own[0]]
    for frame in own[1:]:
        progressive.append(math.sqrt(4 / 5) * progressive[-1] + frame / 5)
    assert abs(np.std(progressive[-1]) - 0.478) < 0.01
    for wrong in (mixed, np.array(progressive)):
        assert np.abs(wrong.var(1) - 1).max() > 5 * math.sqrt(2 / POSITIONS)


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_the_frame_axis_may_be_any(prior):
    first = prior.draw((FRAMES, 3, 5), 0, generator())
    for axis in (0, 1, 2):
        shape = [3, 5]
        shape.insert(axis, FRAMES)
        noise = prior.draw(tuple(shape), axis, generator())
        assert noise.shape == tuple(shape)
        again = prior.draw(tuple(shape), axis, generator())
        assert torch.equal(noise, again)
    assert torch.equal(first, prior.draw((FRAMES, 3, 5), 0, generator()))


def test_no_weight_is_the_gaussian_prior_itself():
    plain = Gaussian().draw((FRAMES, 4), 0, generator())
    for prior in (Mixed(0), Progressive(0), Covariance(np.eye(FRAMES)), Shuffled(FRAMES, 1)):
        assert torch.equal(prior.draw((FRAMES, 4), 0, generator()), plain), prior


@pytest.mark.parametrize("kind", [Mixed, Progressive])
def test_a_huge_weight_repeats_the_first_frame(kind):
    assert np.array_equal(kind(1e200).correlation(5), np.ones((5, 5)))
    share = 1e-6 / (1 + 1e-6)
    assert kind(1e-3).correlation(2)[0, 1] == pytest.approx(share if kind is Mixed else math.sqrt(share))


def test_a_matrix_may_be_the_first_option():
    assert prior_named("covariance:[[1,0.5],[0.5,1]]") == Covariance([[1, 0.5], [0.5, 1]])
    assert prior_named("covariance:matrix=[[1,0.5],[0.5,1]]") == Covariance([[1, 0.5], [0.5, 1]])


@pytest.mark.parametrize("frames", [1, 2, 13, 49])
def test_cholesky_equals_that_of_numpy(frames):
    for prior in (Mixed(1), Mixed(3), Progressive(2)):
        matrix = prior.correlation(frames)
        assert np.abs(cholesky(matrix) - np.linalg.cholesky(matrix)).max() < 1e-13
    singular = Repeated().correlation(frames)
    assert np.array_equal(cholesky(singular) @ cholesky(singular).T, singular)


def test_the_factor_of_progressive_is_the_recursion_of_the_paper():
    z = generator().standard_normal((FRAMES, 7))
    share = 4 / 5
    frames = [z[0]]
    for own in z[1:]:
        frames.append(math.sqrt(share) * frames[-1] + math.sqrt(1 - share) * own)
    noise = apply_factor(Progressive(2).factor(FRAMES, generator()), z, 0)
    assert np.abs(noise - np.array(frames)).max() < 1e-12
    tensor = apply_factor(Progressive(2).factor(FRAMES, generator()), torch.from_numpy(z).T, 1)
    assert np.abs(tensor.T.numpy() - noise).max() < 1e-12


def test_independent_noise_in_the_steps_of_a_stochastic_sampler_breaks_the_marginals():
    """One ancestral step x = cos x + sin z: its frames keep the prior's correlation only if z has it."""
    prior, share = Mixed(1), 0.6
    start = prior.draw((FRAMES, POSITIONS), 0, generator(4)).double().numpy()
    independent = generator(5).standard_normal(start.shape)
    own = apply_factor(prior.factor(FRAMES, generator()), independent, 0)
    error = 5 * math.sqrt(2 / POSITIONS)
    found = []
    for z in (own, independent):
        x = math.sqrt(share) * start + math.sqrt(1 - share) * z
        found.append(np.abs(x @ x.T / POSITIONS - prior.correlation(FRAMES)).max())
    assert found[0] < error < 0.15 < found[1]


def test_ancestral_sampling_keeps_the_marginals_only_with_the_priors_noise_in_its_steps():
    """DDPM (arXiv 2006.11239, equations 6, 7) of one known video, where each step's posterior is exact.

    Then x_t has mean √ᾱ x0 and covariance (1 − ᾱ) C at every t.
    """
    prior, video = Progressive(2), generator(6).standard_normal((FRAMES, 1))
    factor, wanted = prior.factor(FRAMES, generator()), prior.correlation(FRAMES)
    beta = np.linspace(1e-3, 0.2, 30)
    left = np.cumprod(1 - beta)
    error = 5 * math.sqrt(2 / POSITIONS)
    start = apply_factor(factor, generator(7).standard_normal((FRAMES, POSITIONS)), 0)
    for correlated in (True, False):
        x, numbers = math.sqrt(left[-1]) * video + math.sqrt(1 - left[-1]) * start, generator(8)
        for t in range(29, 10, -1):
            mean = math.sqrt(left[t - 1]) * beta[t] * video + math.sqrt(1 - beta[t]) * (1 - left[t - 1]) * x
            z = numbers.standard_normal(x.shape)
            z = apply_factor(factor, z, 0) if correlated else z
            x = mean / (1 - left[t]) + math.sqrt((1 - left[t - 1]) / (1 - left[t]) * beta[t]) * z
        rest = (x - math.sqrt(left[10]) * video) / math.sqrt(1 - left[10])
        off = np.abs(rest @ rest.T / POSITIONS - wanted).max()
        assert off < error if correlated else off > 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixed(-1),
        lambda: Mixed(math.inf),
        lambda: Mixed(True),
        lambda: Progressive(math.nan),
        lambda: Progressive("2"),
        lambda: Shuffled(4, 5),
        lambda: Shuffled(4, 0),
        lambda: Shuffled(4.0, 2),
        lambda: Covariance([[1, 0.5]]),
        lambda: Covariance([[1, 0.5], [0.4, 1]]),
        lambda: Covariance([[2, 0.5], [0.5, 1]]),
        lambda: Covariance([[1, 1.5], [1.5, 1]]),
        lambda: Covariance([[1, math.nan], [math.nan, 1]]),
        lambda: Covariance([]),
        lambda: Covariance("text"),
        lambda: Covariance([[10**400]]),
        lambda: Mixed(10**400),
        lambda: NARROW.draw((4, 4), 0, generator()),
        lambda: Mixed(1).draw((4, 4), None, generator()),
    ],
)
def test_bad_input_is_one_line(make):
    with pytest.raises(BadInput) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


def test_every_prior_is_registered_and_named_once():
    kinds = {type(prior) for prior in ALL}
    assert kinds == set(PRIORS.values()) and all(issubclass(kind, Prior) for kind in kinds)
