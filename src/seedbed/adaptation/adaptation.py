"""What acts on a pipeline while it denoises: fitted to a session, installed in its runs, kept in records.

And what several of them do: the denoiser evaluated for some of its rows alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from seedbed.adaptation.layout import HALVES, Layout, layers_named, layout_of
from seedbed.attention.tap import Handler, Tap
from seedbed.errors import BadInput, NotSupported, finite, shortened
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

    @property
    def evaluates(self) -> bool:
        """Whether every evaluation with the prompt takes another one in its window."""
        return False

    def fitted(self: Own, session: Session) -> Own:
        """The same, its layers by name: what a record repeats without measuring again."""
        return dataclasses.replace(self, layers=layers_named(session, self.layers))

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


def rows_alone(session: Session, args: Any, kwargs: Any, rows: int, own: slice) -> tuple[Any, Any]:
    """The arguments of the denoiser's forward for some of its rows: those parts of all that has as many."""
    leaves, spec = tree_flatten((args, kwargs))
    alone = tree_leaves((session.alone.args, session.alone.kwargs))
    ones = alone if len(alone) == len(leaves) else [None] * len(leaves)

    def length(leaf: Any) -> int:
        return len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0

    cut = []
    for leaf, one in zip(leaves, ones, strict=True):
        each = length(one) or 1  # a U-Net over frames has a text for each of them
        part = slice(own.start * each, own.stop * each)
        cut.append(leaf[part] if length(leaf) == rows * each else leaf)
    found: tuple[Any, Any] = tree_unflatten(cut, spec)
    return found


def run_alone(
    module: nn.Module, handler: Handler, forward: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """What a denoiser's own forward returns for `rows_alone`, its attention seen or answered by a handler.

    Raises NotSupported where it fails, as it counts on all its rows (AnimateDiffPAGPipeline).
    """
    with Tap(module, handler) as tap:
        try:
            return tap.run(forward, *args, **kwargs)
        except Exception as error:
            if not tap.failed(error):
                raise
            why = shortened(error)
            name = type(module).__name__
            raise NotSupported(f"{name} cannot be run for the rows of the prompt alone: {why}") from error
