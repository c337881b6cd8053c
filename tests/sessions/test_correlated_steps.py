"""What a stochastic scheduler draws under a prior over frames, and whose generator a draw comes from."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

import seedbed
from seedbed.errors import NotSupported
from seedbed.pipelines.discover import values_digest
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT


def of(name):
    (family,) = (each for each in FAMILIES if each.name == name)
    return family


def test_step_noise_of_another_shape_is_refused_under_a_prior_over_frames():
    """Zeroscope steps with its frames in the batch."""
    family = of("ModelScope, Zeroscope")
    pipe, plain = family.built(), dict(candidates=1, progress=False, **family.call)
    seedbed.generate(pipe, PROMPT, prior="mixed:1", **plain)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    seedbed.generate(pipe, PROMPT, **plain)
    with pytest.raises(NotSupported, match="TextToVideoSDPipeline draws noise in its steps in another shape"):
        seedbed.generate(pipe, PROMPT, prior="mixed:1", **plain)
    assert "step" not in vars(pipe.scheduler)


def test_noise_like_the_sample_is_correlated_too():
    """FlowMatchEulerDiscreteScheduler draws by `randn_like`, without a generator."""
    pipe = BUILDERS["wan"]()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    noise, met = torch.randn(session.spec.shape), []

    def mixed(drawn):
        met.append(drawn.shape)
        return drawn

    session.correlate[values_digest(noise)] = mixed
    session.generate(noise)
    assert met == [noise.shape] * session.facts.steps


def test_a_sample_with_a_generator_of_its_own_is_not_the_callers_draw():
    """AnimateDiffSparseControlNetPipeline samples its pictures without the caller's generator."""
    family = of("AnimateDiff, controlled by single frames")
    session = Session(family.built(), family.prompt, **family.call)
    assert session.drawn.unseeded is None
