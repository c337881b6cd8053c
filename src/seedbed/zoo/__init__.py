"""Embedded models: small, trained from a recipe in this repository, with a card each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seedbed.pipelines import loading
from seedbed.pipelines.loading import DEFAULT, names, path

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

__all__ = ["DEFAULT", "load", "names", "path"]


def load(name: str = DEFAULT, torch_dtype: torch.dtype | None = None) -> DiffusionPipeline:
    """The embedded pipeline on the CPU, in float32 unless `torch_dtype` says otherwise.

    Raises BadInput as `path`.
    """
    return loading.load(path(name), dtype=torch_dtype or "float32", device="cpu")
