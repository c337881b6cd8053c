"""A learned choice: a linear model over what the first steps show, fitted by a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.acquisition.base import RolloutScore
from seedbed.acquisition.signals import measure
from seedbed.errors import BadInput, NotSupported, finite, shown, whole
from seedbed.pipelines.rollout import Rollout

Array = np.ndarray[Any, Any]

# Strengths of the penalty that `fit` tries, as shares of the mean square of a standardised signal.
RIDGES = tuple(10.0**power for power in range(-3, 4))


@dataclass(frozen=True, kw_only=True)
class Learned(RolloutScore):
    """A weighted sum of signals, each standardised within the pool: higher predicts a better video.

    The signals are those of `seedbed.acquisition.signals.measure` at one step, minus the pool's mean and over
    its standard deviation; one that is the same for every candidate counts 0. So a total, unlike that of the
    other functions, depends on the pool it is in. It takes `step` + 1 guided evaluations for each candidate.

    Args:
        coefficients: signal, without its step ("entropy/3", "guidance_gap"), to weight. `seedbed.calibrate`
            finds them; there are none that would hold for every model.
        step: how many denoising steps are done when the signals are read; 0 is t = T.

    Raises:
        BadInput: no coefficient, one that is not finite, or a step below 0.
    """

    name = "learned"
    better = "high"

    coefficients: Mapping[str, float] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("step", self.step, least=0)
        if not isinstance(self.coefficients, Mapping) or not self.coefficients:
            raise BadInput(
                "learned needs the coefficients of a calibration: run seedbed calibrate and choose by its "
                "profile"
            )
        checked = {k: finite(f"the coefficient of {shown(k)}", v) for k, v in self.coefficients.items()}
        object.__setattr__(self, "coefficients", checked)

    def foresee(self, rollout: Rollout) -> Tensor:
        """(candidates,) float64.

        Raises:
            NotSupported: the model has no such signal.
        """
        signals = measure(rollout, [self.step])
        return torch.from_numpy(self.total({name.partition("/")[2]: v for name, v in signals.items()}))

    def total(self, signals: Mapping[str, Array]) -> Array:
        """The weighted sum: signal, without its step, to (..., candidates) -> (..., candidates) float64."""
        for name in self.coefficients:
            if name not in signals:
                raise NotSupported(
                    f"this call of the model shows no signal {shown(name)}, which the learned choice needs: "
                    "calibrate on this model with these arguments"
                )
        weighted = [weight * standardised(signals[name]) for name, weight in self.coefficients.items()]
        return np.asarray(np.sum(weighted, axis=0))


def standardised(values: Array) -> Array:
    """(..., candidates) less their mean, over their standard deviation; 0 where they are all the same."""
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    # Rounding of equal values is no difference between candidates.
    constant = spread <= 1e-12 * np.abs(values).max(-1, keepdims=True, initial=0.0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


@dataclass(frozen=True, eq=False)
class Fit:
    """Coefficients of a ridge regression.

    Attributes:
        weights: (features,) float64, for standardised signals.
        ridge: the strength of the penalty that was used.
        predicted: (prompts, noises) float64, each prompt by the weights fitted without its fold.
    """

    weights: Array
    ridge: float
    predicted: Array


def fit(signals: Array, outcome: Array, *, folds: int = 10) -> Fit:
    """Ridge regression of an outcome on signals, both within prompts, over prompts alike.

    Minimises the mean over prompts and noises of (y - x w)^2 + ridge |w|^2, where x are the signals
    standardised within their prompt and y is the outcome less its prompt's mean. Of the strengths `RIDGES`
    the one is kept that has the least error on prompts that were left out, the strongest where several agree.

    Args:
        signals: (prompts, noises, features), finite, of at least 2 prompts and 2 noises.
        outcome: (prompts, noises).
        folds: parts into which the prompts are split, at least 2 (prompt i goes to part i modulo `folds`); as
            many as prompts, or more, leaves out one prompt at a time.
    """
    x = standardised(signals.swapaxes(1, 2)).swapaxes(1, 2)
    y = outcome - outcome.mean(1, keepdims=True)
    grams = x.swapaxes(1, 2) @ x  # (prompts, features, features)
    moments = (x.swapaxes(1, 2) @ y[..., None])[..., 0]
    part = np.arange(len(y)) % min(folds, len(y))

    def solved(kept: Array) -> Array:
        """(strengths, features): one decomposition serves every strength."""
        rows = kept.sum() * y.shape[1]
        values, vectors = np.linalg.eigh(grams[kept].sum(0) / rows)
        turned = vectors.T @ (moments[kept].sum(0) / rows)
        shrunk = turned / (values.clip(min=0) + np.asarray(RIDGES)[:, None])
        return np.asarray(shrunk @ vectors.T)

    predicted = np.empty((len(RIDGES), *y.shape))
    for fold in range(min(folds, len(y))):
        left = part == fold
        predicted[:, left] = np.einsum("pnf,sf->spn", x[left], solved(~left))
    errors = ((predicted - y) ** 2).mean((1, 2))
    best = len(RIDGES) - 1 - int(errors[::-1].argmin())
    return Fit(solved(part >= 0)[best], RIDGES[best], predicted[best])
