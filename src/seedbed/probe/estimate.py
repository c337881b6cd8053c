"""The clean latents that a denoiser's output implies, in the terms of each scheduler."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import NotSupported


def clean_latents(
    scheduler: Any, step: int, output: Any, model_output: Tensor, timestep: Any, sample: Tensor
) -> Tensor:
    """x0-hat, with the shape of `sample`, as it was predicted in the scheduler's call number `step` (from 0).

    With `x = α x0 + σ ε`: `x0 = (x − σ ε)/α` from a noise prediction, `α x − σ v` from a v-prediction, and
    `x − σ v` from the velocity of flow matching (`α = 1 − σ`).

    Args:
        output: what the scheduler's `step` returned; its own estimate is taken where it gives one.

    Raises:
        NotSupported: the scheduler gives no estimate and its schedule cannot be read.
    """
    for name in ("pred_original_sample", "denoised"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    name = type(scheduler).__name__
    config = scheduler.config
    prediction = config.get("prediction_type") or (
        "flow_prediction" if name.startswith("FlowMatch") else None
    )
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        timesteps = scheduler.timesteps
        if step >= len(timesteps) or not torch.equal(timesteps[step].cpu(), torch.as_tensor(timestep).cpu()):
            raise NotSupported(
                f"no preview: {name} is at timestep {timestep}, not at number {step} of its schedule"
            )
        sigma = sigmas[step].to(sample.device, torch.float32)
        if prediction == "flow_prediction" or config.get("use_flow_sigmas"):
            alpha = 1 - sigma
        else:
            alpha = 1 / (1 + sigma**2) ** 0.5
            sigma = sigma * alpha
    elif hasattr(scheduler, "alphas_cumprod"):
        power = scheduler.alphas_cumprod[int(timestep)].to(sample.device, torch.float32)
        alpha, sigma = power**0.5, (1 - power) ** 0.5
    else:
        raise NotSupported(f"no preview: {name} tells neither its clean latents nor its noise levels")
    x, predicted = sample.float(), model_output.float()
    match prediction:
        case "flow_prediction":
            return x - sigma * predicted
        case "epsilon":
            return (x - sigma * predicted) / alpha
        case "v_prediction":
            return alpha * x - sigma * predicted
        case "sample":
            return predicted
    raise NotSupported(f"no preview: {name} predicts {prediction!r}, which does not give clean latents")


def interrupt_after(pipe: Any, steps: int) -> list[Any]:
    """Makes the scheduler's call number `steps` (from 1) return the clean latents and interrupt `pipe`.

    `pipe` then decodes those as it decodes its own. For a pipeline and a scheduler that are used once.
    Returns a list of the timesteps that the scheduler met, filled as it goes.
    """
    scheduler, met = pipe.scheduler, []
    take = scheduler.step
    signature = inspect.signature(take)

    @functools.wraps(take)
    def step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        met.append(given["timestep"])
        if len(met) != steps:
            return take(*args, **kwargs)
        as_tuple = not given.pop("return_dict", True)
        output = take(**given, return_dict=True)
        sample = given["sample"]
        clean = clean_latents(scheduler, steps - 1, output, given["model_output"], given["timestep"], sample)
        clean = clean.to(sample.dtype)
        pipe._interrupt = True
        return (clean, clean) if as_tuple else type(output)(**{**output, "prev_sample": clean})

    scheduler.step = step
    return met
