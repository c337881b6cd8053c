"""Models that ship with the package: small, trained from a recipe in this repository, with a card each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seedbed.errors import BadInput

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

DEFAULT = "shapes-cogvideox"
_MODELS = Path(__file__).with_name("models")


def names() -> list[str]:
    """The embedded models' names."""
    return sorted(folder.name for folder in _MODELS.iterdir() if (folder / "model_index.json").is_file())


def path(name: str = DEFAULT) -> Path:
    """The folder of an embedded model, as `DiffusionPipeline.from_pretrained` reads it. Raises `BadInput`."""
    if name not in names():
        raise BadInput(f"no embedded model is called '{name}'; there is {', '.join(names())}")
    return _MODELS / name


def load(name: str = DEFAULT, torch_dtype: torch.dtype | None = None) -> DiffusionPipeline:
    """The embedded pipeline, in float32 unless `torch_dtype` says otherwise."""
    import torch
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(path(name), torch_dtype=torch_dtype or torch.float32)
