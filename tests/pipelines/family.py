"""A pipeline under test: how its tiny version is built and called."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.pipelines.parts import PROMPT


@dataclass(frozen=True, eq=False)
class Family:
    """One pipeline class of diffusers at tiny size, with random weights.

    Attributes:
        name: what users call it, as in the table of `docs/pipelines.md`.
        build: returns a fresh pipeline, whose call with `call` takes well under a second.
        call: arguments of a small call without the prompt; images and videos included.
        prompt: None for a pipeline that takes none.
        kind: "video" or "image", what it makes.
    """

    name: str
    build: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = PROMPT
    kind: str = "video"
