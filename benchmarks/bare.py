"""The least pipeline that a selection needs, around any denoiser: what `select` runs on it can be watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from architectures import Architecture
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import seedbed
from seedbed.acquisition import AttentionScore
from seedbed.attention import AttentionCall
from seedbed.halving import Schedule


class BarePipeline(DiffusionPipeline):
    """A denoiser, a scheduler, and a call that prepares latents and runs the denoiser on them."""

    architecture: Architecture  # diffusers takes everything in __init__ for a component

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    def prepare_latents(self, rows: int, latents: Tensor | None) -> Tensor:
        return torch.zeros(rows, *self.architecture.latents) if latents is None else latents

    @torch.no_grad()
    def __call__(
        self,
        prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 2,
        latents: Tensor | None = None,
        output_type: str = "latent",
        return_dict: bool = True,
    ) -> Tensor:
        assert prompt_embeds is not None
        self.scheduler.set_timesteps(num_inference_steps)
        rows = len(prompt_embeds)
        latents = self.prepare_latents(rows, latents)
        for _ in self.scheduler.timesteps:
            given = {name: value.float() for name, value in self.architecture.inputs(rows).items()}
            self.transformer(**{**given, "hidden_states": latents})
        return latents


def bare_pipeline(architecture: Architecture) -> BarePipeline:
    """The pipeline of an architecture, float32, random weights."""
    pipe = BarePipeline(architecture.build().float(), FlowMatchEulerDiscreteScheduler())
    pipe.architecture = architecture
    return pipe


@dataclass(frozen=True, kw_only=True)
class Watching(AttentionScore):
    """Writes down the rows of every attention call, `rows[forward][layer]`. No two candidates tie."""

    name = "watching"
    rows: list[list[int]] = field(default_factory=list)

    def observe(self, call: AttentionCall) -> Tensor:
        if call.index == 0:
            self.rows.append([])
        self.rows[-1].append(call.candidates)
        return len(self.rows) * 1e3 + torch.arange(call.candidates, dtype=torch.float64)


def rows_of_selection(
    architecture: Architecture,
    candidates: int,
    batch: int,
    *,
    depth: float | None = None,
    race: Schedule | None = None,
) -> list[list[int]]:
    """The rows of every attention call of every forward that `seedbed.select` runs.

    Found by running it on a narrow sibling of the architecture, which has the same layers.

    Args:
        batch: how many noises may share a forward.
        depth, race: as `Bansa` takes them.
    """
    narrow = architecture.narrow()
    watching = Watching(depth=depth, race=race)
    seedbed.select(
        bare_pipeline(narrow),
        prompt_embeds=torch.zeros(1, *narrow.text),
        candidates=candidates,
        acquisition=watching,
        batch_size=batch,
        progress=False,
    )
    return watching.rows
