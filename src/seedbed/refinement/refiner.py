"""What a refiner is, what it asks of a session, and which model a noise was refined with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, NotSupported
from seedbed.noise import Gaussian, GivenNoise, NoiseRecipe, prior_named
from seedbed.noise.packing import Packing
from seedbed.pipelines.comparing import values_digest
from seedbed.pipelines.compiled import eager_module
from seedbed.pipelines.prediction import Prediction
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import levels_of


@dataclass(frozen=True)
class Refiner:
    """A method that makes another initial noise of one, without training.

    A subclass names itself and implements `refine`; its fields are its options, checked in `__post_init__`,
    which texts can hold: numbers, words, lists. It keeps no state, and its result depends on its arguments
    alone: then a record can repeat it.

    Attributes:
        name: how texts and records call it.
        needs_model: whether it asks the session's model, so that another model would refine otherwise.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool] = False

    def evaluations(self, session: Session) -> float:
        """What it costs for one candidate, in full conditional forwards of the denoiser."""
        return 0.0

    def caution(self, session: Session) -> str:
        """What is to be known of it in this call, in one line; "" for nothing. No evaluation is run.

        Raises BadInput where it cannot be used in this call.
        """
        return ""

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """Refine one noise.

        Args:
            noise: float32 (*recipe.shape) on the CPU, its own to change.
            session: the pipeline, the prompt and the call; its ledger counts what is spent, under
                "refinement". None only where `needs_model` is false.
            recipe: of this noise, with the refinements before this one; `recipe.beside(k)` draws companions.

        Returns:
            (*recipe.shape), of any dtype and on any device; it is kept in float32.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement refine")


def correlate_steps(session: Session, recipe: NoiseRecipe | GivenNoise, noise: Tensor) -> None:
    """From now on, what a stochastic scheduler adds to this noise has the correlation of its prior."""
    if isinstance(recipe, NoiseRecipe) and not isinstance(prior_named(recipe.prior), Gaussian):
        session.correlate[values_digest(session.as_latents(noise[None])[0])] = recipe.correlate


def told(prediction: Prediction, target: str) -> Tensor:
    """What a prediction says of "epsilon", "x0" or "velocity", or of what the model predicts: "prediction".

    In terms of unit noise whatever the scheduler's sample space; float64 on the CPU.
    """
    own = {"epsilon": "epsilon", "sample": "x0"}.get(prediction.kind, "velocity")
    match own if target == "prediction" else target:
        case "epsilon":
            found = prediction.epsilon
        case "x0":
            found = prediction.clean
        case _:
            found = prediction.velocity
    return found.cpu().double()


def without_prompt(session: Session) -> Session:
    """The same call with the negative prompt, or none (""), as its prompt; it has the session's ledger.

    Raises BadInput where there is no prompt, or it is embedded and the negative one is not.
    """
    call = session.call
    changed = {}
    for name, value in call.items():
        other = call.get(f"negative_{name}")
        if re.fullmatch(r"prompt_\d", name):
            changed[name] = other or call.get("negative_prompt") or ""
        elif "prompt" in name and "negative" not in name and isinstance(value, (Tensor, list)):
            if other is None:
                raise BadInput(f"without its prompt, a call with {name} needs negative_{name}: pass that too")
            changed[name] = other
    if session.prompt is None and not changed:
        raise BadInput(f"{session.asked.name} is called without a prompt, so no gap can be told")
    text = call.get("negative_prompt") or ""
    text = None if session.prompt is None else text[0] if isinstance(text, list) else text
    return session.another(text, {**call, **changed})


def step_at(session: Session, time: float) -> int:
    """The step at a share of the schedule: 0 its first, 1 its last."""
    return int(time * (session.facts.steps - 1) + 0.5)


def without_signal(name: str, session: Session, steps: Sequence[int]) -> str:
    """A caution where the noise that is predicted at one of these steps is the noise itself; else ""."""
    blind = [step for step in steps if not levels_of(session)[step].has_signal]
    if not blind:
        return ""
    return (
        f"{name} does nothing at step {blind[0]}, which has no signal: the noise that is predicted there is "
        "the noise itself; use another target, or a later time"
    )


def positions_of(session: Session) -> tuple[tuple[int, ...], Packing | None]:
    """The axes that hold frames, if several, height and width; of the drawn noise, where that is packed.

    Raises NotSupported where they cannot be told.
    """
    layout, shape, packing = session.spec.layout, session.spec.shape, None
    if "tokens" in layout.split():
        drawn = session.drawn
        layout, shape, packing = drawn.layout, drawn.shape, drawn.packing
    axes = [(axis, name) for axis, name in enumerate(layout.split()[1:]) if name in ("f", "h", "w")]
    if len(axes) < 2:
        raise NotSupported(
            f"the latents of {session.asked.name} are {layout}: which axes hold height and width, and so "
            "frequencies, cannot be told"
        )
    return tuple(axis for axis, name in axes if name != "f" or shape[axis] > 1), packing


def model_sha256(pipe: Any, autoencoder: bool = False) -> str:
    """Which model a pipeline has: of the configurations and weights that a denoiser's output depends on.

    Of every tensor up to 4,096 values, evenly spaced. Without the configurations of transformers' models,
    which its next version writes otherwise. Of adapters (peft) the scales too.

    Args:
        autoencoder: whether that counts too, as it does for decoded videos.
    """
    digest = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        if not isinstance(component, nn.Module) or (name.startswith("vae") and not autoencoder):
            continue
        module = eager_module(component)
        config = getattr(module, "config", None)
        settings = dict(config) if isinstance(config, Mapping) else {}
        own = {key: value for key, value in settings.items() if not key.startswith("_")}
        # As JSON, which knows no tuples: a loaded configuration has lists where a new one has tuples.
        text = json.dumps(own, sort_keys=True, default=str)
        digest.update(f"{name} {type(module).__name__} {text}".encode())
        for place, tensor in _weights(module):
            digest.update(f"{place} {tensor.dtype} {tuple(tensor.shape)}".encode())
            values = tensor.detach().flatten()
            some = values[:: -(-len(values) // 4096) or 1].contiguous()
            digest.update(some.view(torch.uint8).cpu().numpy().tobytes())
        for place, part in module.named_modules():
            tuner: Any = part
            if isinstance(scales := vars(part).get("scaling"), dict) and not tuner.disable_adapters:
                # Rounded, as diffusers scales them for a call, and back.
                on = [
                    f"{name} {scales[name]:.6g}" for name in sorted(tuner.active_adapters) if name in scales
                ]
                digest.update(f"{place} {on}".encode())
    return digest.hexdigest()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by name, also those that sequential offloading keeps in its hooks."""
    for place, part in module.named_modules():
        passing = part._non_persistent_buffers_set
        saved = {name: buffer for name, buffer in part._buffers.items() if name not in passing}
        for name, tensor in {**part._parameters, **saved}.items():
            if tensor is None:
                continue
            if tensor.is_meta:
                hook: Any = part._hf_hook
                maps = (getattr(each, "weights_map", None) for each in (hook, *getattr(hook, "hooks", ())))
                tensor = next(weights for weights in maps if weights is not None)[name]
            if hasattr(tensor, "__tensor_flatten__"):  # of torchao, which is quantised
                parts, _ = tensor.__tensor_flatten__()
                yield from ((f"{place}.{name}.{each}", getattr(tensor, each)) for each in parts)
                continue
            yield f"{place}.{name}", tensor
