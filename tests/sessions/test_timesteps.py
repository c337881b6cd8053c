"""Predictions at chosen timesteps of one noise, against the closed form of Gaussian data."""

import copy

import diffusers
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.pipelines.prediction import Level, Prediction
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise, evaluations_of, guided_evaluations, levels_of, predict
from tests.breadth.facts import SHORT
from tests.breadth.table import PAGE, cell, written
from tests.compat.test_offloading import blocks, model, sequential
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, images
from tests.pipelines.family import Missing
from tests.sessions.test_restoring import snapshot

MEAN, VARIANCE = 0.3, 0.49  # of the data

QUICK = ("ddim v, no signal at first", "euler", "dpm++", "lcm")
OTHERS = ("cogvideox dpm", "wan flow euler")
IMAGE = dict(height=16, width=16, num_inference_steps=5)
SD15 = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim v, no signal at first": (
        "DDIMScheduler",
        {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
        | {"rescale_betas_zero_snr": True},
    ),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "euler v": (
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    ),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading"}),
    "ddim x0": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample"}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"prediction_type": "sample"}),
    "lcm": ("LCMScheduler", {}),
}


# Whose schedulers are given other frames than those of the noise, or all of them in another layout.
REFUSED = [
    name for name, row in written(PAGE.read_text()).items() if cell(row, "injection") == SHORT["with all of"]
]


def matches_flow(scheduler):
    return scheduler.config.get("use_flow_sigmas") or "Flow" in type(scheduler).__name__


def shares(scheduler, step, t):
    """alpha and sigma of what the denoiser is given, float64, as both kinds of schedule define them."""
    if matches_flow(scheduler):
        sigma = scheduler.sigmas[step].double()
        return 1 - sigma, sigma
    power = scheduler.alphas_cumprod[int(t)].double()
    return power.sqrt(), (1 - power).sqrt()


class Optimal:
    """In a denoiser's place: what it would predict had it learned N(MEAN, VARIANCE) perfectly."""

    def __init__(self, pipe, steps, **options):
        self.pipe, self.given = pipe, []
        self.schedule = type(pipe.scheduler).from_config(pipe.scheduler.config)
        self.schedule.set_timesteps(steps, **options)
        self.network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        self.network.forward = self

    def expected(self, x, step):
        """x0, ε and velocity at a denoiser's input, and what it returns."""
        alpha, sigma = shares(self.schedule, step, self.schedule.timesteps[step])
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        x = x.double()
        clean = MEAN + gain * (x - alpha * MEAN)
        noise = (x - alpha * clean) / sigma
        velocity = noise - clean if matches_flow(self.schedule) else alpha * noise - sigma * clean
        kind = self.schedule.config.get("prediction_type", "flow_prediction")
        output = {"epsilon": noise, "sample": clean}.get(kind, velocity)
        return clean, noise, velocity, output

    def __call__(self, sample=None, timestep=None, *args, hidden_states=None, return_dict=True, **kwargs):
        x = sample if hidden_states is None else hidden_states
        when = timestep.flatten()[0].cpu().double()
        step = int((self.schedule.timesteps.double() - when).abs().argmin())
        self.given.append((step, x[:1].clone()))
        output = self.expected(x, step)[-1].to(x.dtype)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


def session_of(name):
    """A pipeline in float64 whose denoiser is optimal, and the session that asks it."""
    if name in SD15:
        kind, options = SD15[name]
        pipe = images.sd15()
        pipe.scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear", **options)
        # In float32: transformers 4 cannot make the causal mask of CLIP in float64.
        pipe.text_encoder.forward = copy.deepcopy(pipe.text_encoder).forward
        call = IMAGE
    else:
        family, _, kind = name.partition(" ")
        pipe, call = BUILDERS[family](), CALLS[family] | {"num_inference_steps": 5}
        if kind == "flow euler":
            pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        if kind == "dpm":
            pipe.scheduler = diffusers.CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    pipe.to(torch.float64)
    return Optimal(pipe, 5), Session(pipe, PROMPT, **call)


def noise_of(session):
    return torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    ["cogvideox", "wan", *QUICK, *(slow(name) for name in [*SD15, *OTHERS] if name not in QUICK)],
)
def test_predictions_are_those_of_the_closed_form_at_every_timestep(name):
    optimal, session = session_of(name)
    noise, levels = noise_of(session), levels_of(session)
    optimal.given.clear()
    every = list(range(len(levels)))
    found = predict(session, noise, every)
    assert session.ledger.to_dict() == {"refinement": len(every)} and evaluations_of(every) == len(every)
    # PNDM has its second timestep twice, and the first of the two is found here.
    at = [0, 1, 1, 3, 4, 5] if name == "pndm" else every
    assert [step for step, _ in optimal.given] == at
    inputs = [x for _, x in optimal.given]
    # WanPipeline denoises in float32 whatever its weights are in.
    exact = 1e-6 if inputs[0].dtype == torch.float64 and "wan" not in name else 1e-5
    for x, step, prediction, level in zip(inputs, at, found, levels, strict=True):

        def close(value, to, tolerance=exact):
            torch.testing.assert_close(value.double(), to.double(), rtol=tolerance, atol=tolerance)

        # The same noise, as the network is given it.
        close(x, inputs[0])
        close(prediction.sample * level.scale, x[0])
        clean, epsilon, velocity, _ = optimal.expected(x[0], step)
        # Schedulers keep their sigmas in float32; x0 of an ε-prediction is off by as much, times sigma/alpha.
        close(prediction.clean, clean, exact * max(1, level.sigma / max(level.alpha, 1e-2)))
        close(prediction.epsilon, epsilon)
        close(prediction.velocity, velocity)
        mixed = level.alpha * prediction.clean + level.sigma * prediction.epsilon
        close(mixed, prediction.sample, exact * max(1, level.sigma))
        assert float(prediction.level.alpha) == pytest.approx(level.alpha, rel=1e-6, abs=1e-9)
        assert float(prediction.level.sigma) == pytest.approx(level.sigma, rel=1e-6)


@pytest.mark.parametrize("name", ["cogvideox", "wan"])
def test_the_first_step_of_these_tells_nothing_of_the_data(name):
    """Zero terminal SNR, and flow matching from sigma 1: whatever the denoiser returns, ε is the noise."""
    session = Session(BUILDERS[name](), PROMPT, **CALLS[name] | {"num_inference_steps": 3})
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    first, second = predict(session, noise, [0, 1])
    assert [level.has_signal for level in levels_of(session)] == [False, True, True]
    assert not first.level.has_signal and second.level.has_signal
    torch.testing.assert_close(first.epsilon, first.sample / first.level.sigma, rtol=1e-5, atol=1e-5)
    assert (second.epsilon - second.sample / second.level.sigma).abs().max() > 0.05
    assert first.clean.std() > 0.05 and torch.equal(first.sample, second.sample)


def test_what_a_prediction_cannot_tell_is_refused_with_what_can_be_used():
    x = torch.randn(4)

    def of(kind, alpha, sigma):
        return Prediction(3, Level(alpha, sigma), x, x / 2, kind)

    with pytest.raises(NotSupported, match=r"step 3 is all noise.*not give x0 nor the velocity: use epsilon"):
        _ = of("epsilon", 0.0, 1.0).clean
    with pytest.raises(NotSupported, match="use epsilon"):
        _ = of("epsilon", 0.0, 1.0).velocity
    assert torch.equal(of("epsilon", 0.0, 1.0).epsilon, x / 2)
    with pytest.raises(
        NotSupported, match="all data, where a sample prediction does not give the noise: use x0"
    ):
        _ = of("sample", 1.0, 0.0).epsilon
    for kind in ("v_prediction", "flow_prediction"):
        for alpha in (0.0, 1.0):
            prediction = of(kind, alpha, 1 - alpha)
            assert torch.isfinite(
                torch.stack([prediction.clean, prediction.epsilon, prediction.velocity])
            ).all()


def test_other_steps_are_answered_from_memory():
    optimal, session = session_of("cogvideox")
    noise = noise_of(session)
    direct = predict(session, noise, [0, 1, 2, 3, 4])
    optimal.given.clear()
    session.ledger.entries.clear()
    found = predict(session, noise, [2, 4])
    assert [step for step, _ in optimal.given] == [0, 2, 4]
    assert session.ledger.entries["refinement"] == evaluations_of([2, 4]) == 3
    for one, other in zip(found, (direct[2], direct[4]), strict=True):
        assert one.step == other.step
        assert torch.equal(one.clean, other.clean) and torch.equal(one.sample, other.sample)


def test_two_denoisers_are_each_asked():
    """Wan 2.2 has another one for the last steps."""
    (family,) = (family for family in FAMILIES if family.name == "Wan 2.2 (two denoisers)")
    session = Session(family.built(), PROMPT, **CALLS["wan"] | {"num_inference_steps": 4})
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    _, last = predict(session, noise, [0, 3])
    assert session.ledger.to_dict() == {"refinement": 2}
    (alone,) = predict(session, noise, [3])
    assert torch.equal(last.clean, alone.clean) and session.ledger.to_dict() == {"refinement": 4}


def test_a_sample_that_follows_is_what_the_next_steps_are_given():
    optimal, session = session_of("euler")
    noise, levels = noise_of(session), levels_of(session)
    optimal.given.clear()

    def follow(prediction):
        after = levels[prediction.step + 1]
        if prediction.step == 1:
            return after.alpha * prediction.clean + after.sigma * prediction.epsilon

    found = predict(session, noise, [0, 1, 3], follow=follow)
    expected = found[1].clean * levels[2].alpha + found[1].epsilon * levels[2].sigma
    moved = expected * levels[2].scale / levels[3].scale
    torch.testing.assert_close(found[2].sample, moved, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1].sample * levels[1].scale, found[0].sample * levels[0].scale)


def test_the_callers_own_guidance():
    """The combination of both halves is what the scheduler is handed; both are counted."""
    call = CALLS["cogvideox"] | {"num_inference_steps": 3}
    session = Session(BUILDERS["cogvideox"](), PROMPT, guidance_scale=6.0, **call)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    (plain,) = predict(session, noise, [1])
    assert session.ledger.to_dict() == {"refinement": 2}
    (guided,) = predict(session, noise, [1], guided=True)
    assert session.ledger.to_dict() == {"refinement": 2 + 4}
    assert not torch.allclose(plain.output, guided.output)


@pytest.mark.parametrize("name", ["ltx", slow("cogvideox"), slow("sdxl")])
def test_denoises_as_the_pipeline_does(name, pipe_of):
    pipe, call = pipe_of(name), CALLS[name]
    session = Session(pipe, PROMPT, **call)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    found = denoise(session, noise)
    own = pipe(PROMPT, latents=noise[None].clone(), output_type="latent", **call)[0]
    torch.testing.assert_close(found, own.reshape(found.shape), rtol=1e-4, atol=1e-4)
    assert session.ledger.to_dict() == {"refinement": 2.0 * session.facts.steps}


class Broken(Exception):
    pass


def broken(prediction):
    raise Broken


@pytest.mark.parametrize("name", ["ltx", slow("cogvideox")])
@pytest.mark.parametrize("follow", [None, broken], ids=["whole", "error"])
def test_the_pipeline_is_as_before(name, follow):
    pipe = BUILDERS[name]()
    pipe(PROMPT, output_type="latent", **CALLS[name])
    before, random = snapshot(pipe), torch.get_rng_state()
    session = Session(pipe, PROMPT, **CALLS[name])
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    if follow is None:
        denoise(session, noise)
        predict(session, noise, [0, 1], guided=True)
    else:
        with pytest.raises(Broken):
            predict(session, noise, [1], follow=follow)
    after = snapshot(pipe)
    for part in before:
        assert before[part] == after[part], part
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("way", [slow(model), sequential, slow(blocks)])
def test_offloaded_models_predict_the_same(way, pipe_of):
    noise = None
    found = []
    for pipe in (pipe_of("wan"), BUILDERS["wan"]()):
        if found:
            way(pipe)
        session = Session(pipe, PROMPT, **CALLS["wan"])
        noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
        found.append((*[each.output for each in predict(session, noise, [0, 1])], denoise(session, noise)))
        if found[1:] and way is sequential:
            assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_bad_steps_and_pipelines_are_refused_in_one_line(pipe_of, monkeypatch):
    session = Session(pipe_of("wan"), PROMPT, **CALLS["wan"])
    noise = torch.zeros(session.spec.shape)
    for steps in ([], [1, 0], [0, 0]):
        with pytest.raises(BadInput, match="steps must be ascending"):
            predict(session, noise, steps)
    for steps in ([2], [-1], [0.5]):
        with pytest.raises(BadInput, match="a step must be a whole number from 0 to 1"):
            predict(session, noise, steps)
    with pytest.raises(BadInput, match="the noises have shape"):
        predict(session, noise[:1], [0])
    assert not session.ledger.entries
    with pytest.raises(BadOutput, match="the denoiser's output is not finite"):
        predict(session, noise * float("nan"), [0])
    (family,) = (family for family in FAMILIES if family.name == "LTX-Video, image to video")
    pictured = Session(family.built(), PROMPT, **family.call)
    with pytest.raises(NotSupported, match="scheduler is given samples of shape"):
        predict(pictured, torch.zeros(pictured.spec.shape), [0])
    pipe = BUILDERS["wan"]()
    pipe.scheduler.register_to_config(prediction_type="other")
    with pytest.raises(NotSupported, match="predicts 'other'"):
        predict(Session(pipe, PROMPT, **CALLS["wan"]), noise, [0])


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param(each, id=each.name) for each in FAMILIES])
def test_every_pipeline_is_asked_or_refuses_in_one_line(family):
    """The parts make up the sample, the levels are as foretold, and what is spent is what was declared."""
    try:
        session = Session(family.built(), family.prompt, **family.call)
    except Missing as error:
        pytest.skip(str(error))
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    try:
        levels = levels_of(session)
        steps = [0] if len(levels) == 1 else [0, len(levels) - 1]
        found = predict(session, noise, steps)
    except NotSupported as error:
        assert "\n" not in str(error) and family.name in REFUSED
        return
    assert family.name not in REFUSED
    assert session.ledger.to_dict() == {"refinement": evaluations_of(steps)}
    for step, each in zip(steps, found, strict=True):
        level = levels[step]
        assert (tuple(each.sample.shape) == session.spec.shape and each.kind != "sample") or level.alpha == 1
        assert torch.as_tensor(each.level.sigma).flatten()[-1].item() == pytest.approx(level.sigma, rel=1e-5)
        mixed = each.level.alpha * each.clean + each.level.sigma * each.epsilon
        torch.testing.assert_close(mixed, each.sample.float(), rtol=1e-4, atol=1e-4 * max(1, level.sigma))
        if family.name != "SDXL, inpainting":  # which puts the noised picture around its mask at every step
            same = found[0].sample * levels[0].scale
            torch.testing.assert_close(each.sample * level.scale, same, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [slow(f.name) if f.name != "CogVideoX" else f.name for f in FAMILIES])
def test_what_a_rollout_costs_is_told_without_an_evaluation(name):
    family = next(family for family in FAMILIES if family.name == name)
    try:
        session = Session(family.built(), family.prompt, **family.call)
    except Missing as missing:
        pytest.skip(str(missing))
    steps = session.facts.steps
    noise = torch.randn(1, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    for to in sorted({max(1, steps // 2), steps}):
        session.ledger.entries.clear()
        told = sum(guided_evaluations(session)[:to])
        assert not session.ledger.entries
        try:
            Rollout(session, noise).advance(to)
        except NotSupported:
            continue
        assert told == session.ledger.total
