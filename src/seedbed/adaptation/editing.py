"""How a source acts on its target: by injection, or by FlowEdit.

Injection: while the target is denoised, chosen layers attend with the source's queries and keys. FlowEdit
(arXiv 2412.08629): neither inversion nor attention, for flow matching.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.acquisition.signals import call_of_rows
from seedbed.adaptation.adaptation import run_alone
from seedbed.adaptation.layout import Layout, layout_of
from seedbed.adaptation.trajectory import Trajectory
from seedbed.attention.interventions import WHOLE, inject
from seedbed.attention.kinds import named_arguments
from seedbed.attention.tap import AttentionCall, Tap
from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.compiled import refuse_caches
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.interception import Run
from seedbed.pipelines.prediction import Level, Prediction
from seedbed.pipelines.rollout import prompt_parts
from seedbed.pipelines.session import Act, Session
from seedbed.pipelines.steps import Position
from seedbed.pipelines.timesteps import levels_of, predict
from seedbed.progress import Show, silent

# Of the first steps, the share that is left out: 15 of 50, as published for Wan.
SKIPPED = 0.3


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
            given = named_arguments(module, args, kwargs)
            rows = rows_of(module, args, kwargs)
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

        run.instead_of_evaluations(forward)

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


def require_flow(session: Session) -> tuple[Level, ...]:
    """The levels of a schedule; NotSupported where it is not of flow matching."""
    levels = levels_of(session)
    if not levels[0].flow or levels[0].scale != 1:
        raise NotSupported(
            f"FlowEdit is for flow matching, and {session.asked.name} is not sampled by it: use "
            'method="inject"'
        )
    return levels


def flow_edited(
    source: Session, target: Session, latents: Tensor, *, seed: int = 0, show: Show = silent
) -> Tensor:
    """`dZ = [v(Z + x_t − x_0; target) − v(x_t; source)] dt` from Z = x_0, `x_t = (1 − t) x_0 + t ε`.

    Both are the caller's own guided call, and each step draws its ε anew. What the source predicts depends on
    x_0 alone, so it goes through the schedule first, and then the target. One evaluation of each, guided, is
    spent before the first step that counts.

    Args:
        latents: x_0, (*spec.shape).
        seed: of ε.

    Returns:
        Z at the end, float32 on the CPU.

    Raises:
        BadInput: a schedule of fewer than two steps.
        NotSupported: the model is not of flow matching, or what it predicts cannot be told.
    """
    levels = require_flow(source)
    count = len(levels)
    first = int(SKIPPED * count)
    if first + 1 > count - 1:
        raise BadInput(f"FlowEdit needs 2 steps or more, not {count}: raise num_inference_steps")
    clean = latents.detach().cpu().double()
    sigmas = [*(level.sigma for level in levels), 0.0]
    draw = torch.Generator().manual_seed(seed)
    noises = [torch.randn(clean.shape, generator=draw, dtype=torch.float64) for _ in levels]
    noised = [(1 - sigmas[step]) * clean + sigmas[step] * noise for step, noise in enumerate(noises)]
    # Where the first step does not start from noise alone, the sample is put in place by the step before.
    before = first - 1 if first else 0
    steps = [*range(before, count)]

    def along(step: int) -> Tensor | None:
        return noised[step + 1] if step + 1 < count else None

    def follow_source(prediction: Prediction) -> Tensor | None:
        show("source", prediction.step - before + 1, len(steps))
        return along(prediction.step)

    seen = predict(source, noises[0].float(), steps, guided=True, follow=follow_source, what="source")
    velocities = {each.step: each.velocity.cpu().double() for each in seen}
    moved = clean.clone()

    def follow_target(prediction: Prediction) -> Tensor | None:
        nonlocal moved
        show("generation", prediction.step - before + 1, len(steps))
        step = prediction.step
        if step >= first:
            change = prediction.velocity.cpu().double() - velocities[step]
            moved = moved + (sigmas[step + 1] - sigmas[step]) * change
        ahead = along(step)
        return None if ahead is None else moved + ahead - clean

    predict(target, noises[0].float(), steps, guided=True, follow=follow_target, what="generation")
    return moved.float()
