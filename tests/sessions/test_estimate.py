"""Clean latents: exact where the model's output is, for every kind of scheduler and prediction."""

from types import SimpleNamespace

import diffusers
import pytest
import torch

from seedbed.errors import NotSupported
from seedbed.pipelines.drawing import latent_channels, spec_of
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.prediction import clean_latents

SCHEDULERS = {
    "ddim epsilon": ("DDIMScheduler", {"clip_sample": False}),
    "ddim v": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}),
    "cogvideox v": ("CogVideoXDDIMScheduler", {"prediction_type": "v_prediction"}),
    "euler epsilon": ("EulerDiscreteScheduler", {}),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "flow euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "unipc flow": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
    "unipc epsilon": ("UniPCMultistepScheduler", {}),
    "dpm epsilon": ("DPMSolverMultistepScheduler", {}),
    "dpm v": ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
    "dpm sample": ("DPMSolverMultistepScheduler", {"prediction_type": "sample"}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}


CPU = torch.device("cpu")


def given(model_output, timestep, sample):
    return {"model_output": model_output, "timestep": timestep, "sample": sample}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_recovers_the_clean_latents_from_a_perfect_prediction(name):
    kind, options = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 8, generator=generator) for _ in range(2))
    step, t = 0, scheduler.timesteps[0]
    if "flow" in name:
        sigma = scheduler.sigmas[0]
        alpha, model_output = 1 - sigma, noise - clean
    elif "euler" in name:
        alpha, sigma, model_output = 1.0, scheduler.sigmas[0], noise
    else:
        power = scheduler.alphas_cumprod[int(t)]
        alpha, sigma = power**0.5, (1 - power) ** 0.5
        if options.get("prediction_type") == "v_prediction":
            model_output = alpha * noise - sigma * clean
        else:
            model_output = clean if "sample" in name else noise
    sample = alpha * clean + sigma * noise
    if "euler" in name and "flow" not in name:
        scheduler.scale_model_input(sample, t)
    output = scheduler.step(model_output, t, sample)
    torch.testing.assert_close(
        clean_latents(scheduler, step, output, given(model_output, t, sample)), clean, rtol=1e-3, atol=2e-3
    )


def test_recovers_the_clean_latents_where_time_is_inverted():
    """As in Mochi: noise at 0, data at 1, and the velocity points to the data."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    for step, t in enumerate(scheduler.timesteps):
        level = scheduler.sigmas[step]
        sample = level * clean + (1 - level) * noise
        velocity = clean - noise
        output = scheduler.step(velocity, t, sample)
        torch.testing.assert_close(
            clean_latents(scheduler, step, output, given(velocity, t, sample)), clean, rtol=1e-3, atol=2e-3
        )
    torch.testing.assert_close(output.prev_sample, clean, rtol=1e-3, atol=2e-3)


def test_recovers_the_clean_latents_where_each_token_has_a_noise_level():
    """As in LTX with conditions, whose model's output is handed over with the opposite sign."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[1]
    clean, noise = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([[0.0, 0.25, 0.5, 1.0]]) * t / 1000
    sample = (1 - levels[..., None]) * clean + levels[..., None] * noise
    arguments = {**given(clean - noise, t, sample), "per_token_timesteps": levels * 1000}
    output = scheduler.step(**arguments)
    torch.testing.assert_close(clean_latents(scheduler, 1, output, arguments), clean, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize("tokens", [False, True], ids=["inverted sigmas", "noise levels per token"])
def test_every_prediction_is_read_on_every_schedule_that_runs_the_other_way(prediction, tokens):
    """What is not a velocity needs the share of the data too."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=not tokens)
    scheduler.set_timesteps(4)
    scheduler.register_to_config(prediction_type=prediction)
    clean, noise = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    t = scheduler.timesteps[1]
    sigma = torch.tensor([[0.1, 0.25, 0.5, 0.9]])[..., None] if tokens else 1 - scheduler.sigmas[1]
    output = {
        "epsilon": noise,
        "v_prediction": (1 - sigma) * noise - sigma * clean,
        "sample": clean,
        "flow_prediction": clean - noise,
    }[prediction]
    mixed = (1 - sigma) * clean + sigma * noise
    arguments = given(output, t, mixed) | ({"per_token_timesteps": sigma[..., 0] * 1000} if tokens else {})
    expected = clean
    if prediction == "v_prediction":  # of schedules whose shares have squares that add up to 1
        expected = (1 - sigma) * mixed - sigma * output
    torch.testing.assert_close(clean_latents(scheduler, 1, None, arguments), expected)


def test_a_schedule_that_cannot_be_read_is_refused():
    scheduler = diffusers.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(4)
    x = torch.zeros(1, 4)
    with pytest.raises(NotSupported, match="no preview: DPMSolverMultistepScheduler is at timestep 3"):
        clean_latents(scheduler, 0, None, given(x, 3, x))
    with pytest.raises(NotSupported, match="is at timestep"):
        clean_latents(scheduler, 9, None, given(x, scheduler.timesteps[0], x))
    scheduler.register_to_config(prediction_type="other")
    with pytest.raises(NotSupported, match="predicts 'other'"):
        clean_latents(scheduler, 0, None, given(x, scheduler.timesteps[0], x))

    class Bare:
        config = {"prediction_type": "epsilon"}  # noqa: RUF012

    with pytest.raises(NotSupported, match="Bare tells neither"):
        clean_latents(Bare(), 0, None, given(x, 3, x))


@pytest.mark.parametrize(
    "pipeline, shape, frame_axis",
    [
        ("CogVideoXImageToVideoPipeline", (1, 5, 16, 8, 8), 0),
        ("WanPipeline", (1, 16, 5, 8, 8), 1),
        ("Kandinsky5T2VPipeline", (1, 5, 8, 8, 16), 0),
        ("FluxPipeline", (1, 64, 64), None),
        ("StableDiffusionPipeline", (1, 4, 8, 8), None),
        ("StableAudioPipeline", (1, 8), None),
    ],
)
def test_layouts_tell_the_frame_axis(pipeline, shape, frame_axis):
    spec = spec_of(pipeline, torch.zeros(shape), CPU)
    assert spec.shape == shape[1:] and spec.frame_axis == frame_axis
    assert len(spec.layout.split()) == len(shape)


@pytest.mark.parametrize(
    "shape, layout",
    [
        ((1, 16, 5, 8, 8), "b c f h w"),
        ((1, 5, 16, 8, 8), "b f c h w"),
        ((1, 5, 8, 8, 16), "b f h w c"),
        # As many frames as channels: as most pipelines have it.
        ((1, 16, 16, 8, 8), "b c f h w"),
        ((1, 5, 16, 8, 16), "b axis1 axis2 axis3 axis4"),
        ((1, 5, 6, 8, 8), "b axis1 axis2 axis3 axis4"),
    ],
)
def test_the_channels_tell_the_layout_of_a_pipeline_that_nobody_listed(shape, layout):
    models = [
        SimpleNamespace(config={"in_channels": 36, "out_channels": 16}),
        SimpleNamespace(config={"in_channels": 5, "out_channels": 5, "latent_channels": 16}),
        None,
    ]
    spec = spec_of("SomePipeline", torch.zeros(shape), CPU, latent_channels(models))
    assert spec.layout == layout
    assert spec.frame_axis == (layout.split().index("f") - 1 if "f" in layout.split() else None)


def test_ledger_adds_by_purpose():
    ledger = Ledger()
    ledger.add("scoring", 0.5)
    ledger.add("generation", 4)
    ledger.add("scoring", 0.25)
    assert ledger.to_dict() == {"scoring": 0.75, "generation": 4.0} and ledger.total == 4.75
    ledger.to_dict()["scoring"] = 9
    assert ledger.total == 4.75
