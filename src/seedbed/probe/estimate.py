"""The clean latents that a denoiser's output implies, in the terms of each scheduler."""

import functools
import inspect
from collections.abc import Callable
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


def watch_steps(pipe: Any, wanted: Callable[[int], bool], meet: Callable[[int, Tensor], bool]) -> list[Any]:
    """Shows the clean latents that a scheduler's calls imply, for a pipeline that is used once.

    Args:
        wanted: of the number of a scheduler's call (from 0): whether to meet it. Others are left alone.
        meet: called after those with the number and x0-hat; where it returns True, the scheduler gives back
            these clean latents and `pipe` is interrupted, so that it decodes them as it decodes its own.

    Returns:
        The timesteps that the scheduler met, filled as it goes.
    """
    scheduler, met = pipe.scheduler, []
    take = scheduler.step
    signature = inspect.signature(take)

    @functools.wraps(take)
    def step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        met.append(given["timestep"])
        number = len(met) - 1
        if not wanted(number):
            return take(*args, **kwargs)
        as_tuple = not given.pop("return_dict", True)
        output = take(**given, return_dict=True)
        as_tuple = as_tuple or isinstance(output, tuple)  # some schedulers give one whatever they are asked
        sample = given["sample"]
        clean = clean_latents(scheduler, number, output, given["model_output"], given["timestep"], sample)
        if not meet(number, clean):
            return output.to_tuple() if as_tuple and not isinstance(output, tuple) else output
        clean = clean.to(sample.dtype)
        pipe._interrupt = True
        return (clean, clean) if as_tuple else type(output)(**{**output, "prev_sample": clean})

    scheduler.step = step
    return met


def interrupt_after(pipe: Any, steps: int) -> list[Any]:
    """Makes the scheduler's call number `steps` (from 1) return the clean latents and interrupt `pipe`."""
    return watch_steps(pipe, lambda number: number + 1 == steps, lambda number, clean: True)
