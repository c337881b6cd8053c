"""The noises to choose among: those of a seed, drawn as the pipeline lays them out, or the caller's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seedbed.errors import BadInput, NotSupported, shown
from seedbed.noise import (
    MOST_CANDIDATES,
    Gaussian,
    GivenNoise,
    NoiseRecipe,
    Pool,
    Prior,
    Torch,
    prior_named,
    sha256_of,
)
from seedbed.pipelines.session import Session
from seedbed.refinement import rebuilt
from seedbed.texts import text_of

# A pool is drawn and held as a whole: 8 GiB are 1,900 noises of CogVideoX-5B, which take half a minute.
MOST_BYTES = 8 * 2**30

Noises = Tensor | Sequence[NoiseRecipe | GivenNoise | Tensor]
"""Noises of the caller's own: (candidates, *shape), or a list of noises (*shape) and recipes."""


def draw_pool(session: Session, candidates: int, seed: int, prior: str | Prior | None = None) -> Pool:
    """The noises of candidates 0, 1, ... of a seed, for the latents of this session's pipeline.

    Args:
        prior: as in `select`; None: what the model was trained under.

    Raises:
        BadInput: more than `MOST_CANDIDATES`, or than fit in `MOST_BYTES`; a prior over frames where the
            latents have no axis of them.
        NotSupported: how the pipeline draws its noise cannot be told, where that is asked.
    """
    spec = session.spec
    shape = tuple(spec.shape)
    _require_room(session, candidates)
    prior = prior or session.asked.prior
    kind = Gaussian() if prior is None else prior_named(prior)
    axis, packing = spec.frame_axis, None
    if isinstance(kind, Torch) or (axis is None and not isinstance(kind, Gaussian)):
        drawn = session.drawn
        axis, packing = drawn.frame_axis, drawn.packing
        if isinstance(kind, Torch):
            if drawn.unseeded is not None:
                raise NotSupported(drawn.unseeded)
            if kind.dtype is None and drawn.dtype != torch.float32:
                kind = Torch(str(drawn.dtype).removeprefix("torch."))
    first = NoiseRecipe(seed, 0, shape, text_of(kind), axis, packing=packing)
    return Pool.of([dataclasses.replace(first, candidate=index) for index in range(candidates)])


def _require_room(session: Session, candidates: int) -> None:
    each = 4 * math.prod(session.spec.shape)
    most = min(MOST_CANDIDATES, MOST_BYTES // each)
    if candidates > most:
        raise BadInput(
            f"{candidates:,} candidates are too many for one choice (noises of "
            f"{candidates * each / 2**30:,.1f} GiB): ask for at most {most:,} of {session.asked.name}"
        )


def listed(noises: Noises) -> Noises:
    """The caller's own noises, if there are any; errors as `seedbed.score`."""
    if not isinstance(noises, (Tensor, list, tuple)) or (isinstance(noises, Tensor) and not noises.ndim):
        raise BadInput(f"the noises must be one tensor, or a list of noises and recipes, not {shown(noises)}")
    if len(noises) < 1:
        raise BadInput("there is no noise to score: pass at least one")
    return noises


def given_pool(session: Session, noises: Noises) -> tuple[Pool, tuple[str, ...]]:
    """The caller's own noises, checked, and what is to be said of them; errors as `seedbed.score`."""
    _require_room(session, len(noises))
    recipes: list[NoiseRecipe | GivenNoise] = []
    drawn: list[Tensor] = []
    notes: list[str] = []
    for index, noise in enumerate(noises):
        if not isinstance(noise, (Tensor, NoiseRecipe, GivenNoise)):
            raise BadInput(f"noise {index} must be a tensor or a recipe, not {type(noise).__name__}")
        if tuple(noise.shape) != tuple(session.spec.shape):
            raise BadInput(
                f"noise {index} has shape {tuple(noise.shape)}, "
                f"but this pipeline's latents have shape {tuple(session.spec.shape)}"
            )
        if isinstance(noise, NoiseRecipe):
            values, change = rebuilt(noise, session)
            notes += [change] * bool(change)
            recipes.append(dataclasses.replace(noise, sha256=sha256_of(values)))
        elif isinstance(noise, GivenNoise):
            values = noise.draw()
            recipes.append(dataclasses.replace(noise, candidate=index))
        elif bool(noise.isfinite().all()):
            values = noise.detach().cpu().float().contiguous()
            recipes.append(GivenNoise.of(values, index))
        else:
            raise BadInput(f"noise {index} has values that are not finite")
        drawn.append(values)
    return Pool(tuple(recipes), torch.stack(drawn)), tuple(notes)
