"""A pipeline under test: how its tiny version is built and called.

A file of families imports from diffusers and transformers what their oldest supported versions have. Newer
classes it names as `diffusers.SomePipeline` inside its builders, after `import diffusers`: so the file can be
imported whatever is installed, and `Family.built` says which class an older version lacks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import transformers

from tests.pipelines.parts import PROMPT


class Missing(Exception):
    """The installed diffusers or transformers is older than this family."""


@dataclass(frozen=True, eq=False)
class Family:
    """One pipeline class of diffusers at tiny size, with random weights.

    Attributes:
        name: what users call it, as in the table of `docs/pipelines.md`.
        build: returns a fresh pipeline, whose call with `call` takes well under a second.
        call: arguments of a small call without the prompt; images and videos included.
        prompt: None for a pipeline that takes none.
        kind: "video" or "image", what it makes.
        unsupported: of "selection", "previews" and "replay" those that cannot be, each with the line that
            seedbed refuses it with.
    """

    name: str
    build: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = PROMPT
    kind: str = "video"
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def built(self) -> Any:
        """A fresh pipeline; raises Missing, with the class's name, where the installed version has none."""
        try:
            return self.build()
        except AttributeError as error:
            for package in (diffusers, transformers):
                if error.obj is package:
                    raise Missing(f"{package.__name__} {package.__version__} has no {error.name}") from error
            raise
