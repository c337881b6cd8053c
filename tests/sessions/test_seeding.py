"""What pipelines draw without a generator is drawn from one of their own, and can be drawn again."""

import random

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
)
from diffusers.utils.torch_utils import randn_tensor

import seedbed
from seedbed.acquisition import Previews
from seedbed.pipelines import drawing
from seedbed.pipelines.rollout import Rollout
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
def stochastic(request):
    pipe, family = request.param()
    return pipe, CALLS[family] | {"num_inference_steps": 4}


def first(videos, prompts):
    return -np.arange(len(videos), dtype=float)


def judged_after(step):
    return Previews(verifier=first, schedule=((step, 1),))


def test_a_run_is_repeated_and_the_callers_random_state_is_left_alone(stochastic):
    pipe, call = stochastic
    state = torch.get_rng_state()
    options = dict(candidates=2, progress=False, **call)
    made = seedbed.generate(pipe, PROMPT, acquisition="random", **options)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    paused = seedbed.generate(pipe, PROMPT, acquisition=judged_after(2), **options)
    assert seedbed.replay(paused.record(), pipe, progress=False).identical
    assert torch.equal(torch.get_rng_state(), state)
    assert "decode" not in vars(pipe.vae) and "step" not in vars(pipe.scheduler)


def test_it_is_the_run_of_the_pipeline_itself_after_the_same_seed(stochastic):
    pipe, call = stochastic
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


DRAWS = {
    "randn of a list": lambda x: torch.randn([*x.shape]),
    "randn of numbers": lambda x: torch.randn(*x.shape),
    "randn of a size": lambda x: torch.randn(size=x.shape, dtype=x.dtype),
    "randn_tensor": lambda x: randn_tensor(x.shape, generator=None, device=x.device, dtype=x.dtype),
    "randn_like": torch.randn_like,
    "rand": lambda x: torch.rand(x.shape),
    "rand_like": lambda x: torch.rand_like(x, memory_format=torch.preserve_format),
    "randint": lambda x: torch.randint(0, 99, tuple(x.shape)),
    "randint_like": lambda x: torch.randint_like(x, 99),
    "normal": lambda x: torch.normal(1.0, 2.0, tuple(x.shape)),
    "normal of tensors": lambda x: torch.normal(x, x.abs() + 1),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "poisson": lambda x: torch.poisson(9 * x.sigmoid()),
    "binomial": lambda x: torch.binomial(torch.full_like(x, 99), x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.flatten(1).sigmoid(), 9),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "nn.init": lambda x: torch.nn.init.trunc_normal_(torch.empty_like(x)),
}
ALIKE = {"randperm": lambda x: torch.randperm(99), "randint": lambda x: torch.randint(0, 99, [3])}


def drawing_in_its_steps(draw):
    pipe, drawn = BUILDERS["wan"](), []

    class Drawing(type(pipe.scheduler)):
        def step(self, model_output, timestep, sample, return_dict=True):
            drawn.append(draw(0 * sample.double() + 1))
            return super().step(model_output, timestep, sample, return_dict=return_dict)

    pipe.scheduler = Drawing.from_config(pipe.scheduler.config)
    return Session(pipe, PROMPT, **CALLS["wan"]), drawn


@pytest.mark.parametrize("name", [*DRAWS, "randperm"])
def test_every_way_to_draw_is_seeded_and_the_same_for_each_candidate(name):
    session, drawn = drawing_in_its_steps((DRAWS | ALIKE)[name])
    noises = torch.zeros(4, *session.spec.shape)
    state = torch.get_rng_state()
    for count in (1, 1, 4):
        Rollout(session, noises[:count], batch_size=count).advance(2)
    assert torch.equal(torch.get_rng_state(), state)
    first, again = torch.stack(drawn[:2]), torch.stack(drawn[2:4])
    assert torch.equal(first, again) and not torch.equal(*first)
    for alone, each in zip(first, drawn[4:], strict=True):
        assert torch.equal(each, alone if name in ALIKE else alone.expand_as(each))


def test_nothing_that_torch_draws_with_is_forgotten():
    """By the tag that torch itself gives to what draws; dropout does nothing where nothing is trained."""
    known = {function.__name__ for function in drawing._DRAWING}
    ignored = ("dropout", "rnn", "gru", "lstm", "rrelu", "attention", "_functional")
    names = {name.removeprefix("aten::").partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    for name in names:
        packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
        overloads = [getattr(packet, each) for each in packet.overloads()] if packet is not None else []
        draws = any(torch.Tag.nondeterministic_seeded in each.tags for each in overloads)
        public = not name.startswith("_") and not any(part in name for part in ignored)
        if draws and public and (hasattr(torch, name) or hasattr(torch.Tensor, name)) and name != "random":
            assert name in known


def test_what_a_pipeline_draws_between_its_steps_is_seeded_too(monkeypatch):
    """As SkyReels-V2 and EasyAnimate do, in their `__call__` and in methods of their own."""
    pipe, drawn = BUILDERS["wan"](), []
    plain = type(pipe).check_inputs

    def check(self, *args, **options):
        drawn.append(torch.rand(3))
        return plain(self, *args, **options)

    monkeypatch.setattr(type(pipe), "check_inputs", check)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    state = torch.get_rng_state()
    for _ in range(2):
        session.generate(torch.zeros(session.spec.shape))
    assert torch.equal(drawn[-1], drawn[-2]) and torch.equal(torch.get_rng_state(), state)


def test_nothing_that_the_whole_process_shares_is_set(monkeypatch):
    """Another thread, or the caller's own measurement, must not notice that a noise is chosen."""
    pipe = BUILDERS["wan"]()

    def touched(*args, **options):
        raise AssertionError("what the whole process shares was set")

    for module, names in (
        (torch, "manual_seed seed set_rng_state set_num_threads set_default_dtype set_default_device"),
        (torch, "set_float32_matmul_precision use_deterministic_algorithms"),
        (torch.random, "manual_seed seed set_rng_state fork_rng"),
        (torch.cuda, "reset_peak_memory_stats empty_cache manual_seed manual_seed_all set_rng_state"),
        (torch.cuda, "reset_max_memory_allocated reset_accumulated_memory_stats set_device"),
        (random, "seed setstate"),
        (np.random, "seed set_state"),
    ):
        for name in names.split():
            monkeypatch.setattr(module, name, touched, raising=False)
    flags = ("benchmark", "deterministic", "allow_tf32", "enabled")
    before = [getattr(torch.backends.cudnn, flag) for flag in flags]
    options = dict(candidates=2, progress=False, **CALLS["wan"])
    made = seedbed.generate(pipe, PROMPT, acquisition="bansa", **options)
    seedbed.generate(pipe, PROMPT, acquisition=judged_after(1), **options)
    seedbed.contact_sheet(pipe, PROMPT, **options).finish(1, progress=False)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    assert [getattr(torch.backends.cudnn, flag) for flag in flags] == before
