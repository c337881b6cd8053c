"""Injection: while the target is denoised, chosen layers attend with the source's queries and keys."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from seedbed.adaptation.layout import Layout, layout_of
from seedbed.adaptation.trajectory import Trajectory, is_list
from seedbed.attention.interventions import WHOLE, inject
from seedbed.attention.kinds import main_input, named_arguments, parameter_names
from seedbed.attention.tap import AttentionCall, Handler, SplitBatch, Tap
from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.compiled import refuse_caches
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.rollout import prompt_parts, result_of, tensors_of
from seedbed.pipelines.session import Act, Session
from seedbed.pipelines.steps import Position

# Parts of the names of arguments that a ControlNet makes of the latents, at every step.
_BESIDE = ("controlnet", "additional_residual")


def injecting(
    target: Session, source: Session, trajectory: Trajectory, layers: Collection[str], stop: float
) -> Act:
    """Injection into a session's guided runs of one candidate, as `session.acts` takes it.

    At every evaluation with rows of the prompt, in the first `stop` of the steps, the source is evaluated
    too: as one more row of the same forward, or in one before it where the two texts differ in length or the
    model takes one candidate in a forward. No more than the queries and keys of one layer are then kept, or
    of all these layers. Rows without the prompt are left alone.

    Args:
        layers: by name.

    Raises:
        NotSupported: caches between steps, a ControlNet; later, rows of the prompt that cannot be told.
    """
    refuse_caches(target.asked.denoisers)
    alone = target.alone
    given = named_arguments(parameter_names(type(target.denoiser)), alone.args, alone.kwargs)
    beside = [name for name in given if any(part in name for part in _BESIDE) and given[name] is not None]
    if beside:
        raise NotSupported(
            f"{target.asked.name} gives its denoiser {beside[0]}, which another network makes of the latents "
            "at every step: the source's would be needed too"
        )
    # By runs of their own, which must not come during another.
    looks = [
        tree_flatten((each.alone.args, each.alone.kwargs), is_leaf=is_list)[0] for each in (target, source)
    ]

    sizes = [[getattr(leaf, "shape", None) for leaf in look] for look in looks]
    layout = layout_of(target)
    layouts = layout, layout if sizes[0] == sizes[1] else layout_of(source)

    def act(run: Run, count: int, guided: bool) -> None:
        if not guided:
            return
        position, number = Position(run.pipe, run.undo), iter(range(len(trajectory.inputs)))
        for module in dict.fromkeys(run.denoisers.values()):
            injected = _Injected(module, target, trajectory, set(layers), layouts, looks, number)

            def forward(own: Callable[..., Any], injected: _Injected, *args: Any, **kwargs: Any) -> Any:
                if position.share >= stop:
                    return own(*args, **kwargs)
                return injected(own, *args, **kwargs)

            replace(module, "forward", functools.partial(forward, module.forward, injected), run.undo)

    return act


class _Injected:
    """A denoiser's forward, with the source evaluated beside the target's row with the prompt."""

    def __init__(
        self,
        module: nn.Module,
        target: Session,
        trajectory: Trajectory,
        layers: Collection[str],
        layouts: tuple[Layout, Layout],
        looks: list[list[Any]],
        number: Any,
    ) -> None:
        self.module, self.target, self.trajectory, self.layers = module, target, trajectory, layers
        self.layout, self.source_layout = layouts
        self.looks, self.number = looks, number
        self.splits = False  # whether the model attends row by row

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        module = self.module
        given = named_arguments(parameter_names(type(module)), args, kwargs)
        latents = main_input(given)
        rows = len(latents)
        own, _ = prompt_parts(self.target, given, rows, 1)
        if own is None:
            return forward(*args, **kwargs)
        source = self._source(args, kwargs, rows, own, latents)
        self.target.ledger.add("source", 1)
        joined = None
        if self.target.facts.shares and not self.splits:
            joined = _joined((args, kwargs), source, rows)
        if joined is not None:
            try:
                result = self._together(forward, joined, rows, own)
            except SplitBatch:
                self.splits = True
            else:
                parts = tensors_of(result, rows + 1, module, given)
                return result_of(tuple(part[:rows] for part in parts), module, given)
        return self._apart(forward, (args, kwargs), source, rows, own)

    def _source(self, args: Any, kwargs: Any, rows: int, own: int, latents: Any) -> Any:
        """The arguments of the source's row: the target's own, with the source's latents and text."""
        number = next(self.number, None)
        if number is None:
            raise BadInput(
                f"the source was seen at {len(self.trajectory.inputs)} evaluations, and the target has more: "
                "give both the same steps"
            )
        step = self.trajectory.inputs[number]
        leaves, spec = tree_flatten((args, kwargs), is_leaf=is_list)
        if not len(leaves) == len(self.looks[0]) == len(self.looks[1]):
            raise NotSupported(
                f"{self.target.asked.name} calls its denoiser with other arguments for the source, or with "
                "guidance: the source cannot be evaluated beside the target"
            )
        found = []
        for leaf, target, source in zip(leaves, *self.looks, strict=True):
            if leaf is latents:
                like = leaf[0] if isinstance(leaf, list) else leaf
                found.append([step[0].to(like)] if isinstance(step, list) else step.to(like))
            elif not _same(target, source):
                found.append(source.to(leaf) if isinstance(source, Tensor) else source)
            elif size := _size(leaf, target, rows):
                found.append(leaf[own * size : (own + 1) * size])
            else:
                found.append(leaf)
        return tree_unflatten(found, spec)

    def _together(self, forward: Callable[..., Any], call: Any, rows: int, own: int) -> Any:
        """One forward, the source's row after the target's."""

        def answer(seen: AttentionCall) -> Tensor | None:
            if seen.layer not in self.layers:
                return None
            if len(seen.query) % seen.candidates:
                raise SplitBatch(f"{seen.layer} attends with fewer rows than its model is given")
            fold = len(seen.query) // seen.candidates
            last = slice(rows * fold, (rows + 1) * fold)
            return self._answered(seen, slice(own * fold, (own + 1) * fold), seen.query[last], seen.key[last])

        return self._run(forward, answer, call)

    def _apart(self, forward: Callable[..., Any], call: Any, source: Any, rows: int, own: int) -> Any:
        """The source in a forward before the target's; its queries and keys are kept until they are used."""
        kept, seen_of = defaultdict[str, list[tuple[Tensor, Tensor]]](list), Counter[str]()

        def keep(seen: AttentionCall) -> None:
            if seen.layer in self.layers:
                kept[seen.layer].append((seen.query.clone(), seen.key.clone()))

        def answer(seen: AttentionCall) -> Tensor | None:
            if seen.layer not in self.layers:
                return None
            number = seen_of[seen.layer]
            seen_of[seen.layer] += 1
            fold = len(seen.query) // seen.candidates
            place = slice(own * fold, (own + 1) * fold)
            if len(seen.query) % seen.candidates:  # row by row, as Mochi does
                if number % rows != own:
                    return None
                place = WHOLE
            return self._answered(seen, place, *kept[seen.layer].pop(0))

        self._run(forward, keep, source)
        return self._run(forward, answer, call)

    def _run(self, forward: Callable[..., Any], handler: Handler, call: Any) -> Any:
        tap = Tap(self.module, handler)
        try:
            with tap:
                return tap.run(forward, *call[0], **call[1])
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or not tap.failed(error):
                raise
            # PAG's processors want as many rows as it has parts.
            raise NotSupported(
                f"{type(self.module).__name__} does not take the source's row beside its own: "
                + textwrap.shorten(str(error), 200, placeholder=" ...")
            ) from error

    def _answered(self, call: AttentionCall, rows: slice, query: Tensor, key: Tensor) -> Tensor:
        """The call's output, in which these rows of its batch attend with other queries and keys."""
        mask = call.mask
        if mask is not None and mask.ndim == 4 and len(mask) > 1:
            mask = mask[rows]
        part = dataclasses.replace(
            call, query=call.query[rows], key=call.key[rows], value=call.value[rows], mask=mask
        )
        place = self.layout.of(part)
        if place is None:  # of text alone
            return call.output()
        video, grid = place
        if query.shape != part.query.shape or key.shape != part.key.shape:
            # Another length of text: only what the source's video attends with has a place here.
            found = self.source_layout.of(dataclasses.replace(call, query=query, key=key))
            there = video if found is None else found[0]
            queries, keys = part.query.clone(), part.key.clone()
            if (
                part.query.shape[2] != part.key.shape[2]
                or part.query[:, :, video].shape != query[:, :, there].shape
            ):
                raise NotSupported(
                    f"{call.layer} attends over {key.shape[2]} tokens for the source and {part.key.shape[2]} "
                    "for the target: choose other layers, or prompts of one length"
                )
            queries[:, :, video], keys[:, :, video] = query[:, :, there], key[:, :, there]
            query, key = queries, keys
        answer = call.output()
        answer[rows] = inject(query, key)(part, video, grid)
        return answer


def _joined(call: Any, source: Any, rows: int) -> Any:
    """The arguments of a call with the source's as one more row; None where they do not fit in one batch."""
    leaves, spec = tree_flatten(call, is_leaf=is_list)
    joined = []
    for leaf, one in zip(leaves, tree_flatten(source, is_leaf=is_list)[0], strict=True):
        if leaf is one or not _size(leaf, one, rows):
            if not _same(leaf, one):
                return None
            joined.append(leaf)
        elif isinstance(leaf, list):
            joined.append([*leaf, *one])
        elif leaf.shape[1:] == one.shape[1:]:
            joined.append(torch.cat([leaf, one]))
        else:
            return None
    return tree_unflatten(joined, spec)


def _size(leaf: Any, one: Any, rows: int) -> int:
    """How many rows of a value belong to each row of the batch, where `one` has those of one; 0 for none.

    More than one where frames are rows, as those of AnimateDiff's text.
    """
    if isinstance(leaf, Tensor) and isinstance(one, Tensor):
        if not leaf.ndim or not one.ndim:
            return 0
    elif not isinstance(leaf, list) or not isinstance(one, list):
        return 0
    size = len(one)
    return size if len(leaf) == rows * size and (rows > 1 or size == 1) else 0


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.shape == other.shape and torch.equal(one, other.to(one))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
