"""Noising, targets and weights against the papers in float64, and against what samplers make of them."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.prediction import predicted
from seedbed.training.denoisers import Objective

SCHEDULERS = {
    "epsilon": DDIMScheduler(clip_sample=False),
    "v_prediction": DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "flow_prediction": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
}


def drawn():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 6, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    return clean, noise, torch.linspace(0, 0.999, 6, dtype=torch.float64)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_noising_and_targets_are_those_of_the_papers(kind):
    clean, noise, share = drawn()
    noisy, target, timestep = Objective.of(SCHEDULERS[kind]).noised(clean, noise, share)
    for row in range(6):
        x, e = clean[row].numpy(), noise[row].numpy()
        if kind == "flow_prediction":
            sigma = 3 * share[row].item() / (1 + 2 * share[row].item())
            expected, wanted = (1 - sigma) * x + sigma * e, e - x
            assert timestep[row].item() == pytest.approx(1000 * sigma, rel=1e-6)
        else:
            t = int(share[row].item() * 1000)
            power = SCHEDULERS[kind].alphas_cumprod[t].item()
            alpha, sigma = np.sqrt(power), np.sqrt(1 - power)
            expected, wanted = alpha * x + sigma * e, e if kind == "epsilon" else alpha * e - sigma * x
            assert timestep[row] == t
        assert np.abs(noisy[row].numpy() - expected).max() < 1e-12
        assert np.abs(target[row].numpy() - wanted).max() < 1e-12


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_sampler_finds_the_clean_latents_in_a_perfect_prediction(kind):
    clean, noise, _ = drawn()
    scheduler = SCHEDULERS[kind]
    scheduler.set_timesteps(4)
    objective = Objective.of(scheduler)
    for step, at in enumerate(scheduler.timesteps[1:], 1):
        level = at.item() / 1000
        share = level / (3 - 2 * level) if kind == "flow_prediction" else (at.item() + 0.5) / 1000
        noisy, target, timestep = objective.noised(clean[:1], noise[:1], torch.tensor([share]))
        # The sampler's own timesteps are rounded down to whole numbers.
        assert abs(timestep.item() - at.item()) < 1e-3
        given = {"model_output": target, "timestep": at, "sample": noisy}
        found = predicted(scheduler, step, given).clean
        assert (found - clean[:1]).abs().max() < (1e-2 if kind == "flow_prediction" else 1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper(gamma):
    timestep = torch.tensor([0, 300, 900, 999])
    for kind in ("epsilon", "v_prediction"):
        power = SCHEDULERS[kind].alphas_cumprod[timestep].double().numpy()
        found = Objective.of(SCHEDULERS[kind]).weights(timestep, gamma).numpy()
        for weight, p in zip(found, power, strict=True):
            snr = p / (1 - p)
            if kind == "epsilon":
                assert weight == pytest.approx(min(snr, gamma) / snr, rel=1e-5)
            else:
                assert weight == pytest.approx(min(snr, gamma) / (snr + 1), rel=1e-5, abs=1e-9)
    zero = Objective("epsilon", torch.tensor([0.0], dtype=torch.float64), 1.0, 1)
    assert zero.weights(torch.tensor([0]), gamma).item() == 1  # the limit


def test_what_has_no_objective_is_refused():
    with pytest.raises(BadInput, match="min_snr is for"):
        Objective.of(SCHEDULERS["flow_prediction"]).weights(torch.tensor([1.0]), 5.0)
    with pytest.raises(NotSupported, match="predicts 'sample'"):
        Objective.of(DDIMScheduler(prediction_type="sample"))
    assert Objective.of(FlowMatchEulerDiscreteScheduler(shift=2.0)).shift == 2


def test_a_shift_makes_noisy_timesteps_of_v_denser():
    clean, noise, share = drawn()
    timestep = Objective.of(SCHEDULERS["v_prediction"], 4.0).noised(clean, noise, share)[2]
    assert timestep.tolist() == [int(1000 * 4 * u / (1 + 3 * u)) for u in share.tolist()]
    plain = Objective.of(SCHEDULERS["v_prediction"]).noised(clean, noise, share)[2]
    assert plain.tolist() == [int(1000 * u) for u in share.tolist()]
