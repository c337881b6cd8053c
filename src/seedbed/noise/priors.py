"""Distributions that initial noise is drawn from; each element is N(0, 1) on its own under all of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput


class Prior(Protocol):
    """A distribution over noises, each of whose elements is N(0, 1) on its own.

    `draw` takes every random number from `generator`, in an order that depends on `shape` and `frame_axis`
    alone, and computes in float64 until the end: then its noise is the same on every machine.
    """

    name: str

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """Draw one noise.

        Args:
            shape: of the noise, without a batch axis.
            frame_axis: the axis of `shape` that counts latent frames, or None where there is none.
            generator: the only source of randomness.

        Returns:
            float32 CPU tensor of `shape`.
        """
        ...


class Gaussian:
    """Independent N(0, 1) in every element: what diffusion models are trained on."""

    name = "gaussian"

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """See `Prior.draw`; `frame_axis` plays no part in an independent prior."""
        # Drawn in float64: rounding then hides a last-digit difference between two C libraries' logarithms.
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


_PRIORS: dict[str, Prior] = {prior.name: prior for prior in (Gaussian(),)}


def prior_named(name: str) -> Prior:
    """The prior that a recipe calls `name`.

    Raises:
        BadInput: there is no such prior.
    """
    if name not in _PRIORS:
        raise BadInput(f"there is no noise prior {name!r}; choose one of: {', '.join(map(repr, _PRIORS))}")
    return _PRIORS[name]
