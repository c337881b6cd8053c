"""What a denoiser's output says of the data and of the noise, in the terms of each scheduler."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import NotSupported

_KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True)
class Level:
    """How much noise a scheduler's samples hold at one of its timesteps: `x = alpha x0 + sigma ε`.

    Attributes:
        alpha, sigma: in the scheduler's own sample space (alpha is 1 where that grows with sigma, as for
            Euler); numbers, or tensors that broadcast against the sample where each token has its own.
        scale: what brings a sample to the size that the denoiser is given; 1 but for schedulers whose sample
            space grows.
        flow: whether data and noise are mixed along a straight line, as flow matching does.
    """

    alpha: Any
    sigma: Any
    scale: Any = 1.0
    flow: bool = False

    @property
    def has_signal(self) -> bool:
        """Whether samples tell anything of the data, a thousandth of the noise: else ε is `x / sigma`.

        They do not at the first step under zero terminal SNR, nor where flow matching starts at sigma 1.
        """
        return bool(torch.as_tensor(self.alpha > 1e-3 * self.sigma).any())


@dataclass(frozen=True)
class Prediction:
    """A denoiser's output for one sample, and the data, the noise and the velocity that it implies.

    All in float32, or float64 where the sample is. With `x = alpha x0 + sigma ε`, one follows from another.

    Attributes:
        step: number in the schedule, from 0.
        level: noise level of the sample.
        sample: x, as the scheduler met it.
        output: the denoiser's, after guidance; x0 where the scheduler itself makes that of it first (EDM).
        kind: what the output predicts: "epsilon", "v_prediction", "sample" or "flow_prediction".
        direction: of the output of flow matching: 1 from the data to the noise, -1 the other way.
        below: the sample that the scheduler itself steps to.

    Raises:
        NotSupported: by the properties, where the output does not determine what is asked for.
    """

    step: int
    level: Level
    sample: Tensor
    output: Tensor
    kind: str
    direction: int = 1
    below: Tensor | None = None

    @property
    def clean(self) -> Tensor:
        """x0-hat: `(x − σ ε)/α`, `α x − σ v` or, for flow matching, `x − σ v`."""
        x, clean = self._floats()
        alpha, sigma, scale = self.level.alpha, self.level.sigma, self.level.scale
        match self.kind:
            case "flow_prediction":
                clean = x - self.direction * sigma * clean
            case "epsilon":
                self._require(alpha, "x0 nor the velocity", "epsilon")
                clean = (x - sigma * clean) / alpha
            case "v_prediction":
                clean = alpha * scale * (scale * x) - sigma * scale * clean
        return clean

    @property
    def epsilon(self) -> Tensor:
        """The noise: `(x − α x0)/σ`, `σ x + α v` or, for flow matching, `x + (1 − σ) v`."""
        x, noise = self._floats()
        alpha, sigma, scale = self.level.alpha, self.level.sigma, self.level.scale
        match self.kind:
            case "epsilon":
                pass
            case "flow_prediction":
                noise = x + self.direction * alpha * noise
            case "v_prediction" if not self.level.flow:
                noise = sigma * scale * (scale * x) + alpha * scale * noise
            case _:
                self._require(sigma, "the noise", "x0")
                noise = (x - alpha * self.clean) / sigma
        return noise

    @property
    def velocity(self) -> Tensor:
        """`ε − x0` for flow matching, else `α ε − σ x0` (progressive distillation, arXiv 2202.00512)."""
        _, given = self._floats()
        if self.kind == "v_prediction":
            return given
        velocity: Tensor = self.direction * given
        if self.kind == "flow_prediction":
            return velocity
        if self.level.flow:
            return self.epsilon - self.clean
        level = self.level
        velocity = (level.alpha * self.epsilon - level.sigma * self.clean) * level.scale
        return velocity

    def _floats(self) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(self.sample.dtype, torch.float32)
        return self.sample.to(dtype), self.output.to(dtype)

    def _require(self, divisor: Any, what: str, instead: str) -> None:
        if bool((torch.as_tensor(divisor) == 0).any()):
            raise NotSupported(
                f"step {self.step} is all {'noise' if instead == 'epsilon' else 'data'}, where a {self.kind} "
                f"prediction does not give {what}: use {instead} there, or another step"
            )


def predicted(scheduler: Any, step: int, given: Mapping[str, Any]) -> Prediction:
    """What the model output says that a scheduler is handed in step number `step` (from 0).

    Args:
        given: the arguments of its `step`: `model_output`, `timestep`, `sample` and, where each token has a
            noise level of its own, `per_token_timesteps`.

    Raises:
        NotSupported: the schedule cannot be read, or what is predicted cannot be told.
    """
    sample, output = given["sample"], given["model_output"]
    level = level_at(scheduler, step, given["timestep"], sample, given.get("per_token_timesteps"))
    kind, direction = _prediction_type(scheduler), 1
    if given.get("per_token_timesteps") is not None or scheduler.config.get("invert_sigmas"):
        # The scheduler walks towards the data here, so its model's output is the negative velocity.
        direction = -1
    elif kind == "flow_prediction" and level.flow and level.scale != 1:
        kind = "epsilon"  # such samples grow by the noise alone
    if hasattr(scheduler, "precondition_outputs"):  # EDM combines the output with the sample once more
        own = given.get("pred_original_sample")  # of CosmosTextToWorldPipeline, which has done that
        output = scheduler.precondition_outputs(sample, output, level.sigma) if own is None else own
        kind = "sample"
    if kind not in _KINDS:
        raise NotSupported(f"{type(scheduler).__name__} predicts {kind!r}, which does not give clean latents")
    return Prediction(step, level, sample, output, kind, direction)


def handing_back(result: Any, sample: Tensor) -> Any:
    """What the step of a scheduler returned, a tuple or an output, with another sample in it."""
    if isinstance(result, tuple):
        return (sample, *result[1:])
    return type(result)(**{**result, "prev_sample": sample})


def level_at(scheduler: Any, step: int, timestep: Any, like: Tensor, tokens: Tensor | None = None) -> Level:
    """The noise level of a scheduler's sample in step number `step` (from 0).

    Args:
        like: a sample: the level is of its device, in float32, or float64 where it is.
        tokens: timesteps of each token, (batch, tokens), where they have their own.

    Raises:
        NotSupported: the schedule cannot be read.
    """
    name, config = type(scheduler).__name__, scheduler.config
    dtype = torch.promote_types(like.dtype, torch.float32)
    sigmas = getattr(scheduler, "sigmas", None)
    if tokens is not None:
        sigma = tokens[..., None] / config["num_train_timesteps"]
        return Level(1 - sigma, sigma, flow=True)
    if sigmas is not None:
        # A pipeline that starts from a given video leaves out the first of the schedule.
        places = (scheduler.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero().flatten()
        places = places[places >= step]
        if not len(places):
            raise NotSupported(
                f"{name} is at timestep {timestep}, which its schedule has not after {step} steps"
            )
        sigma = sigmas[places[0]].to(like.device, dtype)
        scale = 1.0
        if hasattr(scheduler, "scale_model_input"):  # asked of a copy, which is at no step
            twin = copy.copy(scheduler)
            vars(twin).update(_step_index=None, _begin_index=None)
            # Of KDPM2's steps every second is between two levels; the ancestral one's sigmas say so.
            second = hasattr(scheduler, "sigmas_interpol")
            half = second and not hasattr(scheduler, "sigmas_up") and bool(places[0] % 2)
            if second:
                twin.sample = like if half else None
            scale = float(twin.scale_model_input(torch.ones((), dtype=torch.float64), timestep))
            if half:
                sigma = torch.as_tensor((1 / scale**2 - 1) ** 0.5).to(sigma)
        if config.get("invert_sigmas"):  # time runs from noise at 0 to data at 1
            return Level(sigma, 1 - sigma, flow=True)
        if scale != 1:
            return Level(torch.ones_like(sigma), sigma, scale)
        if _prediction_type(scheduler) == "flow_prediction" or config.get("use_flow_sigmas"):
            if sigmas.max() > 1:  # Cosmos2TextToImagePipeline, which scales its samples itself
                return Level(torch.ones_like(sigma), sigma, 1 / (1 + float(sigma)), flow=True)
            return Level(1 - sigma, sigma, flow=True)
        alpha = 1 / (1 + sigma**2) ** 0.5
        return Level(alpha, sigma * alpha)
    if hasattr(scheduler, "alphas_cumprod"):
        power = scheduler.alphas_cumprod[int(timestep)].to(like.device, dtype)
        return Level(power**0.5, (1 - power) ** 0.5)
    raise NotSupported(f"{name} tells neither its clean latents nor its noise levels")


def _prediction_type(scheduler: Any) -> Any:
    flow = "flow_prediction" if type(scheduler).__name__.startswith("FlowMatch") else None
    kind = scheduler.config.get("prediction_type") or flow
    return "sample" if kind == "original_sample" else kind


def clean_latents(scheduler: Any, step: int, output: Any, given: Mapping[str, Any]) -> Tensor:
    """x0-hat for a preview, with the shape of the sample, as it was predicted in step number `step` (from 0).

    Args:
        output: what the scheduler's `step` returned; its own estimate is taken where it gives one.
        given: see `predicted`.

    Raises:
        NotSupported: the scheduler gives no estimate and its schedule cannot be read.
    """
    for name in ("pred_original_sample", "denoised"):
        own = getattr(output, name, None)
        if isinstance(own, Tensor):
            return own
    try:
        return predicted(scheduler, step, given).clean
    except NotSupported as error:
        raise NotSupported(f"no preview: {error}") from error
