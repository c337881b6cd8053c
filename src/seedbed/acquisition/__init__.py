"""Which noise is promising: acquisition functions, one idea per file; names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seedbed.acquisition.bansa import Bansa, Entropy
    from seedbed.acquisition.base import (
        Acquisition,
        AttentionScore,
        NoiseScore,
        Random,
        RolloutScore,
        Scores,
    )
    from seedbed.acquisition.dropout import BansaDropout
    from seedbed.acquisition.learned import Learned
    from seedbed.acquisition.previews import Previews
    from seedbed.acquisition.registry import REGISTRY, create, resolve
    from seedbed.acquisition.search import LowFrequencies, Neighbours, RandomSearch, Search
    from seedbed.noise import Pool

_MODULES = {
    "bansa": ("Bansa", "Entropy"),
    "base": ("Acquisition", "AttentionScore", "NoiseScore", "Pool", "Random", "RolloutScore", "Scores"),
    "dropout": ("BansaDropout",),
    "learned": ("Learned",),
    "previews": ("Previews",),
    "registry": ("REGISTRY", "create", "resolve"),
    "search": ("LowFrequencies", "Neighbours", "RandomSearch", "Search"),
}

__all__ = [
    "REGISTRY",
    "Acquisition",
    "AttentionScore",
    "Bansa",
    "BansaDropout",
    "Entropy",
    "Learned",
    "LowFrequencies",
    "Neighbours",
    "NoiseScore",
    "Pool",
    "Previews",
    "Random",
    "RandomSearch",
    "RolloutScore",
    "Scores",
    "Search",
    "create",
    "resolve",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"seedbed.acquisition.{module}"), name)
    raise AttributeError(f"module 'seedbed.acquisition' has no attribute {name!r}")
