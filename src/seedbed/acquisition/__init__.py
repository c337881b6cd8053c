"""Which noise is promising: acquisition functions, one idea per file; names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seedbed.acquisition.bansa import Bansa
    from seedbed.acquisition.base import Acquisition, AttentionScore, NoiseScore, Pool, RolloutScore, Scores
    from seedbed.acquisition.dropout import BansaDropout
    from seedbed.acquisition.entropy import Entropy
    from seedbed.acquisition.learned import Learned
    from seedbed.acquisition.previews import Previews
    from seedbed.acquisition.random import Random
    from seedbed.acquisition.registry import REGISTRY, create, resolve

_MODULES = {
    "bansa": ("Bansa",),
    "base": ("Acquisition", "AttentionScore", "NoiseScore", "Pool", "RolloutScore", "Scores"),
    "dropout": ("BansaDropout",),
    "entropy": ("Entropy",),
    "learned": ("Learned",),
    "previews": ("Previews",),
    "random": ("Random",),
    "registry": ("REGISTRY", "create", "resolve"),
}

__all__ = [
    "REGISTRY",
    "Acquisition",
    "AttentionScore",
    "Bansa",
    "BansaDropout",
    "Entropy",
    "Learned",
    "NoiseScore",
    "Pool",
    "Previews",
    "Random",
    "RolloutScore",
    "Scores",
    "create",
    "resolve",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"seedbed.acquisition.{module}"), name)
    raise AttributeError(f"module 'seedbed.acquisition' has no attribute {name!r}")
