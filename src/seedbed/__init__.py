"""Choose, rebuild and study the initial noise of video diffusion models.

Names are loaded when first used, so that `import seedbed` stays cheap: neither torch nor diffusers nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from seedbed.errors import BadInput, BadOutput, BadRecord, NotSupported, SeedbedError

if TYPE_CHECKING:
    from seedbed import zoo
    from seedbed.adaptation import enhance, guide
    from seedbed.adaptation.maps import maps
    from seedbed.adaptation.study import study
    from seedbed.lab.calibration import calibrate
    from seedbed.noise import NoiseRecipe
    from seedbed.selection.choosing import score, select
    from seedbed.selection.contact_sheet import ContactSheet, contact_sheet
    from seedbed.selection.edited import Edit, edit
    from seedbed.selection.generation import Generation, generate
    from seedbed.selection.profile import Profile
    from seedbed.selection.record import Selection
    from seedbed.selection.replaying import replay

__version__ = "0.2.0.dev0"

_HOME = {
    "ContactSheet": "selection.contact_sheet",
    "Edit": "selection.edited",
    "Generation": "selection.generation",
    "NoiseRecipe": "noise",
    "Profile": "selection.profile",
    "Selection": "selection.record",
    "calibrate": "lab.calibration",
    "contact_sheet": "selection.contact_sheet",
    "edit": "selection.edited",
    "enhance": "adaptation",
    "generate": "selection.generation",
    "guide": "adaptation",
    "maps": "adaptation.maps",
    "replay": "selection.replaying",
    "score": "selection.choosing",
    "select": "selection.choosing",
    "study": "adaptation.study",
}

__all__ = [
    "BadInput",
    "BadOutput",
    "BadRecord",
    "ContactSheet",
    "Edit",
    "Generation",
    "NoiseRecipe",
    "NotSupported",
    "Profile",
    "SeedbedError",
    "Selection",
    "calibrate",
    "contact_sheet",
    "edit",
    "enhance",
    "generate",
    "guide",
    "maps",
    "replay",
    "score",
    "select",
    "study",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"seedbed.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name == "zoo":
        return importlib.import_module("seedbed.zoo")
    raise AttributeError(f"module 'seedbed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
