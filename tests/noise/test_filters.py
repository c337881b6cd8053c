"""Frequency filters against diffusers' own FreeInit, and the variance that mixing keeps or loses."""

import math

import numpy as np
import pytest
import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin

from seedbed.errors import BadInput
from seedbed.noise import Mixed
from seedbed.noise.filters import low_pass, mix_frequencies

LENGTHS = (5, 6, 8)


def draw(seed, *batch):
    return torch.randn(*batch, *LENGTHS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", ["butterworth", "gaussian", "ideal"])
@pytest.mark.parametrize(("stop", "frame_stop"), [(0.25, 0.25), (0.4, 0.2), (1.0, 0.5)])
def test_filter_and_mix_are_those_of_diffusers(shape, stop, frame_stop):
    theirs = FreeInitMixin()._get_free_init_freq_filter((1, 2, *LENGTHS), "cpu", shape, 4, stop, frame_stop)
    ours = low_pass(LENGTHS, shape, stop=stop, frame_stop=frame_stop)
    assert (theirs[0, 0] - ours).abs().max() < 1e-6
    low, high = draw(1, 1, 2), draw(2, 1, 2)
    wanted = FreeInitMixin()._apply_freq_filter(low, high, theirs)
    assert (mix_frequencies(low, high, ours) - wanted).abs().max() < 1e-5


def test_a_box_filters_each_axis_by_itself():
    box = low_pass((8, 8), "box", stop=0.5)
    side = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0], dtype=torch.float64)
    assert torch.equal(box, torch.outer(side, side))


@pytest.mark.parametrize("keep_variance", [False, True])
def test_variance_after_mixing(keep_variance):
    """Each frequency holds `LPF² + HPF²` of the variance: 1 only where the mix keeps it."""
    passing = torch.fft.ifftshift(low_pass(LENGTHS, stop=0.6))
    negative = torch.stack([passing[-t, -h, -w] for t in range(5) for h in range(6) for w in range(8)])
    passing = (passing + negative.view(LENGTHS)) / 2  # a real tensor has each frequency with its negative
    others = 1 - passing**2 if keep_variance else (1 - passing) ** 2
    wanted = (passing**2 + others).mean().item()
    low, high, mask = draw(3, 4000), draw(4, 4000), low_pass(LENGTHS, stop=0.6)
    mixed = mix_frequencies(low, high, mask, keep_variance=keep_variance)
    assert mixed.var().item() == pytest.approx(wanted, abs=5 * math.sqrt(2 / mixed.numel()) + 2e-3)
    assert (wanted == pytest.approx(1, abs=1e-12)) == keep_variance
    assert keep_variance or wanted < 0.95


def covariance_error(noises):
    """Distance of the sample covariance of (draws, ...) from the identity, Frobenius."""
    flat = noises.flatten(1).double()
    return (flat.T @ flat / len(flat) - torch.eye(flat.shape[1])).norm().item()


@pytest.mark.parametrize("alpha", [1, 2])
def test_covariance_errors_of_freqprior(alpha):
    """Of arXiv 2502.03496: of a mixed prior `α²/(1 + α²) √((T − 1) T H W)`, of its own mix 0.

    FreeInit's mix leaves `LPF² + (1 − LPF)²` of the variance at each frequency.
    """
    frames, height, width, draws = 4, 2, 3, 40_000
    size = frames * height * width
    sampling = (
        1.5 * size / math.sqrt(draws)
    )  # what a sample of the identity is off by, and half as much again
    noise = Mixed(alpha).draw((draws, frames, height, width), 1, np.random.default_rng(0))
    wanted = alpha**2 / (1 + alpha**2) * math.sqrt((frames - 1) * size)
    assert covariance_error(noise) == pytest.approx(wanted, abs=sampling)
    low, high = torch.randn(2, draws, frames, height, width, generator=torch.Generator().manual_seed(7))
    passing = low_pass((frames, height, width), stop=0.6)
    assert covariance_error(mix_frequencies(low, high, passing, keep_variance=True)) < sampling
    shifted = torch.fft.ifftshift(passing)
    shifted = (shifted + shifted.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))) / 2
    lost = (1 - shifted**2 - (1 - shifted) ** 2).norm().item()
    assert lost > 2 * sampling
    assert covariance_error(mix_frequencies(low, high, passing)) == pytest.approx(lost, abs=sampling)


def test_all_low_or_all_high():
    low, high = draw(5), draw(6)
    assert (mix_frequencies(low, high, torch.ones(LENGTHS)) - low).abs().max() < 1e-6
    assert (mix_frequencies(low, high, torch.zeros(LENGTHS)) - high).abs().max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"shape": "round"},
        {"stop": 0},
        {"frame_stop": 1.5},
        {"order": 0},
        {"stop": math.nan},
        {"stop": "abc"},
        {"order": "4"},
    ],
)
def test_bad_input_is_one_line(options):
    with pytest.raises(BadInput):
        low_pass(LENGTHS, **options)
