"""FlowEdit (arXiv 2412.08629): an edit without inversion and without attention, for flow matching."""

from __future__ import annotations

import torch
from torch import Tensor

from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.prediction import Prediction
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import levels_of, predict
from seedbed.progress import Show, silent

# Of the first steps, the share that is left out: 15 of 50, as published for Wan.
SKIPPED = 0.3


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
    levels = levels_of(source)
    if not levels[0].flow or levels[0].scale != 1:
        raise NotSupported(
            f"FlowEdit is for flow matching, and {source.asked.name} is not sampled by it: use "
            'method="inject"'
        )
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
