"""Fréchet distance and Inception Score against closed forms in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from recipes.metrics import features as recipe
from seedbed.errors import BadInput, BadOutput
from seedbed.lab.metrics import features_of, frechet, frechet_bias, inception_score
from seedbed.worlds import shapes


def gaussian(seed, count, width=6, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, width)) @ generator.standard_normal((width, width)) + shift


def exact(real, made):
    """The distance from moments that numpy computes, by scipy's square root of a matrix."""
    one, other = np.cov(real.T), np.cov(made.T)
    cross = np.trace(sqrtm(one @ other)).real
    return np.square(real.mean(0) - made.mean(0)).sum() + np.trace(one) + np.trace(other) - 2 * cross


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_distance_is_the_closed_form(shift):
    real, made = gaussian(0, 200), gaussian(1, 150, shift=shift)
    assert frechet(real, made) == pytest.approx(exact(real, made), rel=1e-9)
    assert frechet(made, real) == pytest.approx(exact(real, made), rel=1e-9)
    # A mean far from 0 changes nothing.
    assert frechet(real + 1e4, made + 1e4) == pytest.approx(exact(real, made), rel=1e-6)


def test_known_gaussians_are_as_far_apart_as_they_are():
    """Samples whitened, so that their moments are exact: |μ|² + Σ (s - t)² over the axes."""
    first, second = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 0.5])
    drawn = []
    for seed, scale in ((0, first), (1, second)):
        z = np.random.default_rng(seed).standard_normal((50, 3))
        z -= z.mean(0)
        z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
        drawn.append(z * scale)
    shift = np.array([0.3, -0.4, 0.0])
    expected = 0.25 + np.square(first - second).sum()
    assert frechet(drawn[0], drawn[1] + shift) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_not_apart_from_itself():
    real = gaussian(0, 40)
    assert abs(frechet(real, real)) < 1e-9 * np.trace(np.cov(real.T))
    assert abs(frechet(real, real[::-1].copy())) < 1e-9 * np.trace(np.cov(real.T))
    few = gaussian(0, 5, width=20)  # covariances without an inverse
    assert abs(frechet(few, few)) < 1e-5 * np.trace(np.cov(few.T))


def test_the_inception_score_of_known_distributions():
    sure = torch.full((50, 5), -200.0)
    sure[torch.arange(50), torch.arange(50) % 5] = 200.0
    with pytest.raises(BadOutput, match="not finite"):  # a split without one of the classes
        inception_score(torch.full((4, 2), 800.0) * torch.tensor([1.0, -1.0]), splits=1)
    assert inception_score(sure, splits=1).mean == pytest.approx(5, rel=1e-9)
    assert math.isnan(inception_score(sure, splits=1).deviation)
    assert inception_score(torch.zeros(50, 5)) == pytest.approx((1, 0), abs=1e-12)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 4)))
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    expected = math.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert inception_score(logits, splits=1).mean == pytest.approx(expected, rel=1e-12)
    state = torch.random.get_rng_state()
    assert inception_score(logits, seed=3) == inception_score(logits, seed=3) != inception_score(logits)
    assert torch.equal(state, torch.random.get_rng_state())


def test_samples_that_differ_in_nothing_are_nearer_the_more_they_are():
    rows = np.random.default_rng(0).standard_normal((800, 4))
    small, middle, large = frechet_bias(rows, [20, 80, 320])
    assert small.low > middle.high and middle.low > large.high > 0
    # About as 1/n.
    assert small.mean / middle.mean == pytest.approx(4, rel=0.4)
    assert frechet_bias(rows, [20]) == [small]


def rendered(count):
    return np.stack([shapes.render(scene) for scene in itertools.islice(shapes.scenes(0), count)])


def test_features_come_in_batches_and_a_network_may_be_anything():
    videos = rendered(5)

    def colours(batch):
        return torch.from_numpy(batch.mean((1, 2, 3)))

    found = features_of(videos, colours, batch_size=2)
    assert torch.equal(found, torch.from_numpy(videos.mean((1, 2, 3)))) and found.dtype == torch.float64
    assert torch.equal(features_of(list(videos), colours), found)


def test_mistakes_are_one_line():
    videos = rendered(3)
    with pytest.raises(BadInput, match="uint8 videos of one size"):
        features_of(videos.astype(float), lambda batch: torch.zeros(len(batch), 2))
    with pytest.raises(BadInput, match="uint8 videos of one size"):
        features_of([], lambda batch: torch.zeros(len(batch), 2))
    with pytest.raises(BadInput, match="features of 3 videos"):
        features_of(videos, lambda batch: torch.zeros(1, 2))
    with pytest.raises(BadOutput, match="row 1 is not finite"):
        frechet([[1.0], [math.nan]], [[1.0], [2.0]])
    with pytest.raises(BadInput, match="widths 1 and 2"):
        frechet(np.ones((3, 1)), np.ones((3, 2)))
    with pytest.raises(BadInput, match="n at least 2"):
        frechet(np.ones((1, 2)), np.ones((3, 2)))
    with pytest.raises(BadInput, match="n at least 10"):
        inception_score(np.ones((9, 2)))
    with pytest.raises(BadInput, match="each of sizes must be a whole number from 2 to 4"):
        frechet_bias(np.ones((8, 2)), [5])


def test_the_recipes_network_learns_and_comes_back_from_its_file(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "shapes.safetensors"
    monkeypatch.setattr("sys.argv", ["features", "--out", str(out), "--steps", "3", "--batch", "4"])
    recipe.main()
    assert '"accuracy"' in capsys.readouterr().out
    network, videos = recipe.load(out), rendered(4)
    assert torch.equal(network.logits(videos), recipe.load(out).logits(videos))
    assert network.features(videos).shape == (4, recipe.WIDTH)
    _, shares = recipe.rendered(0, 6, False)
    assert shares.sum(1).tolist() == pytest.approx([1] * 6) and set(shares.unique().tolist()) <= {0, 0.5, 1}
