"""Which attention layers are scored, and where the forward may stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from seedbed.errors import BadInput, NotSupported
from seedbed.selection.acquisitions import positive

KINDS = ("self", "cross", "joint", "temporal")


class Layer(Protocol):
    """What is asked of a layer: its dotted name inside the denoiser and its kind."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


@dataclass(frozen=True)
class Plan:
    """The layers of one scoring forward.

    Attributes:
        columns: from an attention call's index in its forward to its column in the table of scores.
        names: the name of each column's layer.
        depth: how many attention layers run before the forward stops.
        total: how many there are.
    """

    columns: dict[int, int]
    names: tuple[str, ...]
    depth: int
    total: int

    def cut(self, columns: int) -> Plan:
        """The same as far as the first `columns` columns."""
        if columns == len(self.names):
            return self
        kept = {index: column for index, column in self.columns.items() if column < columns}
        return Plan(kept, self.names[:columns], max(kept) + 1, self.total)


def plan(
    layers: Sequence[Layer], wanted: str | Sequence[str] | None = None, depth: int | None = None
) -> Plan:
    """Choose the columns of the score table.

    Args:
        layers: every attention layer of the denoiser, in execution order.
        wanted: a kind ("self", "cross", "joint", "temporal"), a glob on layer names, or several of either;
            None means all.
        depth: stop after this many attention layers. None means after the last one that is wanted.

    Raises:
        BadInput: depth outside 1..len(layers), or no wanted layer within it.
        NotSupported: the denoiser has no attention layer.
    """
    if not layers:
        raise NotSupported(
            "the denoiser makes no softmax attention call, so there is nothing to score: "
            "use acquisition='random' or a model with softmax attention"
        )
    if depth is not None:
        positive("depth", depth)
        if depth > len(layers):
            raise BadInput(f"depth {depth} is beyond the last layer: the denoiser has {len(layers)}")
    several = wanted if isinstance(wanted, Iterable) else ("*",) if wanted is None else (wanted,)
    patterns = (wanted,) if isinstance(wanted, str) else tuple(several)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(f"layers must be kinds or globs on layer names, not {wanted!r}")
    chosen = [
        index
        for index, layer in enumerate(layers)
        if any(layer.kind == pattern or fnmatchcase(layer.name, pattern) for pattern in patterns)
    ]
    if not chosen:
        kinds = sorted({layer.kind for layer in layers})
        raise BadInput(
            f"no layer matches {_quoted(patterns)}: the kinds here are {_quoted(kinds)}, "
            f"and a layer is called {layers[0].name!r}"
        )
    if depth is not None and chosen[0] >= depth:
        raise BadInput(
            f"the first layer matching {_quoted(patterns)} is number {chosen[0] + 1}, beyond depth {depth}"
        )
    last = chosen[-1] + 1 if depth is None else depth
    kept = [index for index in chosen if index < last]
    return Plan(
        columns={index: column for column, index in enumerate(kept)},
        names=tuple(layers[index].name for index in kept),
        depth=last,
        total=len(layers),
    )


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words) or "an empty list"
