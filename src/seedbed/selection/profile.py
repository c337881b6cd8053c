"""The calibration profile that may lie beside a model, and what `acquisition="auto"` makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedbed.errors import BadInput, BadRecord
from seedbed.selection.acquisitions import Acquisition, Prefer, create
from seedbed.selection.origin import model_name

FILENAME = "seedbed-profile.json"
SCHEMA = "seedbed.profile/1"


@dataclass(frozen=True)
class Profile:
    """What was found to work best on one model.

    Attributes:
        acquisition: the function, with its options.
        prefer: the better end of its scale, None for the function's own.
        layers, depth: as in `select`.
        why: one line of evidence.
    """

    acquisition: Acquisition
    prefer: Prefer | None
    layers: str | list[str] | None
    depth: int | None
    why: str


def find_profile(pipe: Any) -> Profile | None:
    """Read `seedbed-profile.json` from the folder that the pipeline was loaded from; None if there is none.

    The file is {"schema": "seedbed.profile/1", "acquisition": name, "options": {...}, "prefer": "low", "high"
    or null, "layers": kind, glob, list of them or null, "depth": number or null, "why": text}.

    Raises:
        BadRecord: the file is damaged, of another schema, or names what does not exist.
    """
    name = model_name(pipe)
    path = Path(name) / FILENAME
    if not name or not path.is_file():
        return None
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class File(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        schema_: Literal["seedbed.profile/1"] = Field(alias="schema")
        acquisition: str
        options: dict[str, Any] = {}
        prefer: Literal["low", "high"] | None = None
        layers: str | list[str] | None = None
        depth: int | None = Field(default=None, ge=1)
        why: str

    try:
        file = File.model_validate(json.loads(path.read_bytes()))
        acquisition = create(file.acquisition, **file.options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise BadRecord(
            f"{path} is not a usable profile: {field}: {first['msg']}; calibrate again"
        ) from error
    except BadInput as error:
        raise BadRecord(f"{path} is not a usable profile: {error}") from error
    except (ValueError, OSError) as error:
        raise BadRecord(f"{path} is not a readable JSON file; calibrate again or remove it") from error
    return Profile(acquisition, file.prefer, file.layers, file.depth, file.why)
