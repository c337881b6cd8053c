"""What acts on a pipeline while it denoises: fitted to a session, installed in its runs, kept in records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from seedbed.adaptation.layout import HALVES, Layout, layers_named, layout_of
from seedbed.errors import BadInput, finite
from seedbed.pipelines.interception import Run
from seedbed.pipelines.session import Act, Session

Own = TypeVar("Own", bound="Adaptation")


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Acts on chosen layers in a window of the steps, without training.

    A subclass names itself and implements `install`; its fields are its options, which texts can hold.

    Args:
        layers: "entropy:high" or "entropy:low", the half of the layers that attends more or less broadly;
            "all" of them but cross attention; or kinds and globs on names. Once fitted, a list of names.
        start, stop: the window, as shares of the steps: from `start` up to, not including, `stop`.

    Raises:
        BadInput: an option out of its range; later, layers that the model does not have.
    """

    name: ClassVar[str]

    layers: str | list[str] = "all"
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        layers = list(self.layers) if isinstance(self.layers, (list, tuple)) else self.layers
        if not layers or not all(isinstance(each, str) for each in layers):
            raise BadInput(f"{self.name}'s layers must be names, not {self.layers!r}")
        if isinstance(layers, str) and layers.startswith("entropy") and layers not in HALVES:
            raise BadInput(f"{self.name}'s layers are {' or '.join(HALVES)}, not {layers}")
        object.__setattr__(self, "layers", layers)
        for which in ("start", "stop"):
            object.__setattr__(self, which, finite(f"{self.name}'s {which}", getattr(self, which), 0, 1))
        if self.start >= self.stop:
            raise BadInput(f"{self.name}'s window is empty: start={self.start:g} is not below {self.stop:g}")

    def fitted(self: Own, session: Session) -> Own:
        """The same, its layers by name: what a record repeats without measuring again."""
        return dataclasses.replace(self, layers=layers_named(session, self.layers))

    def evaluations(self, session: Session) -> float:
        """What it adds to one video, in full conditional forwards of the denoiser."""
        return 0.0

    def install(self, run: Run, count: int, guided: bool, session: Session, layout: Layout) -> None:
        """Installs it in a run of `count` candidates; `run.undo` removes it. Its layers are names.

        Args:
            guided: whether it is the caller's own call; else guidance is off.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement install")


def acting(adaptation: Adaptation, session: Session) -> Act:
    """A fitted adaptation as `session.acts` takes it."""
    layout = layout_of(session)

    def act(run: Run, count: int, guided: bool) -> None:
        adaptation.install(run, count, guided, session, layout)

    return act
