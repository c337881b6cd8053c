"""Choose, rebuild and study the initial noise of video diffusion models.

Names are loaded when first used, so that `import seedbed` stays cheap: neither torch nor diffusers nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from seedbed.errors import BadInput, BadOutput, BadRecord, NotSupported, SeedbedError

if TYPE_CHECKING:
    from seedbed import attention, lab, noise, probe, report, selection, worlds, zoo
    from seedbed.attention import AttentionCall, Tap
    from seedbed.lab import Calibration, calibrate
    from seedbed.noise import NoiseRecipe
    from seedbed.probe import Ledger, Probe, Rollout
    from seedbed.selection import (
        Generation,
        Profile,
        Selection,
        Sheet,
        generate,
        pick,
        preview,
        previews,
        replay,
        score,
        select,
    )

__version__ = "0.1.0"

__all__ = [
    "AttentionCall",
    "BadInput",
    "BadOutput",
    "BadRecord",
    "Calibration",
    "Generation",
    "Ledger",
    "NoiseRecipe",
    "NotSupported",
    "Probe",
    "Profile",
    "Rollout",
    "SeedbedError",
    "Selection",
    "Sheet",
    "Tap",
    "attention",
    "calibrate",
    "generate",
    "lab",
    "noise",
    "pick",
    "preview",
    "previews",
    "probe",
    "replay",
    "report",
    "score",
    "select",
    "selection",
    "worlds",
    "zoo",
]

_ROOMS = frozenset({"attention", "lab", "noise", "probe", "report", "selection", "worlds", "zoo"})
_HOME = {
    "AttentionCall": "attention",
    "Tap": "attention",
    "Calibration": "lab",
    "calibrate": "lab",
    "NoiseRecipe": "noise",
    "Ledger": "probe",
    "Probe": "probe",
    "Rollout": "probe",
    "Generation": "selection",
    "Profile": "selection",
    "Selection": "selection",
    "Sheet": "selection",
    "generate": "selection",
    "pick": "selection",
    "preview": "selection",
    "previews": "selection",
    "replay": "selection",
    "score": "selection",
    "select": "selection",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"seedbed.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"seedbed.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'seedbed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
