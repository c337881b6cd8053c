"""Which noise is promising: acquisition functions, one idea per file; names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seedbed.acquisition.bansa import Bansa as Bansa
    from seedbed.acquisition.bansa import Entropy as Entropy
    from seedbed.acquisition.base import Acquisition as Acquisition
    from seedbed.acquisition.base import AttentionScore as AttentionScore
    from seedbed.acquisition.base import NoiseScore as NoiseScore
    from seedbed.acquisition.base import Random as Random
    from seedbed.acquisition.base import RolloutScore as RolloutScore
    from seedbed.acquisition.base import Scores as Scores
    from seedbed.acquisition.dropout import BansaDropout as BansaDropout
    from seedbed.acquisition.learned import Learned as Learned
    from seedbed.acquisition.previews import Previews as Previews
    from seedbed.acquisition.registry import REGISTRY as REGISTRY
    from seedbed.acquisition.registry import create as create
    from seedbed.acquisition.registry import resolve as resolve
    from seedbed.acquisition.search import LowFrequencies as LowFrequencies
    from seedbed.acquisition.search import Neighbours as Neighbours
    from seedbed.acquisition.search import RandomSearch as RandomSearch
    from seedbed.acquisition.search import Search as Search
    from seedbed.noise import Pool as Pool

_MODULES = {
    "bansa": ("Bansa", "Entropy"),
    "base": ("Acquisition", "AttentionScore", "NoiseScore", "Pool", "Random", "RolloutScore", "Scores"),
    "dropout": ("BansaDropout",),
    "learned": ("Learned",),
    "previews": ("Previews",),
    "registry": ("REGISTRY", "create", "resolve"),
    "search": ("LowFrequencies", "Neighbours", "RandomSearch", "Search"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"seedbed.acquisition.{module}"), name)
    raise AttributeError(f"module 'seedbed.acquisition' has no attribute {name!r}")
