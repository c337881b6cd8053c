"""The acquisition functions by name, and how one is named in a text."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from seedbed.acquisition.bansa import Bansa, Entropy
from seedbed.acquisition.base import Acquisition, Random
from seedbed.acquisition.dropout import BansaDropout
from seedbed.acquisition.learned import Learned
from seedbed.acquisition.previews import Previews
from seedbed.errors import BadInput, shown

REGISTRY: dict[str, type[Acquisition]] = {
    kind.name: kind for kind in (Random, Entropy, Bansa, BansaDropout, Learned, Previews)
}


# Up to the next comma, but lists as a whole.
_SETTING = re.compile(r"[^,=]+=\[.*?\](?=,[^,=\[]+=|$)|[^,]+")


def create(name: str, **options: Any) -> Acquisition:
    """The acquisition function of that name with these options, e.g. `create("bansa", keep=0.5)`.

    Raises:
        BadInput: no such name, or an option that it does not have or whose value it refuses.
    """
    kind = REGISTRY.get(name)
    if kind is None:
        raise BadInput(f"no acquisition function {shown(name)}: choose one of {', '.join(REGISTRY)} or auto")
    options_of = {known: [f.name for f in dataclasses.fields(kind)] for known, kind in REGISTRY.items()}
    for option in options:
        if option not in options_of[name]:
            others = ", ".join(known for known, its in options_of.items() if option in its)
            raise BadInput(
                f"{name} has no option {shown(option)}{', which is for ' * bool(others)}{others}: it has "
                + ", ".join(options_of[name])
            )
    try:
        return kind(**options)
    except TypeError as error:  # an option that it cannot be without
        raise BadInput(f"{name} cannot be made of these options: {error}") from error


def resolve(acquisition: str | Acquisition) -> Acquisition:
    """An instance as it is; a text as `name` or `name:option=value,option=value`.

    Values are JSON or plain words: `bansa:layers=joint,race=[[3,5],[6,1]]`, `previews:verifier=shapes`.

    Raises:
        BadInput: unknown name or option, or a value that the function refuses.
    """
    if isinstance(acquisition, Acquisition):
        return acquisition
    if not isinstance(acquisition, str):
        raise BadInput(
            f"acquisition must be a name or an Acquisition instance, not {type(acquisition).__name__}"
        )
    name, _, settings = acquisition.partition(":")
    options: dict[str, Any] = {}
    for setting in _SETTING.findall(settings):
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(
                f"cannot read {shown(setting)} in acquisition {shown(acquisition)}: write option=value"
            )
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value.strip()
    return create(name.strip(), **options)
