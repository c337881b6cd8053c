"""Arguments that a model folder says its pipeline needs."""

import json
from pathlib import Path
from typing import Any

from seedbed.errors import BadRecord

SCHEMA = "seedbed.model/1"


def model_defaults(pipe: Any) -> dict[str, Any]:
    """The `call` of `seedbed.json` in the folder that `pipe` was loaded from; nothing where there is none.

    Raises BadRecord where that file is damaged or of another schema.
    """
    folder = getattr(pipe, "name_or_path", None) or pipe.config.get("_name_or_path")
    path = Path(folder) / "seedbed.json" if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise BadRecord(f"{path} is not of the schema {SCHEMA}: mend or remove it")
    call = content.get("call", {})
    if not isinstance(call, dict):
        raise BadRecord(f"{path}: `call` must map arguments of the pipeline to values")
    return call
