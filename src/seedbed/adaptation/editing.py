"""Injection: while the target is denoised, chosen layers attend with the source's queries and keys."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from seedbed.acquisition.signals import call_of_rows
from seedbed.adaptation.adaptation import run_alone
from seedbed.adaptation.layout import Layout, layout_of
from seedbed.adaptation.trajectory import Trajectory
from seedbed.attention.interventions import WHOLE, inject
from seedbed.attention.kinds import named_arguments, parameter_names
from seedbed.attention.tap import AttentionCall, Tap
from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.compiled import refuse_caches
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.rollout import prompt_parts
from seedbed.pipelines.session import Act, Session
from seedbed.pipelines.steps import Position


def injecting(
    target: Session, source: Session, trajectory: Trajectory, layers: Collection[str], stop: float
) -> Act:
    """Injection into a session's guided runs of one candidate, as `session.acts` takes it.

    Before every evaluation with rows of the prompt, in the first `stop` of the steps, the source's row is
    evaluated; the queries and keys of these layers are kept until they are used. Rows without the prompt are
    left alone.

    Args:
        layers: by name.

    Raises:
        NotSupported: caches between steps; later, rows of the prompt that cannot be told or run alone.
    """
    refuse_caches(target.asked.denoisers)
    _ = target.alone  # by a run of its own, which must not come during another
    layouts = layout_of(target), layout_of(source)

    def act(run: Run, count: int, guided: bool) -> None:
        if not guided:
            return
        position, calls = Position(run.pipe, run.undo), iter(trajectory.calls)

        def forward(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given, rows = (
                named_arguments(parameter_names(type(module)), args, kwargs),
                rows_of(module, args, kwargs),
            )
            row, _ = prompt_parts(target, given, rows, 1)
            if row is None or position.share >= stop:
                return own(*args, **kwargs)
            if (call := next(calls, None)) is None:
                raise BadInput(
                    f"the source was seen at {len(trajectory.calls)} evaluations, and the target has more: "
                    "give both the same steps"
                )
            target.ledger.add("source", 1)
            kept, taken = defaultdict[str, list[tuple[Tensor, Tensor]]](list), Counter[str]()

            def keep(seen: AttentionCall) -> None:
                if seen.layer in layers:
                    kept[seen.layer].append((seen.query.clone(), seen.key.clone()))

            def answer(seen: AttentionCall) -> Tensor | None:
                if seen.layer not in layers:
                    return None
                number, fold = taken[seen.layer], len(seen.query) // seen.candidates
                taken[seen.layer] += 1
                place, part = slice(row * fold, (row + 1) * fold), dataclasses.replace(seen, candidates=1)
                if not len(seen.query) % seen.candidates:
                    part = call_of_rows(seen, [row])
                elif number % rows == row:  # row by row, as Mochi does
                    place = WHOLE
                else:
                    return None
                found = injected(part, *kept[seen.layer].pop(0), *layouts)
                if found is None:
                    return None
                output = seen.output()
                output[place] = found
                return output

            run_alone(module, keep, own, *call)
            with Tap(module, answer) as tap:
                return tap.run(own, *args, **kwargs)

        for module in dict.fromkeys(run.denoisers.values()):
            replace(module, "forward", functools.partial(forward, module, module.forward), run.undo)

    return act


def injected(
    call: AttentionCall, query: Tensor, key: Tensor, layout: Layout, source_layout: Layout
) -> Tensor | None:
    """The output of a call in which the video attends with the queries and keys of the source's call.

    None of text alone. Raises NotSupported where the source attends over another number of tokens.
    """
    place = layout.of(call)
    there = source_layout.of(dataclasses.replace(call, query=query, key=key))
    if place is None or there is None:
        return None
    video, grid = place
    queries, keys = call.query.clone(), call.key.clone()
    if queries[:, :, video].shape != query[:, :, there[0]].shape or (
        keys[:, :, video].shape != key[:, :, there[0]].shape
    ):
        raise NotSupported(
            f"{call.layer} attends over {key.shape[2]} tokens for the source and {keys.shape[2]} for the "
            "target: choose other layers, or prompts of one length"
        )
    queries[:, :, video], keys[:, :, video] = query[:, :, there[0]], key[:, :, there[0]]
    return inject(queries, keys)(call, video, grid)
