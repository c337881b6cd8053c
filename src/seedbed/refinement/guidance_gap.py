"""Noise-level guidance: the noise is moved by what the prompt changes in the model's prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from seedbed.errors import finite, one_of, whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import evaluations_of, guided_evaluations, levels_of, predict
from seedbed.refinement.formulas import guide_noise
from seedbed.refinement.refiner import Refiner, step_at, told, without_prompt, without_signal

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
        if not self.rate:
            return 0.0
        steps = [step_at(session, self.time)]
        guided_evaluations(session, steps)  # refuses before anything is spent
        return 2.0 * self.steps * evaluations_of(steps)

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
