"""Semantic injection: what the model predicts of the noise at several timesteps is written into it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from seedbed.errors import BadInput, finite, one_of, shown
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import evaluations_of, guided_evaluations, predict
from seedbed.refinement.formulas import Rescale, inject
from seedbed.refinement.refiner import Refiner, step_at, told, without_prompt, without_signal

Target = Literal["prediction", "epsilon", "x0", "velocity", "guidance_gap"]


@dataclass(frozen=True)
class Injection(Refiner):
    """`(z + δ Σ_k w_k p_k / √(Σ_k w_k²)) / √(1 + δ²)`, p_k predicted of the same z at step k.

    Of arXiv 2511.07756, which gives neither δ nor the times and weights: these are ours. An evaluation for
    each step, and one more if the first is not among them; twice that for the guidance gap. Times on one
    step share it, and their weights add up.

    Args:
        delta: δ, or a list with one for each time: then each p_k has its own, and the denominator that of
            `√(Σ_k (δ_k w_k)² / Σ_k w_k²)`. 0 leaves the noise as it is, and asks nothing.
        times: shares of the schedule: 0 is its first step, 1 its last.
        weights: one for each time; None: equal ones.
        target: what is written: "prediction", what the model was trained to predict, as in the paper; the
            noise "epsilon", "x0", "velocity" (of flow matching `ε − x0`, else `α ε − σ x0`), or
            "guidance_gap", what the prompt changes in the prediction, see `GuidanceGap`.
        sign: -1 subtracts. Adding the noise leads away from the data, as `ε = (z − α x0)/σ`.
        rescale: see `seedbed.refinement.formulas.add_direction`.

    Raises:
        BadInput: an option out of its range, not one weight or delta for each time, weights all zero.
    """

    name = "injection"
    needs_model = True

    delta: float | tuple[float, ...] = 0.1
    times: tuple[float, ...] = (0.0, 0.5, 1.0)
    weights: tuple[float, ...] | None = None
    target: Target = "prediction"
    sign: Literal[1, -1] = 1
    rescale: Rescale = "standardise"

    def __post_init__(self) -> None:
        times = _numbers("times", self.times, 0, 1)
        several = isinstance(self.delta, (tuple, list))
        deltas = _numbers("delta", self.delta if several else [self.delta], 0)
        weights = None if self.weights is None else _numbers("weights", self.weights)
        counts = [len(times), len(times if weights is None else weights), len(deltas if several else times)]
        if not times or len(set(counts)) > 1:
            raise BadInput(f"injection needs times, and a weight and a delta for each, not {counts}")
        if weights is not None and not any(weights):
            raise BadInput("injection's weights are all zero: give one time a weight")
        one_of("injection's target", self.target, get_args(Target))
        one_of("injection's sign", self.sign, (1, -1))
        one_of("injection's rescale", self.rescale, get_args(Rescale))
        checked: dict[str, Any] = {"times": times, "weights": weights, "sign": int(self.sign)}
        checked["delta"] = deltas if several else deltas[0]
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def evaluations(self, session: Session) -> float:
        """See `Refiner.evaluations`."""
        steps = [*self._pushes(session)[0]]
        if steps:
            guided_evaluations(session, steps)  # refuses before anything is spent
        return evaluations_of(steps) * (1.0 + (self.target == "guidance_gap")) if steps else 0.0

    def caution(self, session: Session) -> str:
        """See `Refiner.caution`."""
        if self.target == "guidance_gap":
            without_prompt(session)
        return without_signal(self.name, session, [*self._pushes(session)[0]] * (self.target == "epsilon"))

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`."""
        assert session is not None
        pushes, delta = self._pushes(session)
        if not pushes:
            return noise
        gap = self.target == "guidance_gap"
        target = "prediction" if gap else self.target
        plain = without_prompt(session) if gap else None
        found = {each.step: told(each, target) for each in predict(session, noise, [*pushes])}
        for each in predict(plain, noise, [*pushes]) if plain is not None else ():
            found[each.step] -= told(each, target)
        how: dict[str, Any] = {"weights": [*pushes.values()], "sign": self.sign, "rescale": self.rescale}
        return inject(noise.double(), lambda _, step: found[step], [*pushes], delta=delta, **how)

    def _pushes(self, session: Session) -> tuple[dict[int, float], float]:
        """The sum of δ_k w_k at each step that has any, ascending, and their length over the weights'."""
        count = len(self.times)
        deltas = self.delta if isinstance(self.delta, tuple) else (self.delta,) * count
        pushes, weights = defaultdict[int, float](float), defaultdict[int, float](float)
        for time, delta, weight in zip(self.times, deltas, self.weights or (1.0,) * count, strict=True):
            step = step_at(session, time)
            pushes[step] += delta * weight
            weights[step] += weight
        length = math.hypot(*weights.values())
        if not length:
            raise BadInput("injection's weights add up to zero at every step: raise num_inference_steps")
        strength = math.hypot(*pushes.values()) / length
        return {step: pushes[step] for step in sorted(pushes) if pushes[step]}, strength


def _numbers(name: str, values: Any, least: float = -1e100, most: float = 1e100) -> tuple[float, ...]:
    if not isinstance(values, (tuple, list)):
        raise BadInput(f"injection's {name} must be a list of numbers, not {shown(values)}")
    return tuple(finite(f"injection's {name}", value, least, most) for value in values)
