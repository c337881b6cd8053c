"""The clean latents that a denoiser's output implies, in the terms of each scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import NotSupported


def clean_latents(scheduler: Any, step: int, output: Any, given: Mapping[str, Any]) -> Tensor:
    """x0-hat, with the shape of the sample, as it was predicted in step number `step` (from 0).

    With `x = α x0 + σ ε`: `x0 = (x − σ ε)/α` from a noise prediction, `α x − σ v` from a v-prediction, and
    `x − σ v` from the velocity of flow matching (`α = 1 − σ`).

    Args:
        output: what the scheduler's `step` returned; its own estimate is taken where it gives one.
        given: its arguments: `model_output`, `timestep`, `sample` and, where each token has a noise level of
            its own, `per_token_timesteps`.

    Raises:
        NotSupported: the scheduler gives no estimate and its schedule cannot be read.
    """
    sample, model_output, timestep = given["sample"], given["model_output"], given["timestep"]
    for name in ("pred_original_sample", "denoised"):
        own = getattr(output, name, None)
        if isinstance(own, Tensor):
            return own
    name = type(scheduler).__name__
    config = scheduler.config
    prediction = config.get("prediction_type") or (
        "flow_prediction" if name.startswith("FlowMatch") else None
    )
    sigmas = getattr(scheduler, "sigmas", None)
    direction = 1  # of the velocity that the model tells, towards the noise
    if given.get("per_token_timesteps") is not None:
        # The scheduler walks towards the data here, so its model's output is the negative velocity.
        sigma = given["per_token_timesteps"][..., None] / config["num_train_timesteps"]
        alpha, direction = 1 - sigma, -1
    elif sigmas is not None:
        # A pipeline that starts from a given video leaves out the first of the schedule.
        places = (scheduler.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero().flatten()
        places = places[places >= step]
        if not len(places):
            raise NotSupported(
                f"no preview: {name} is at timestep {timestep}, which its schedule has not after {step} steps"
            )
        sigma = sigmas[places[0]].to(sample.device, torch.float32)
        if config.get("invert_sigmas"):
            # Time runs from noise at 0 to data at 1, along the velocity.
            alpha, sigma, direction = sigma, 1 - sigma, -1
        elif prediction == "flow_prediction" or config.get("use_flow_sigmas"):
            alpha = 1 - sigma
        else:
            alpha = 1 / (1 + sigma**2) ** 0.5
            sigma = sigma * alpha
    elif hasattr(scheduler, "alphas_cumprod"):
        power = scheduler.alphas_cumprod[int(timestep)].to(sample.device, torch.float32)
        alpha, sigma = power**0.5, (1 - power) ** 0.5
    else:
        raise NotSupported(f"no preview: {name} tells neither its clean latents nor its noise levels")
    x: Tensor = sample.float()
    predicted: Tensor = model_output.float()
    clean: Tensor
    match prediction:
        case "flow_prediction":
            clean = x - direction * sigma * predicted
        case "epsilon":
            clean = (x - sigma * predicted) / alpha
        case "v_prediction":
            clean = alpha * x - sigma * predicted
        case "sample":
            clean = predicted
        case _:
            raise NotSupported(
                f"no preview: {name} predicts {prediction!r}, which does not give clean latents"
            )
    return clean
