"""What pipelines draw without a generator is drawn from one of their own, and can be drawn again."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
)

import seedbed
from seedbed.acquisition import Previews
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT


def sde():
    """Wan hands no generator to its scheduler."""
    pipe = BUILDERS["wan"]()
    pipe.scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, algorithm_type="sde-dpmsolver++"
    )
    return pipe, "wan"


def flow():
    pipe = BUILDERS["ltx"]()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    return pipe, "ltx"


def consistency():
    pipe = BUILDERS["ltx"]()
    pipe.scheduler = FlowMatchLCMScheduler.from_config(pipe.scheduler.config)
    return pipe, "ltx"


def decoder():
    """LTX-Video 0.9.1 adds noise while it decodes."""
    pipe = BUILDERS["ltx"]()
    blocks = len(pipe.vae.config.block_out_channels) + 1
    pipe.vae = AutoencoderKLLTXVideo.from_config(pipe.vae.config, decoder_inject_noise=(True,) * blocks)
    for name, scale in pipe.vae.named_parameters():
        if "per_channel_scale" in name:
            torch.nn.init.ones_(scale)
    return pipe, "ltx"


@pytest.fixture(params=[sde, flow, consistency, decoder])
def drawing(request):
    pipe, family = request.param()
    return pipe, CALLS[family] | {"num_inference_steps": 4}


def first(videos, prompts):
    return -np.arange(len(videos), dtype=float)


def judged_after(step):
    return Previews(verifier=first, schedule=((step, 1),))


def test_a_run_is_repeated_and_the_callers_random_state_is_left_alone(drawing):
    pipe, call = drawing
    state = torch.get_rng_state()
    options = dict(candidates=2, progress=False, **call)
    made = seedbed.generate(pipe, PROMPT, acquisition="random", **options)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    paused = seedbed.generate(pipe, PROMPT, acquisition=judged_after(2), **options)
    assert seedbed.replay(paused.record(), pipe, progress=False).identical
    assert torch.equal(torch.get_rng_state(), state)
    assert "decode" not in vars(pipe.vae) and "step" not in vars(pipe.scheduler)


def test_it_is_the_run_of_the_pipeline_itself_after_the_same_seed(drawing):
    pipe, call = drawing
    session = Session(pipe, PROMPT, generator=torch.Generator().manual_seed(7), **call)
    noise = torch.randn(1, *session.spec.shape, generator=torch.Generator().manual_seed(1))
    made = session.generate(noise[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        generator = torch.Generator().manual_seed(7)
        plain = pipe(PROMPT, latents=noise, generator=generator, output_type="np", **call).frames[0]
    assert np.array_equal(made, (plain * 255).round().astype(np.uint8))


def test_candidates_meet_the_same_noise_in_every_batch():
    pipe, family = sde()
    options = dict(acquisition="entropy:steps=3", candidates=3, progress=False)
    call = CALLS[family] | {"num_inference_steps": 4}
    alone, together = (seedbed.select(pipe, PROMPT, batch_size=n, **options, **call) for n in (1, 3))
    torch.testing.assert_close(alone.scores, together.scores, rtol=1e-5, atol=0)


def test_a_copy_of_the_scheduler_draws_so_too():
    """LTX-2 copies its scheduler for the sound."""
    (family,) = (family for family in FAMILIES if family.name == "LTX-2")
    pipe = family.built()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    state = torch.get_rng_state()
    options = dict(candidates=2, progress=False, **family.call)
    paused = seedbed.generate(pipe, PROMPT, acquisition=judged_after(1), **options)
    assert seedbed.replay(paused.record(), pipe, progress=False).identical
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", [lambda x: torch.randint(0, 99, [3]), lambda x: torch.randn_like(x)])
def test_other_ways_to_draw(draw):
    pipe, drawn = BUILDERS["wan"](), []

    class Drawing(type(pipe.scheduler)):
        def step(self, model_output, timestep, sample, return_dict=True):
            drawn.append(draw(sample.double()))
            return super().step(model_output, timestep, sample, return_dict=return_dict)

    pipe.scheduler = Drawing.from_config(pipe.scheduler.config)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    noise = torch.zeros(session.spec.shape)
    state = torch.get_rng_state()
    session.generate(noise)
    session.generate(noise)
    assert torch.equal(torch.stack(drawn[:2]), torch.stack(drawn[2:])) and not torch.equal(*drawn[:2])
    assert torch.equal(torch.get_rng_state(), state)
