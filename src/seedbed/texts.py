"""Objects as texts that people type and records keep: `name:option=value,option=value`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from seedbed.errors import BadInput, shown

Kind = TypeVar("Kind")

# Up to the next comma, but lists as a whole.
_SETTING = re.compile(r"(?:[^,=\[]+=)?\[.*?\](?=,[^,=\[]+=|$)|[^,]+")


def create(
    kinds: Mapping[str, type[Kind]], what: str, name: object, options: Mapping[str, Any], also: str = ""
) -> Kind:
    """The dataclass of that name with these options.

    Args:
        what: the objects are, for messages; also: what else could have been named.

    Raises:
        BadInput: no such name, or an option that it does not have or whose value it refuses.
    """
    if not isinstance(name, str) or name not in kinds:
        raise BadInput(f"no {what} {shown(name)}: choose one of {', '.join(kinds)}{also}")
    options_of = {
        known: [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for known, kind in kinds.items()
    }
    for option in options:
        if option not in options_of[name]:
            others = ", ".join(known for known, its in options_of.items() if option in its)
            raise BadInput(
                f"{name} has no option {shown(option)}{', which is for ' * bool(others)}{others}: it has "
                + (", ".join(options_of[name]) or "none")
            )
    empty = dataclasses.MISSING
    for field in dataclasses.fields(kinds[name]):  # type: ignore[arg-type]
        if field.default is field.default_factory is empty and field.name not in options:
            raise BadInput(f"{name} needs {field.name}: write {name}:{field.name}=...")
    try:
        return kinds[name](**options)
    except TypeError as error:  # of an option whose value has another type
        raise BadInput(f"{name} cannot be made of these options: {error}") from error


def parse(kinds: Mapping[str, type[Kind]], what: str, text: object, also: str = "") -> Kind:
    """The dataclass that a text stands for: its name, after a colon its options in JSON or plain words.

    As in Python, the first option's name may be left out where it can be passed by its position: `mixed:1` is
    `Mixed(1)`. Arguments and errors as `create`.
    """
    if not isinstance(text, str):
        return create(kinds, what, text, {}, also)
    name, _, settings = text.partition(":")
    kind: Any = kinds.get(name.strip())
    first = [field.name for field in dataclasses.fields(kind) if not field.kw_only][:1] if kind else []
    options: dict[str, Any] = {}
    for setting in _SETTING.findall(settings):
        key, equals, value = setting.partition("=")
        if not equals and first and not options:
            key, value = first[0], setting
        elif not equals:
            raise BadInput(f"cannot read {shown(setting)} in {what} {shown(text)}: write option=value")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value.strip()
    return create(kinds, what, name.strip(), options, also)


def text_of(thing: Any) -> str:
    """The text that `parse` reads back: the name, and every option but those that are None."""
    settings = []
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            settings.append(f"{field.name}={text}")
    return f"{thing.name}{':' * bool(settings)}{','.join(settings)}"
