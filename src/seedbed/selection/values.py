"""Values of a call's arguments in a record: as JSON has them, as Python writes them, pictures as PNG."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from PIL.Image import Image
from PIL.Image import open as open_image
from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import to_jsonable_python
from torch import Tensor

from seedbed.errors import shown

# Pictures that are embedded in a record; what is more or larger, as a video is, is known by its sha256.
_PICTURES, _PIXELS, _MODES = 4, 2048 * 2048, ("1", "L", "LA", "P", "RGB", "RGBA")


def recordable(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split a pipeline's arguments into those that a record gives back, and the kind of each other one."""
    plain: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, value in call.items():
        try:
            plain[name] = value if _pictures(value) else _decoded({"python": repr(_pythons_own(value))})
        except ValueError:
            missing[name] = summary_of(value)
    return plain, missing


def jsonable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types of JSON, for reading: tuples are lists, and what JSON cannot hold is its kind."""
    found: dict[str, Any] = to_jsonable_python(
        _pythons_own(dict(options)), inf_nan_mode="null", fallback=summary_of
    )
    return found


def _encoded(value: Any) -> Any:
    """A value as JSON gives it back, else as Python writes it: tuples, sets, bytes, keys that are no text.

    Pictures as PNG in base64, in a list whether or not they were in one, which "one" says.
    """
    if (pictures := _pictures(value)) is not None:
        return {"png": [*map(_png, pictures)], "one": not isinstance(value, list)}
    text = repr(value)
    with suppress(TypeError, ValueError, RecursionError):
        own = isinstance(value, dict) and {"python", "png"} & {*value}
        if not own and repr(json.loads(json.dumps(value, allow_nan=False))) == text:
            return value
    return {"python": text}


def _decoded(value: Any) -> Any:
    """Raises ValueError where Python does not read it back: it is not made of plain values or pictures."""
    if isinstance(value, dict) and {*value} == {"png", "one"}:
        try:
            pictures = [open_image(io.BytesIO(base64.b64decode(png))) for png in value["png"]]
            for picture in pictures:
                picture.load()
        except Exception as error:  # whatever Pillow makes of bytes that are no picture
            raise ValueError("a picture is damaged") from error
        return pictures[0] if value["one"] else pictures
    if not isinstance(value, dict) or {*value} != {"python"}:
        return value
    try:
        return ast.literal_eval(value["python"])
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{shown(value)} is no value of Python") from error


def _pictures(value: Any) -> list[Image] | None:
    """The pictures that a record embeds for an argument; None where it is something else."""
    pictures = value if isinstance(value, list) else [value]
    small = 0 < len(pictures) <= _PICTURES and all(
        isinstance(each, Image) and each.mode in _MODES and each.width * each.height <= _PIXELS
        for each in pictures
    )
    return pictures if small else None


def _png(picture: Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def summary_of(value: Any) -> str:
    """What an argument is that a record does not hold, in a few words; pictures are known by their sha256."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    pictures = value if isinstance(value, list) else [value]
    if not pictures or not all(isinstance(each, Image) for each in pictures):
        return type(value).__name__
    digest = hashlib.sha256()
    for each in pictures:
        digest.update(f"{each.mode} {each.size} ".encode() + each.tobytes())
    return f"{len(pictures)} picture{'s' * (len(pictures) > 1)}, known by sha256 {digest.hexdigest()}"


def _pythons_own(value: Any) -> Any:
    """Without the types of numpy and torch for what Python has too, at any depth."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Size) or type(value) in (list, tuple, set):
        kind = tuple if isinstance(value, tuple) else type(value)
        return kind(map(_pythons_own, value))
    if type(value) is dict:
        return {_pythons_own(key): _pythons_own(each) for key, each in value.items()}
    return value


Arguments: TypeAlias = Annotated[
    dict[str, Any],
    BeforeValidator(lambda call: {name: _decoded(value) for name, value in call.items()}),
    PlainSerializer(lambda call: {name: _encoded(value) for name, value in call.items()}),
]
