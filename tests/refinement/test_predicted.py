"""Injection, the guidance gap and inversion against float64 versions of the papers' formulas.

The denoiser of these pipelines is the closed form of Gaussian data, whose mean the embeddings of the prompt
tell; so a prompt and no prompt differ.
"""

import functools
import math
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

import seedbed
from seedbed.errors import BadInput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.prediction import level_at
from seedbed.pipelines.session import Session
from seedbed.refinement import DenoiseInvert, GuidanceGap, Injection, refined
from seedbed.refinement.guidance_gap import without_prompt
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT
from tests.sessions.test_timesteps import VARIANCE, Optimal, noise_of, session_of, shares

STEPS = 5
# Tolerances: schedulers keep sigmas in float32, and WanPipeline denoises in it.
EXACT = {"cogvideox": 1e-6, "ddim": 1e-6, "euler": 1e-6, "euler v": 1e-6, "wan": 1e-5}


class Prompted(Optimal):
    """What would be predicted had the model learned N(mean, VARIANCE), the mean that of the embeddings."""

    def __init__(self, pipe):
        super().__init__(pipe, STEPS)
        self.means = []  # of each row that was asked for

    def __call__(self, sample=None, timestep=None, *args, hidden_states=None, return_dict=True, **kwargs):
        x = sample if hidden_states is None else hidden_states
        step = int((self.schedule.timesteps.double() - timestep.flatten()[0].double()).abs().argmin())
        texts = kwargs["encoder_hidden_states"].double()
        means = [math.sin(100 * float(text[..., : text.shape[-1] // 2].mean())) for text in texts]
        self.means += means
        rows = [
            self.told(row.double().numpy(), step, mean)["output"] for row, mean in zip(x, means, strict=True)
        ]
        output = torch.from_numpy(np.stack(rows)).to(x.dtype)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def level(self, step):
        alpha, sigma = shares(self.schedule, step, self.schedule.timesteps[step])
        return float(alpha), float(sigma)

    def told(self, x, step, mean):
        """All that is predicted of x = alpha x0 + sigma eps, in float64."""
        alpha, sigma = self.level(step)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        clean = mean + gain * (x - alpha * mean)
        noise = (x - alpha * clean) / sigma
        flow = "Flow" in type(self.schedule).__name__ or self.schedule.config.get("use_flow_sigmas")
        velocity = noise - clean if flow else alpha * noise - sigma * clean
        kind = self.schedule.config.get("prediction_type", "flow_prediction")
        own = {"epsilon": noise, "sample": clean}.get(kind, velocity)
        return {"epsilon": noise, "x0": clean, "velocity": velocity, "output": own, "prediction": own}


@functools.cache
def faked(name):
    optimal, session = session_of(name)
    return Prompted(optimal.pipe), session.call


def prompted(name, **call):
    """The denoiser, a session, a noise, and the means with and without the prompt."""
    fake, usual = faked(name)
    session = Session(fake.pipe, PROMPT, **{**usual, **call})
    noise = noise_of(session)
    fake.means.clear()
    Injection(times=(0.0,), target="guidance_gap").refine(noise, session, None)
    conditional, unconditional = fake.means
    assert abs(conditional - unconditional) > 0.05
    session.ledger.entries.clear()
    return fake, session, noise, (conditional, unconditional)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cogvideox", "prediction"),
        ("cogvideox", "guidance_gap"),
        ("euler", "prediction"),
        ("wan", "prediction"),
        pytest.param("wan", "guidance_gap", marks=pytest.mark.slow),
        pytest.param("ddim", "x0", marks=pytest.mark.slow),
        pytest.param("euler v", "velocity", marks=pytest.mark.slow),
    ],
)
def test_injection_is_that_of_the_paper(name, target):
    fake, session, noise, means = prompted(name)
    weights, delta, z, x, total = [0.2, 0.5, 0.3], 0.4, noise.numpy(), noise.numpy(), 0
    if (
        name == "euler v"
    ):  # with trailing steps its scheduler multiplies the noise with sigma, not sqrt(sigma²+1)
        x = z * fake.level(0)[1]
    for weight, step in zip(weights, (0, 2, 4), strict=True):
        if target == "guidance_gap":
            told = [fake.told(x, step, mean)["output"] for mean in means]
            total = total + weight * (told[0] - told[1])
        else:
            total = total + weight * fake.told(x, step, means[0])[target]
    wanted = (z + delta * total / np.sqrt(sum(w**2 for w in weights))) / np.sqrt(1 + delta**2)
    how = Injection(delta, weights=weights, target=target, rescale="none")
    found = how.refine(noise.clone(), session, None)
    assert np.abs(found.numpy() - wanted).max() < EXACT[name] * max(1, np.abs(wanted).max())
    assert session.ledger.to_dict() == {"refinement": how.evaluations(session)}
    against = Injection(delta, weights=weights, target=target, rescale="none", sign=-1)
    mean = (found + against.refine(noise.clone(), session, None)) / 2
    torch.testing.assert_close(mean, noise / np.sqrt(1 + delta**2), rtol=1e-5, atol=1e-5)
    kept = Injection(delta, weights=weights, target=target).refine(noise.clone(), session, None)
    assert kept.norm().item() == pytest.approx(noise.norm().item(), rel=1e-9)
    assert kept.mean().item() == pytest.approx(noise.mean().item(), abs=1e-9)


def test_a_delta_of_each_time_and_times_on_one_step():
    fake, session, noise, (mean, _) = prompted("euler")
    z, deltas = noise.numpy(), (0.5, 0.2, 0.0, 0.3)
    found = Injection(deltas, (0.5, 1.0, 0.25, 0.55), (1, 2, 3, 1), rescale="none").refine(
        noise, session, None
    )
    assert session.ledger.to_dict() == {
        "refinement": 3
    }  # steps 2 and 4, and one to get there; 1 has no delta
    sum_2, sum_4 = 0.5 * 1 + 0.3 * 1, 0.2 * 2
    length = np.sqrt((1 + 1) ** 2 + 3**2 + 2**2)
    total = sum_2 * fake.told(z, 2, mean)["output"] + sum_4 * fake.told(z, 4, mean)["output"]
    delta = np.sqrt(sum_2**2 + sum_4**2) / length
    assert np.abs(found.numpy() - (z + total / length) / np.sqrt(1 + delta**2)).max() < 1e-6
    both = Injection(0.5, (0.5, 0.55)).refine(noise, session, None)
    one = Injection(0.5, (0.5,)).refine(noise, session, None)
    assert torch.equal(both, one)
    with pytest.raises(BadInput, match="add up to zero"):
        Injection(0.5, (0.5, 0.55), (1, -1)).refine(noise, session, None)


@pytest.mark.parametrize(
    ("name", "target"), [("cogvideox", "velocity"), pytest.param("euler", "epsilon", marks=pytest.mark.slow)]
)
def test_noise_level_guidance(name, target):
    fake, session, noise, means = prompted(name)
    how = GuidanceGap(steps=3, rate=0.7, clip=0.05)
    z = noise.numpy()
    radius = np.linalg.norm(z)
    for _ in range(how.steps):
        told = [fake.told(z, 0, mean)[target] for mean in means]
        step = 0.7 * (told[0] - told[1])
        step = step * min(1, 0.05 * radius / np.linalg.norm(step))
        z = (z - step) * radius / np.linalg.norm(z - step)
    found = how.refine(noise.clone(), session, None)
    assert np.abs(found.numpy() - z).max() < EXACT[name] * 3
    assert session.ledger.to_dict() == {"refinement": how.evaluations(session)} == {"refinement": 6}


@pytest.mark.parametrize("name", ["cogvideox", "euler", slow("wan"), slow("ddim")])
@pytest.mark.parametrize("to", [1, slow(0.5)])
def test_inversion_leaves_the_guidance_in_the_noise(name, to):
    scale = 6.0
    fake, session, noise, means = prompted(name, guidance_scale=scale)
    down = 1 if to == 1 else 2
    (a0, s0), (a1, s1), z = fake.level(0), fake.level(down), noise.numpy()
    conditional, unconditional = (fake.told(z, 0, mean)["output"] for mean in means)
    output = unconditional + scale * (conditional - unconditional)
    kind = session.alone.scheduler.config.get("prediction_type")
    if kind == "epsilon":
        clean, epsilon = (z - s0 * output) / a0, output
    elif kind == "v_prediction":
        clean, epsilon = a0 * z - s0 * output, s0 * z + a0 * output
    else:
        clean, epsilon = z - s0 * output, z + (1 - s0) * output
    lower = a1 * clean + s1 * epsilon
    told = fake.told(lower, down, means[0])
    wanted = a0 * told["x0"] + s0 * told["epsilon"]
    how = DenoiseInvert(to)
    found = how.refine(noise.clone(), session, None)
    largest = max(1, s0 / max(a0, 0.1))  # of what x0 of an epsilon-prediction is off by
    assert np.abs(found.numpy() - wanted).max() < EXACT[name] * largest * np.abs(wanted).max()
    assert np.abs(found.numpy() - z).max() > 0.01
    assert session.ledger.to_dict() == {"refinement": how.evaluations(session)} == {"refinement": 4}
    kept = DenoiseInvert(to, "standardise").refine(noise.clone(), session, None)
    assert kept.norm().item() == pytest.approx(noise.norm().item(), rel=1e-9)
    standard = (
        (wanted - wanted.mean()) * np.linalg.norm(z - z.mean()) / np.linalg.norm(wanted - wanted.mean())
    )
    assert np.abs(kept.numpy() - standard - z.mean()).max() < EXACT[name] * largest * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["cogvideox", "wan"])
def test_where_the_first_step_has_no_signal_the_noise_that_is_predicted_does_nothing(name, pipe_of):
    """Zero terminal SNR, and flow matching from sigma 1; whatever the model is."""
    session = Session(pipe_of(name), PROMPT, **CALLS[name])
    recipe = NoiseRecipe(0, 0, tuple(session.spec.shape))
    noise = recipe.draw()
    blind = [Injection(0.5, (0,), None, "epsilon", 1, how) for how in ("standardise", "spherical")]
    for how in [*blind, GuidanceGap(steps=2, target="epsilon")]:
        assert (how.refine(noise.clone(), session, recipe) - noise).abs().max() < 1e-5
        assert how.caution(session).startswith(
            f"{how.name} does nothing at step 0"
        ) and "\n" not in how.caution(session)
    pool = type("Pool", (), {"recipes": (recipe,), "noises": noise[None], "__len__": lambda self: 1})()
    with pytest.warns(UserWarning, match="injection does nothing at step 0, which has no signal"):
        _, notes = refined(pool, [blind[0]], session)
    assert notes == (blind[0].caution(session),)
    for how in (
        Injection(0.5, (0,)),
        Injection(0.5, (0,), target="x0"),
        Injection(0.5, (0,), target="velocity"),
        Injection(0.5, (1,), target="epsilon"),
        GuidanceGap(steps=2),
    ):
        assert (how.refine(noise.clone(), session, recipe) - noise).abs().max() > 0.01
        assert how.caution(session) == ""


def test_the_prompt_is_left_out_as_the_call_says(pipe_of):
    call = CALLS["cogvideox"]
    plain = without_prompt(Session(pipe_of("cogvideox"), PROMPT, **call))
    assert plain.prompt == "" and plain.call == call
    session = Session(pipe_of("cogvideox"), PROMPT, negative_prompt="blurred", **call)
    plain = without_prompt(session)
    assert plain.prompt == "blurred" and plain.ledger is session.ledger
    image = without_prompt(
        Session(pipe_of("sdxl"), PROMPT, prompt_2="red", negative_prompt=["bad"], **CALLS["sdxl"])
    )
    assert image.prompt == "bad" and image.call["prompt_2"] == ["bad"]
    texts = torch.zeros(1, 8, 16), torch.ones(1, 8, 16)
    embedded = {**call, "prompt_embeds": texts[0]}
    with pytest.raises(BadInput, match="a call with prompt_embeds needs negative_prompt_embeds"):
        without_prompt(Session(pipe_of("cogvideox"), **embedded))
    plain = without_prompt(Session(pipe_of("cogvideox"), negative_prompt_embeds=texts[1], **embedded))
    assert plain.prompt is None and plain.call["prompt_embeds"] is texts[1]
    noise = torch.randn(plain.spec.shape, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(Injection(target="guidance_gap").refine(noise, plain, None)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Injection(-0.1),
        lambda: Injection(float("nan")),
        lambda: Injection([0.1, 0.2]),
        lambda: Injection([0.1, 0.2, float("inf")]),
        lambda: Injection(times=()),
        lambda: Injection(times=(0, 1.5)),
        lambda: Injection(times=0.5),
        lambda: Injection(weights=(1, 1)),
        lambda: Injection(weights=(0, 0, 0)),
        lambda: Injection(weights=(1, 0, float("nan"))),
        lambda: Injection(target="noise"),
        lambda: Injection(sign=0),
        lambda: Injection(rescale="round"),
        lambda: GuidanceGap(0),
        lambda: GuidanceGap(rate=-1),
        lambda: GuidanceGap(clip=float("inf")),
        lambda: GuidanceGap(time=2),
        lambda: GuidanceGap(target="x0"),
        lambda: DenoiseInvert(0),
        lambda: DenoiseInvert(1.5),
        lambda: DenoiseInvert("far"),
        lambda: DenoiseInvert(rescale="spherical"),
    ],
)
def test_bad_input_is_one_line(make):
    with pytest.raises(BadInput) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_a_schedule_or_model_does_not_allow_is_refused_in_one_line(pipe_of):
    session = Session(pipe_of("wan"), PROMPT, **CALLS["wan"])
    noise = torch.zeros(session.spec.shape)
    with pytest.raises(BadInput, match="to=2, but the schedule has 2 steps"):
        DenoiseInvert(2).refine(noise, session, None)
    pipe = BUILDERS["wan"]()
    pipe.scheduler.register_to_config(prediction_type="other")
    for how in (Injection(), DenoiseInvert(), GuidanceGap(1)):
        with pytest.raises(NotSupported, match="predicts 'other'"):
            how.refine(noise, Session(pipe, PROMPT, **CALLS["wan"]), None)


@pytest.mark.parametrize("refine", ["guidance_gap:steps=1,time=0.5", "injection:target=guidance_gap"])
def test_the_gap_of_an_adapted_model_is_that_of_its_prompts(refine, pipe_of):
    """Between two prompts that are one there is none, whatever acts on the attention."""
    call = {**CALLS["cogvideox"], "negative_prompt": PROMPT, "guidance_scale": 3.0}
    made = seedbed.select(
        pipe_of("cogvideox"), PROMPT, candidates=1, refine=refine, progress=False, call=call,
        adaptation="enhance:strength=0.5,layers=all",
    )  # fmt: skip
    noise = made.recipe
    assert torch.equal(made.pool[0], replace(noise, refinements=(), sha256=None).draw())


@pytest.mark.parametrize("name", ["Euler", "Heun", "KDPM2", "KDPM2Ancestral"])
def test_the_level_of_every_step_is_that_of_the_sample(name):
    """Also half way between two levels, where schedulers of second order look a second time."""
    scheduler = getattr(diffusers, f"{name}DiscreteScheduler")(timestep_spacing="trailing")
    scheduler.set_timesteps(6)
    data, noise = torch.full((4,), 0.5), torch.tensor([1.0, -1, 0.5, 2])
    sample = data + level_at(scheduler, 0, scheduler.timesteps[0], data).sigma * noise
    for step, timestep in enumerate(scheduler.timesteps):
        level = level_at(scheduler, step, timestep, sample)
        if name != "KDPM2Ancestral" or step < 2:  # which then adds noise of its own
            torch.testing.assert_close(sample, level.alpha * data + level.sigma * noise, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(level.scale * sample, scheduler.scale_model_input(sample, timestep))
        sample = scheduler.step(noise, timestep, sample).prev_sample
