"""Noise-level guidance: the noise is moved by what the prompt changes in the model's prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from seedbed.errors import BadInput, finite, shown, whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.prediction import Prediction
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import evaluations_of, levels_of, predict
from seedbed.refinement.base import Refiner
from seedbed.refinement.formulas import guide_noise

Target = Literal["auto", "epsilon", "velocity"]


@dataclass(frozen=True)
class GuidanceGap(Refiner):
    """`z ← renorm(z − rate · clip(conditional − unconditional))`, so many times (noise-level guidance).

    The unconditional prediction is that of the same call with its negative prompt, or an empty one, in place
    of the prompt, also where a pipeline's own guidance takes zeros for it (SDXL).

    Args:
        steps: how often, two evaluations each; about 20 as published.
        rate: 0 leaves the noise as it is, and asks nothing.
        clip: longest step, as a share of the noise's length. Ours: it turns the noise by at most 6 degrees.
        time: at which share of the schedule; 0 is its first step.
        target: of what the two predictions are: "epsilon", the noise, as published, "velocity", or "auto":
            the noise, but the velocity where the step has no signal. All gaps have one direction.

    Raises:
        BadInput: an option out of its range; later, a call without a prompt, or embeddings without negative
            ones.
    """

    name = "guidance_gap"
    needs_model = True

    steps: int = 20
    rate: float = 1.0
    clip: float = 0.1
    time: float = 0.0
    target: Target = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("a guidance gap's steps", self.steps, 1, 10_000))
        object.__setattr__(self, "rate", finite("a guidance gap's rate", self.rate, 0, 1e100))
        object.__setattr__(self, "clip", finite("a guidance gap's clip", self.clip, 0, 1e100))
        object.__setattr__(self, "time", finite("a guidance gap's time", self.time, 0, 1))
        one_of("a guidance gap's target", self.target, get_args(Target))

    def evaluations(self, session: Session) -> float:
        """See `Refiner.evaluations`."""
        return 2 * self.steps * evaluations_of([step_at(session, self.time)]) if self.rate else 0.0

    def caution(self, session: Session) -> str:
        """See `Refiner.caution`."""
        without_prompt(session)
        asked = self.rate and self.target == "epsilon"
        return without_signal(self.name, session, [step_at(session, self.time)] if asked else [])

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`."""
        assert session is not None
        if not self.rate:
            return noise
        plain, step = without_prompt(session), step_at(session, self.time)
        auto = "epsilon" if levels_of(session)[step].has_signal else "velocity"
        target = auto if self.target == "auto" else self.target

        def gap(z: Tensor) -> Tensor:
            pair = (predict(each, z, [step])[0] for each in (session, plain))
            conditional, unconditional = (told(each, target) for each in pair)
            return conditional - unconditional

        return guide_noise(noise.double(), gap, steps=self.steps, rate=self.rate, clip=self.clip)


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
    plain = Session(session.pipe, text, **{**call, **changed})
    plain.ledger, plain._encodings = session.ledger, session._encodings
    return plain


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


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """BadInput where an option is none of these."""
    if value not in choices:
        raise BadInput(f"{name} must be {', '.join(map(str, choices))}, not {shown(value)}")
