"""The one-dimensional flow of recipes/minimal against quadrature, and against what must come out of it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/minimal"))
from minimal import CENTRES, NOISES, POOLS, THIRDS, WIDTH, Bench, Model, against, distance, main_arms
from minimal_page import DOCS, load, page


def slow_velocity(model, x, t, prompt):
    """`∫ (z − x0) p(z, x0 | caption)` over the line (1 − t) x0 + t z = x, interval by interval."""
    top = bottom = 0.0
    for share, centre, third in zip(model.shares(prompt), CENTRES, THIRDS, strict=True):
        for low, high in THIRDS:
            weight = share * ((1 - model.tie) + model.tie * 3 * ((low, high) == third))

            def pair(z, centre=centre):
                return math.exp(-(z**2) / 2 - (((x - t * z) / (1 - t) - centre) / WIDTH) ** 2 / 2)

            def moved(z, pair=pair):
                return (z - (x - t * z) / (1 - t)) * pair(z)

            ends = (max(low, -9), min(high, 9))
            # The peak's place, so that quadrature does not miss it.
            spread = (1 - t) ** 2 * WIDTH**2 + t**2
            peak = t * (x - (1 - t) * centre) / spread
            inside = [p for p in (peak - 0.05, peak, peak + 0.05) if ends[0] < p < ends[1]] or None
            options = dict(points=inside, epsabs=0, epsrel=1e-9, limit=200)
            top += weight * quad(moved, *ends, **options)[0]
            bottom += weight * quad(pair, *ends, **options)[0]
    return top / bottom


@pytest.mark.parametrize("prompt", [0, 1, None])
@pytest.mark.parametrize("t", [0.95, 0.5, 0.1])
def test_the_field_is_that_of_the_pairs(t, prompt):
    model = Model(tie=0.7, loose=0.4)
    x = np.array([-1.6, -0.45, 0.1, 0.9])
    wanted = [slow_velocity(model, each, t, prompt) for each in x]
    found = model.velocity(torch.from_numpy(x), t, prompt).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_noise_becomes_data_of_the_same_rank(prompt):
    """Trajectories cannot cross: as many training noises lie below z as training data below its end."""
    model = Model()
    z = torch.tensor([-1.5, -0.6, -0.2, 0.3, 0.7, 1.4], dtype=torch.float64)
    ends, _ = model.sample(z, prompt, steps=200)
    shares = model.shares(prompt)
    below = sum(share * norm.cdf(ends.numpy(), c, WIDTH) for share, c in zip(shares, CENTRES, strict=True))
    within = [np.clip(norm.cdf(z.numpy()) - norm.cdf(low), 0, 1 / 3) * 3 for low, _ in THIRDS]
    wanted = sum(
        share * (model.tie * w + (1 - model.tie) * norm.cdf(z.numpy()))
        for share, w in zip(shares, within, strict=True)
    )
    np.testing.assert_allclose(below, wanted, atol=0.02)


def test_predictions_are_one_another_and_epsilon_says_nothing_at_the_start():
    model, x = Model(), torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t in (1.0, 0.6):
        clean, noise = (model.predict(x, t, 0, target) for target in ("x0", "epsilon"))
        assert ((1 - t) * clean + t * noise - x).abs().max() < 1e-12
        assert (noise - clean - model.predict(x, t, 0, "velocity")).abs().max() < 1e-12
    assert torch.equal(model.predict(x, 1.0, 0, "epsilon"), x)
    assert not model.predict(x, 1.0, 0, "guidance_gap").any()


def test_guidance_goes_beyond_the_prompt():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    plain, free = Model().velocity(x, 1.0, 1), Model().velocity(x, 1.0, None)
    ends, length = Model(guidance=3.0).sample(x, 1, steps=1)
    assert (ends - (x - (free + 3 * (plain - free)))).abs().max() < 1e-12
    assert torch.equal(length, (ends - x).abs())


def test_distances_are_wasserstein():
    ends = CENTRES[1] + WIDTH * torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    assert distance(ends, 1) == pytest.approx(0, abs=1e-12)
    assert distance(ends + 0.7, 1) == pytest.approx(0.7)
    assert distance(1.5 * ends, 1) == pytest.approx(0.5 * WIDTH * math.sqrt(2 / math.pi), rel=1e-3)


def test_the_page_is_made_from_the_committed_results():
    text = (DOCS / "minimal-model.md").read_text()
    assert text == page(), "out of date: run recipes/minimal/minimal_page.py"
    assert (DOCS / "figures/minimal-model.png").stat().st_size < 150_000


@pytest.mark.slow
def test_the_recipe_makes_the_committed_results():
    bench, model, result = Bench(), Model(), load()
    assert (result["pools"], result["noises"]) == tuple(bench.noise.shape) == (POOLS, NOISES)
    plain = bench.look(model, lambda prompt: bench.noise)
    for name, starts in main_arms(bench, model, (0.1,)).items():
        found = against(bench.look(model, starts), plain, tuple(result["main"][name]))
        for group, row in found.items():
            for measure, interval in row.items():
                assert interval == pytest.approx(result["main"][name][group][measure], abs=2e-5)
