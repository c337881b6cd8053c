"""Experiments: what a signal is worth, on any model, with intervals.

Names are loaded when first used: a worker process loads only what its task needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from seedbed.errors import NotSupported

if TYPE_CHECKING:
    from seedbed.lab.calibration import Calibration, calibrate
    from seedbed.lab.experiment import Recipe
    from seedbed.lab.store import Store
    from seedbed.lab.work import run

__all__ = ["Calibration", "Recipe", "Store", "calibrate", "run"]

_HOME = {
    "Calibration": "calibration",
    "Recipe": "experiment",
    "Store": "store",
    "calibrate": "calibration",
    "run": "work",
}

for _package in ("distributed", "filelock", "matplotlib", "pyarrow", "scipy"):
    if importlib.util.find_spec(_package) is None:
        raise NotSupported(f"experiments and calibrations need {_package}: pip install 'seedbed[lab]'")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"seedbed.lab.{_HOME[name]}"), name)
    raise AttributeError(f"module 'seedbed.lab' has no attribute {name!r}")
