"""Statistics of a noise against N(0, I): exact p-values, and what each of them notices."""

import math

import numpy as np
import pytest
import torch
from scipy import fft, stats

from seedbed.errors import BadInput, BadOutput
from seedbed.noise.gaussianity import gaussianity, leaves_shell
from seedbed.noise.priors import Mixed

SHAPE = (8, 4, 12, 15)


def draw(seed, shape=SHAPE):
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape))


def values(noise, frame_axis=0):
    return {one.name: one for one in gaussianity(noise, frame_axis)}


def test_values_and_p_are_those_of_scipy():
    noise = draw(1)
    found, flat = values(noise), noise.numpy().ravel()
    size = flat.size
    assert found["mean"].p == pytest.approx(2 * stats.norm.sf(abs(flat.mean()) * math.sqrt(size)))
    below = stats.chi2.cdf((flat**2).sum(), size)
    assert found["norm"].p == pytest.approx(2 * min(below, 1 - below), rel=1e-6)
    assert found["norm"].value == pytest.approx(np.linalg.norm(flat))
    kurtosis = ((flat**4).mean() - 3) / math.sqrt(96 / size)
    assert found["kurtosis"].p == pytest.approx(2 * stats.norm.sf(abs(kurtosis)))
    for axis, length in enumerate(SHAPE):
        power = fft.dct(noise.numpy(), axis=axis, norm="ortho") ** 2
        low = np.take(power, range(length // 4), axis).sum()
        one = found[f"low frequencies of axis {axis}"]
        assert one.value == pytest.approx(low / power.sum())
        below = stats.chi2.cdf(low, length // 4 * size // length)
        assert one.p == pytest.approx(2 * min(below, 1 - below), rel=1e-6)
    lagged = (noise[2:] * noise[:-2]).mean().item()
    assert found["frames 2 apart"].value == pytest.approx(lagged)


def test_p_is_uniform_over_gaussian_noises():
    found = [values(draw(seed)) for seed in range(300)]
    for name in found[0]:
        assert stats.kstest([one[name].p for one in found], "uniform").pvalue > 1e-5, name


@pytest.mark.parametrize(
    ("spoil", "noticed"),
    [
        (lambda noise: 1.1 * noise, "norm"),
        (lambda noise: noise + 0.1, "mean"),
        (lambda noise: noise.sign(), "kurtosis"),
        (lambda noise: noise + 0.15 * (noise**2 - 1), "skewness"),
        (lambda noise: Mixed(0.5).draw(SHAPE, 0, np.random.default_rng(1)), "frames 1 apart"),
        (
            lambda noise: (noise + noise.roll(1, -1)) / math.sqrt(2),
            "low frequencies of axis 3",
        ),
    ],
)
def test_each_statistic_notices_its_fault(spoil, noticed):
    noise = draw(2)
    assert min(one.p for one in gaussianity(noise, 0)) > 1e-3 and leaves_shell(noise) == ""
    spoilt = spoil(noise)
    assert values(spoilt)[noticed].p < 1e-6
    if noticed != "frames 1 apart":
        assert leaves_shell(spoilt)


def test_a_long_axis_needs_no_matrix_of_its_length():
    noise = draw(3, (40_000, 3))
    power = fft.dct(noise.numpy(), axis=0, norm="ortho") ** 2
    one = values(noise)["low frequencies of axis 0"]
    assert one.value == pytest.approx(power[:10_000].sum() / power.sum())
    assert leaves_shell(noise) == ""


def test_edge_cases():
    assert values(torch.zeros(SHAPE))["norm"].p < 1e-6
    assert gaussianity(torch.randn(2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(BadInput, match="too small"):
        gaussianity(torch.zeros(1))
    with pytest.raises(BadInput, match="no axis"):
        gaussianity(draw(1), 4)
    with pytest.raises(BadOutput, match="not finite"):
        gaussianity(torch.full((4,), math.nan))
