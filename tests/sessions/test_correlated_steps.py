"""What a stochastic scheduler draws under a prior over frames, and whose generator a draw comes from."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

import seedbed
from seedbed.errors import NotSupported
from seedbed.pipelines.comparing import values_digest
from seedbed.pipelines.session import Session
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT


def of(name):
    (family,) = (each for each in FAMILIES if each.name == name)
    return family


def stochastic(scheduler):
    """One of its kind that adds noise in its steps."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return type(scheduler).from_config(scheduler.config, stochastic_sampling=True)
    return DDPMScheduler.from_config(scheduler.config)


@pytest.mark.parametrize(
    "name",
    [
        "ModelScope, Zeroscope",  # steps with its frames in the batch
        "LTX-Video, image to video",  # and these without the frame that is given
        *map(slow, ("HunyuanVideo, image to video", "LTX-2, image to video", "LTX-Video, conditions")),
    ],
)
def test_step_noise_of_another_shape_is_refused_under_a_prior_over_frames(name):
    family = of(name)
    pipe, plain = family.built(), dict(candidates=1, progress=False, **family.call)
    seedbed.generate(pipe, PROMPT, prior="mixed:1", **plain)
    pipe.scheduler = stochastic(pipe.scheduler)
    seedbed.generate(pipe, PROMPT, **plain)
    with pytest.raises(
        NotSupported, match=f"{type(pipe).__name__} draws noise in its steps in another shape"
    ):
        seedbed.generate(pipe, PROMPT, prior="mixed:1", **plain)
    assert "step" not in vars(pipe.scheduler)


@pytest.mark.slow
def test_the_sound_beside_a_video_is_not_correlated():
    """LTX-2 steps with it by a copy of its scheduler."""
    family = of("LTX-2")
    pipe = family.built()
    pipe.scheduler = stochastic(pipe.scheduler)
    options = dict(prior="mixed:1", candidates=1, progress=False, **family.call)
    made = seedbed.generate(pipe, PROMPT, **options)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    session = Session(pipe, PROMPT, **family.call)
    noise, met = made.selection.pool[0], []
    session.correlate[values_digest(noise)] = lambda drawn: met.append(drawn.shape) or drawn
    session.generate(noise)
    assert met == [noise.shape] * session.facts.steps


class BrownianInterval:
    """As torchsde's, of one interval: it draws with a generator of its own."""

    def __init__(self, t0, t1, size, dtype, device, entropy, **_):
        self.draw = lambda: torch.randn(
            size, dtype=dtype, device=device, generator=torch.Generator(device).manual_seed(entropy)
        )

    def __call__(self, t0, t1):
        return self.draw() * abs(t1 - t0) ** 0.5


def test_the_noise_of_a_brownian_tree_is_correlated_too(monkeypatch):
    """DPMSolverSDEScheduler of k-diffusion; torchsde, which it needs, is not among what the tests install."""
    monkeypatch.setitem(sys.modules, "torchsde", SimpleNamespace(BrownianInterval=BrownianInterval))
    place = "diffusers.schedulers.scheduling_dpmsolver_sde"
    monkeypatch.delitem(sys.modules, place, raising=False)
    module = importlib.import_module(place)
    monkeypatch.delitem(sys.modules, place)
    drawn = []

    class Watched(module.BrownianTreeNoiseSampler):
        def __call__(self, *args):
            drawn.append(super().__call__(*args))
            return drawn[-1]

    monkeypatch.setattr(module, "BrownianTreeNoiseSampler", Watched)
    pipe = BUILDERS["animatediff"]()
    pipe.scheduler = module.DPMSolverSDEScheduler.from_config(pipe.scheduler.config)
    plain = dict(candidates=1, progress=False, **CALLS["animatediff"])
    for prior, same in ((None, False), ("repeated", True)):
        drawn.clear()
        made = seedbed.generate(pipe, PROMPT, prior=prior, **plain)
        frames = torch.stack(drawn).movedim(made.selection.recipe.frame_axis + 2, 0)
        assert torch.equal(frames[0], frames[1]) is same
        assert seedbed.replay(made.record(), pipe, progress=False).identical


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
