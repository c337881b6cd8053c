"""Arguments of a pipeline's call from texts: typed by its signature, pictures and videos from files."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from PIL import Image
from pydantic import TypeAdapter

from seedbed.errors import BadInput, shown
from seedbed.pipelines.call import parameters_of, require_parameter, settings_beside
from seedbed.report.footage import read_picture, read_pictures

# Whatever the annotation says: WanImageToVideoPipeline calls `last_image` a tensor, and the `video` of
# VideoToVideoSDPipeline could be a picture (tests/cli/test_call.py).
_PICTURES, _VIDEOS = ("image", "last_image"), ("video",)


def typed(pipe: Any, texts: Mapping[str, str], others: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call that texts stand for, together with those that are given as values.

    By the annotation in the signature: a number, a truth value, words, a list or a dictionary in JSON; "null"
    where the default is None. Of an argument that takes pictures, the text is a file: a picture, or a video,
    whose frames are taken as they are, the first `num_frames`, which may be a text too. A pipeline that has
    no `num_frames` makes as many frames as its video has, and that argument limits these.

    Args:
        texts: by name.
        others: arguments as values.

    Raises:
        BadInput: an argument that the pipeline does not take, or not as text, a value of another type, a
            file that is not there or holds no picture; one that is in both.
    """
    given = dict(others)
    frames, known = given.get("num_frames"), parameters_of(pipe)
    if "num_frames" in known:
        frames = (
            frames or settings_beside(pipe).get("call", {}).get("num_frames") or known["num_frames"].default
        )
    elif "video" in texts:
        given.pop("num_frames", None)
    for name in sorted(texts, key=lambda name: name != "num_frames"):  # which limits a video
        if name in given or name == "prompt":
            raise BadInput(f"{name} is given twice: leave one out")
        most = frames if isinstance(frames, int) else math.inf
        given[name] = _value(pipe, name, texts[name], most)
        frames = given.get("num_frames") or frames
    return given


def _value(pipe: Any, name: str, text: str, most: float) -> Any:
    parameter = require_parameter(pipe, name)
    try:
        hint = typing.get_type_hints(type(pipe).__call__)[name]
    except Exception:  # of names that are there for type checkers alone, or no annotation
        hint = parameter.annotation
    kinds = [*_arms(hint)]
    if name in _PICTURES or (Image.Image in kinds and name not in _VIDEOS):
        return read_picture(text)
    if name in _VIDEOS or any(Image.Image in _inside(kind) for kind in kinds):
        return read_pictures(text, most)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if str in kinds and not (isinstance(value, (list, dict)) or value is None):
        return text
    if value is None and parameter.default is None:
        return None
    plain = [kind for kind in kinds if kind is not types.NoneType and _is_plain(kind)]
    where = f"{type(pipe).__name__}'s argument {name}"
    if not plain:
        kind = getattr(kinds[0], "__name__", None) or shown(hint)
        raise BadInput(f"{where} is a {kind}, which a text cannot give: pass it from Python")
    either: Any = Union[tuple(plain)]  # noqa: UP007
    try:
        return TypeAdapter(either).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except (ValueError, RecursionError) as error:  # pydantic's own is a ValueError
        named = " or ".join(str(kind) if get_args(kind) else kind.__name__ for kind in plain)
        raise BadInput(f"{where} must be {named}, not {shown(text)}") from error


def _arms(hint: Any) -> Iterator[Any]:
    """What a union may be."""
    if get_origin(hint) in (Union, types.UnionType):
        for arm in get_args(hint):
            yield from _arms(arm)
    elif get_origin(hint) is typing.Annotated:
        yield from _arms(get_args(hint)[0])
    else:
        yield hint


def _inside(hint: Any) -> list[Any]:
    """What a list, or a list of lists, is of."""
    return [inner for arg in get_args(hint) for arm in _arms(arg) for inner in (arm, *_inside(arm))]


def _is_plain(kind: Any) -> bool:
    """Whether JSON can write it."""
    if get_origin(kind) is Literal:
        return True
    if get_origin(kind) in (list, tuple, dict):
        return all(arm in (Any, ...) or _is_plain(arm) for arg in get_args(kind) for arm in _arms(arg))
    return kind in (bool, int, float, str, list, dict, tuple, types.NoneType)
