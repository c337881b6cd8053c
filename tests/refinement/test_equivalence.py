"""One injection against one denoising step, as docs/minimal-model.md says where they are the same.

The steps are written from the definitions: with x_t = α x0 + σ ε, a deterministic step (DDIM, arXiv
2010.02502) goes to α' x̂0 + σ' ε̂; on a straight path (α = 1 − t, σ = t) that is Euler's x − (t − t') v.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from seedbed.refinement.formulas import inject

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/minimal"))
from minimal import Model

SIZE = 24
MATRICES = torch.randn(4, SIZE, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / 5


def draw(seed):
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(z, t):
    """A random linear prediction, another one for every time."""
    return MATRICES[round(10 * t) % 4] @ z


PREDICTIONS = {"linear": linear, "minimal": lambda z, t: Model().velocity(z, t, 1)}


def once(z, prediction, delta, sign, t=1.0, rescale="none"):
    return inject(z, lambda z, t: prediction, [t], delta=delta, sign=sign, rescale=rescale)


def ddim(clean, noise, alpha, sigma):
    return alpha * clean + sigma * noise


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [1.0, 0.6])
@pytest.mark.parametrize("sign", [-1, 1])
def test_on_a_straight_path_an_injected_velocity_is_eulers_step_but_for_the_scale(prediction, t, sign):
    """− denoises to t − δ, + goes back to t + δ."""
    z, delta, velocity = draw(1), 0.25, PREDICTIONS[prediction]
    injected = inject(z, velocity, [t], delta=delta, sign=sign, rescale="none")
    clean, noise = z - t * velocity(z, t), z + (1 - t) * velocity(z, t)
    later = t + sign * delta
    step = ddim(clean, noise, 1 - later, later)
    assert (math.sqrt(1 + delta**2) * injected - step).abs().max() < 1e-12


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("angle", [math.pi / 2, 1.1])
def test_an_injected_v_is_a_ddim_step_the_published_denominator_included(angle, sign):
    """σ = sin(angle), α = cos(angle): a turn by atan δ, exactly, from pure noise too."""
    z, v, delta = draw(2), draw(3), 0.3
    alpha, sigma = math.cos(angle), math.sin(angle)
    later = angle + sign * math.atan(delta)
    step = ddim(alpha * z - sigma * v, sigma * z + alpha * v, math.cos(later), math.sin(later))
    assert (once(z, v, delta, sign) - step).abs().max() < 1e-12


def test_an_injected_epsilon_is_a_ddim_step_but_for_the_scale_and_nothing_at_pure_noise():
    z, noise, alpha, later = draw(4), draw(5), 0.3, 0.45
    sigma, after = math.sqrt(1 - alpha**2), math.sqrt(1 - later**2)
    step = ddim((z - sigma * noise) / alpha, noise, later, after)
    delta = sigma - alpha * after / later
    scale = later / alpha * math.sqrt(1 + delta**2)
    assert (scale * once(z, noise, delta, -1) - step).abs().max() < 1e-12 and scale > 1.4
    # Back, to more noise: the same with +.
    back = ddim((z - sigma * noise) / alpha, noise, 0.2, math.sqrt(1 - 0.04))
    delta = alpha * math.sqrt(1 - 0.04) / 0.2 - sigma
    assert (0.2 / alpha * math.sqrt(1 + delta**2) * once(z, noise, delta, 1) - back).abs().max() < 1e-12
    # At pure noise ε̂ = z.
    for sign in (1, -1):
        injected = once(z, z, 0.3, sign)
        assert (injected - z * (1 + 0.3 * sign) / math.sqrt(1.09)).abs().max() < 1e-12
        assert (once(z, z, 0.3, sign, rescale="standardise") - z).abs().max() < 1e-12


def test_an_injected_x0_is_a_denoising_step_with_plus():
    z, clean = draw(6), draw(7)
    for alpha, sigma, later, after in (
        (0.4, math.sqrt(0.84), 0.6, 0.8),  # variance preserving
        (0.0, 1.0, 0.28, 0.96),  # the same from pure noise: scale 1
        (0.0, 1.0, 0.1, 0.9),  # a straight path
        (0.3, 0.7, 0.5, 0.5),
    ):
        step = ddim(clean, (z - alpha * clean) / sigma, later, after)
        delta = later * sigma / after - alpha
        scale = after / sigma * math.sqrt(1 + delta**2)
        assert (scale * once(z, clean, delta, 1) - step).abs().max() < 1e-12
        assert (abs(scale - 1) < 1e-12) == (alpha == 0 and later == 0.28)


@pytest.mark.parametrize("rescale", ["standardise", "spherical"])
def test_rescaled_it_is_the_same_step_but_for_scale_and_mean(rescale):
    """Standardised: of the length δ. Spherical: of another, as the direction is first made as long as z."""
    z, v = draw(8), draw(9)
    injected = once(z, v, 0.3, -1, rescale=rescale)
    terms = torch.stack([z, v, torch.ones_like(z)], 1)
    found = torch.linalg.lstsq(terms, injected[:, None])
    own, moved, shift = found.solution.flatten().tolist()
    assert (terms @ found.solution - injected[:, None]).abs().max() < 1e-12
    if rescale == "standardise":
        assert moved / own == pytest.approx(-0.3, abs=1e-12)
    else:
        assert moved / own < 0 and shift == pytest.approx(0, abs=1e-12)


def test_several_times_are_no_step():
    """K equal predictions are one step √K times as long; different ones, all at the same z, are none."""
    z, times, delta = draw(10), [0.9, 0.6, 0.1], 0.2
    equal = inject(z, lambda z, t: linear(z, 1.0), times, delta=delta, sign=-1, rescale="none")
    long = z - math.sqrt(3) * delta * linear(z, 1.0)
    assert (math.sqrt(1 + delta**2) * equal - long).abs().max() < 1e-12
    for prediction in PREDICTIONS.values():
        several = inject(z, prediction, times, delta=delta, sign=-1, rescale="none")
        terms = torch.stack(
            [z, prediction(z, 1.0)], 1
        )  # every step from pure noise, of every length and scale
        best = terms @ torch.linalg.lstsq(terms, several[:, None]).solution
        assert (best.flatten() - several).norm() > 0.02 * several.norm()


def test_the_schedulers_of_diffusers_take_these_steps():
    z, prediction = draw(11), draw(12)
    flow = FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(10)
    step = flow.step(prediction, flow.timesteps[0], z).prev_sample
    delta = (flow.sigmas[0] - flow.sigmas[1]).item()
    assert (math.sqrt(1 + delta**2) * once(z, prediction, delta, -1) - step).abs().max() < 1e-6
    ddim = DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    ddim.set_timesteps(10)
    step = ddim.step(prediction, ddim.timesteps[0], z).prev_sample
    power = ddim.alphas_cumprod[ddim.timesteps[:2].long()].double()
    assert power[0] == 0
    delta = math.tan(math.pi / 2 - math.acos(power[1].sqrt().item()))
    assert (once(z, prediction, delta, -1) - step).abs().max() < 1e-6


def test_what_follows_is_another_matter():
    """After a step the sampler goes on from t − δ; after an injection it starts at t = 1 again."""
    model, prompt, delta = Model(), 1, 0.1
    z = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    injected = inject(
        z, lambda z, t: model.velocity(z, t, prompt), [1.0], delta=delta, sign=-1, rescale="none"
    )
    ends, _ = model.sample(z, prompt, steps=50)
    on, _ = model.sample(injected * math.sqrt(1 + delta**2), prompt, steps=45, since=1 - delta)
    anew, _ = model.sample(injected, prompt, steps=50)
    # From t − δ the ends differ from plain sampling by what one coarser step costs.
    assert (on - ends).abs().mean() < 0.01 < 0.03 < (anew - ends).abs().mean()
