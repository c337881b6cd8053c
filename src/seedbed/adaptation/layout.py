"""Which rows of a layer's attention are the video, how they lie in it, and which layers are meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seedbed.acquisition.sampling import mean_over_rows
from seedbed.acquisition.scoring import plan_layers
from seedbed.attention import AttentionCall, row_statistics, sample_rows
from seedbed.attention.interventions import WHOLE, Change, Grid, grid_of
from seedbed.errors import BadInput, NotSupported, several, whole
from seedbed.pipelines.discover import remembered
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import positions_of

_ENTROPY_ROWS = 256

HALVES = ("entropy:high", "entropy:low")


@dataclass(frozen=True)
class Layout:
    """Where the video is in the sequences of a call.

    Attributes:
        video: by the number of rows of a sequence that attends to itself, those of the video: all of them
            but text, or a given picture, at its beginning and its end; None where it has none.
        text: names of the layers whose sequences hold no video.
        sizes: frames, height and width of the latents; None where they cannot be told.
    """

    video: Mapping[int, slice | None]
    text: frozenset[str] = frozenset()
    sizes: Grid | None = None

    def of(self, call: AttentionCall) -> tuple[slice, Grid | None] | None:
        """The rows of the video in a call, and how they lie in it; None where it has none.

        Raises NotSupported where a sequence has another length than any that was looked at.
        """
        rows, keys = call.query.shape[2], call.key.shape[2]
        folded = len(call.query) > call.candidates
        if rows != keys or call.kind in ("cross", "temporal"):
            return WHOLE, self.grid(rows, folded) if call.kind != "temporal" else None
        if call.layer in self.text:
            return None
        video = self.video[rows] if rows in self.video else self._with_other_text(rows, call.layer)
        return None if video is None else (video, self.grid(len(range(rows)[video]), folded))

    def changed(self, call: AttentionCall, change: Change) -> Tensor | None:
        """What a change answers to a call; None where no video takes part in it."""
        place = self.of(call)
        return None if place is None else change(call, *place)

    def _with_other_text(self, rows: int, layer: str) -> slice:
        """Where the text has another length, or the video itself (ChronoEditPipeline)."""
        known = [(size, found) for size, found in self.video.items() if found is not None and found != WHOLE]
        if not known:
            return WHOLE
        # MochiPipeline leaves the padding of each text out.
        sizes = {len(range(size)[found]) for size, found in known}
        ends = {found.stop == size for size, found in known}
        if len(sizes) == len(ends) == 1 and (size := sizes.pop()) <= rows:
            if size == rows:
                return WHOLE
            return slice(rows - size, rows) if ends.pop() else slice(0, size)
        raise NotSupported(f"{layer} attends over {rows} tokens: which are the video's cannot be told")

    def grid(self, tokens: int, folded: bool = False) -> Grid | None:
        """Frames, height and width of so many tokens, of one frame where they are `folded` into the batch."""
        return None if self.sizes is None else grid_of(tokens, self.sizes, folded)


def layout_of(session: Session) -> Layout:
    """The layout of a session's call: the rows that two noises leave equal are not of the video.

    Found by running the denoiser for two noises, the second time up to the last layer at which a sequence of
    new length appears, mostly the first; remembered with the pipeline. The ledger counts it under "layers".

    Raises NotSupported where other rows lie among those of the video.
    """
    found: Layout = remembered(
        session.asked, ("layout", session.prompt, session.spec.shape), lambda: _find(session)
    )
    return found


def _find(session: Session) -> Layout:
    first: list[tuple[str, Tensor] | None] = []  # of each call its layer, and a number for each row
    video: dict[int, slice | None] = {}
    text: set[str] = set()

    def rows_told(call: AttentionCall) -> Tensor | None:
        if call.query.shape[2] != call.key.shape[2] or call.kind in ("cross", "temporal"):
            return None
        value = call.value[0].double()
        weights = torch.linspace(1, 2, value.shape[0] * value.shape[2], dtype=torch.float64)
        return torch.einsum("hnd,hd->n", value, weights.view(len(value), -1).to(value.device))

    def record(call: AttentionCall) -> None:
        told = rows_told(call)
        first.append(None if told is None else (call.layer, told))

    def compare(call: AttentionCall) -> None:
        known, told = first[call.index], rows_told(call)
        if known is not None and told is not None and video.get(len(told)) is None:
            found = _differing(session, known[1], told)
            if len(told) in video and any(each is not None for each in video.values()):
                found = None  # it was equal before it met the video: LTX2Pipeline's sound
            elif found == WHOLE and any(each not in (None, WHOLE) for each in video.values()):
                # By now the text differs too (MotifVideoPipeline, whose single blocks see more of it).
                found = Layout(video)._with_other_text(len(told), call.layer)
            video[len(told)] = found
            if found is None:
                text.add(call.layer)
        # A sequence of text alone may be as long as one of the video (Kandinsky5T2VPipeline).
        rest = {len(each[1]) for each in first[call.index + 1 :] if each is not None}
        if all(video.get(rows) is not None for rows in rest):
            call.stop()

    for seed, look in ((1, record), (2, compare)):
        session.evaluate(session.probe(seed), look, what="layers")
    try:
        axes, packing = positions_of(session)
    except NotSupported:
        return Layout(video, frozenset(text))
    shape = session.spec.shape if packing is None else session.drawn.shape
    sizes = [shape[axis] for axis in axes]
    return Layout(video, frozenset(text), (*[1] * (3 - len(sizes)), *sizes))  # type: ignore[arg-type]


def _differing(session: Session, one: Tensor, other: Tensor) -> slice | None:
    """The block of rows that differ; None where none does."""
    places = (one != other).nonzero().flatten()
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1]) + 1
    if last - first != len(places):
        raise NotSupported(
            f"{session.asked.name} mixes other tokens among those of its video: which of {len(one)} are the "
            "video's cannot be told"
        )
    return WHOLE if last - first == len(one) else slice(first, last)


def layers_named(session: Session, layers: str | Sequence[str]) -> list[str]:
    """Names of layers, in the order in which they run.

    Args:
        layers: kinds or globs on names, as acquisition functions take them; "all" for every layer in which
            the video attends to itself; "entropy:high" and "entropy:low" for the half of these whose rows are
            more or less spread out, see `entropies_of`.

    Raises BadInput where no layer is meant.
    """
    one = isinstance(layers, str)
    if one and layers in HALVES:
        names = layers_named(session, "all")
        top = broader_half(entropies_of(session, names))
        chosen = top if layers == HALVES[0] else {*names} - top or top
        return [name for name in names if name in chosen]
    if one and layers == "all":
        text = layout_of(session).text
        own = [layer.name for layer in session.layers if layer.kind != "cross" and layer.name not in text]
        if not own:
            raise BadInput(
                f"in no layer of {session.asked.name} does the video attend to itself: name layers"
            )
        return list(dict.fromkeys(own))
    return list(dict.fromkeys(session.layers[i].name for i in plan_layers(session.layers, layers)))


def broader_half(entropies: Mapping[str, float]) -> set[str]:
    """The half of the layers, the larger one, whose rows are more spread out."""
    ranked = sorted(entropies, key=lambda name: entropies[name], reverse=True)
    return {*ranked[: len(ranked) - len(ranked) // 2]}


def entropies_of(session: Session, names: Sequence[str]) -> dict[str, float]:
    """The mean normalised entropy of layers' rows, from 0 to 1, over the first fifth of the steps.

    Of one noise, without guidance: an evaluation a step, which the ledger counts under "layers". Up to 256
    rows of each layer are looked at.
    """
    sums: dict[str, list[float]] = {name: [] for name in names}

    def look(call: AttentionCall) -> None:
        if call.layer in sums:
            rows = sample_rows(call.query.shape[2], _ENTROPY_ROWS)
            statistics = row_statistics(
                call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal, rows=rows
            )
            entropy = mean_over_rows(call, statistics.normalised_entropy, rows)
            sums[call.layer].append(float(entropy.mean()))

    session.evaluate(session.probe(1), look, steps=max(1, session.facts.steps // 5), what="layers")
    return {name: sum(values) / len(values) for name, values in sums.items()}


def steps_looked_at(what: str, steps: Sequence[int] | None, most: int, total: int) -> tuple[int, ...]:
    """The steps that are asked for, or `most` spread over the schedule; BadInput beyond its `total`."""
    if steps is None:
        steps = np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist()
    return tuple(sorted({whole(what, step, 0, total - 1) for step in several(what, steps)}))
