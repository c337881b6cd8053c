"""Denoise, then invert: the data step of Golden Noise, the first step of Z-sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seedbed.errors import BadInput, number, one_of, shown
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.prediction import Prediction
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import guided_evaluations, levels_of, predict
from seedbed.refinement.formulas import add_direction
from seedbed.refinement.refiner import Refiner, step_at


@dataclass(frozen=True)
class DenoiseInvert(Refiner):
    """One guided step down from the noise, and one back up without guidance, which leaves the guidance in it.

    As Golden Noise makes its data (arXiv 2411.09502) and Z-sampling begins (arXiv 2412.10891), by the
    deterministic step of DDIM, or of Euler for flow matching: `x_1 = α_1 x0 + σ_1 ε` of the guided prediction
    at the first step, then `α_0 x0 + σ_0 ε` of the unguided one at x_1. Where guidance is off already, what
    remains is the error of the inversion. It costs a guided evaluation and two others.

    Args:
        to: how far down: a number of steps from 1, or below 1 a share of the schedule.
        rescale: "none", as published, or "standardise" to the mean and norm that the noise had.

    Raises:
        BadInput: an option out of its range; later, more steps than the schedule has, or noise that the
            pipeline adds to something else.
    """

    name = "denoise_invert"
    needs_model = True

    to: float = 1
    rescale: Literal["none", "standardise"] = "none"

    def __post_init__(self) -> None:
        to = number(self.to)
        if to is None or not to > 0 or not (to < 1 or to.is_integer()):
            raise BadInput(f"to must be a number of steps, or a share of them below 1, not {shown(self.to)}")
        object.__setattr__(self, "to", int(to) if to >= 1 else to)
        one_of("denoise_invert's rescale", self.rescale, ("none", "standardise"))

    def evaluations(self, session: Session) -> float:
        """See `Refiner.evaluations`."""
        return guided_evaluations(session, [0, self._down(session)])[0] + 2.0

    def caution(self, session: Session) -> str:
        """See `Refiner.caution`."""
        self._down(session)
        return ""

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`."""
        assert session is not None
        down, levels = self._down(session), levels_of(session)
        start, end = levels[0], levels[down]
        (guided,) = predict(session, noise, [0], guided=True)
        lower = end.alpha * guided.clean + end.sigma * guided.epsilon

        def follow(prediction: Prediction) -> Tensor | None:
            # In the sample space of the step after the first.
            return lower * (end.scale / levels[1].scale) if prediction.step == 0 else None

        _, back = predict(session, noise, [0, down], follow=follow)
        raised = start.alpha * back.clean + start.sigma * back.epsilon
        # As a change of the sample: half precision then rounds no more than that.
        began = guided.sample.cpu().double()
        drawn = noise.double()
        scale = (began * drawn).sum() / drawn.square().sum()  # what the pipeline multiplies its noise with
        moved = (raised.cpu().double() - began) / scale
        return add_direction(drawn, moved, 1.0) if self.rescale == "standardise" else drawn + moved

    def _down(self, session: Session) -> int:
        if session.facts.entry == "added":
            raise BadInput(
                f"{session.asked.name} adds its noise to what it is given: no inversion gives noise alone"
            )
        steps = session.facts.steps
        down = self.to if isinstance(self.to, int) else max(1, step_at(session, self.to))
        if down >= steps:
            raise BadInput(
                f"to={shown(self.to)}, but the schedule has {steps} steps: raise num_inference_steps"
            )
        return down
