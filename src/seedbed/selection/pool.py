"""A pool of candidate noises, scored by an acquisition function: which one to generate from."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe
from seedbed.selection.acquisitions import Acquisition, Prefer, positive, resolve
from seedbed.selection.batches import BatchSize, checked
from seedbed.selection.layers import plan
from seedbed.selection.origin import Model, package_versions, recordable
from seedbed.selection.profile import FILENAME, Profile, find_profile, read_profile
from seedbed.selection.progress import Progress, reporting
from seedbed.selection.prompts import asked, per_prompt, several
from seedbed.selection.racing import Given, Rungs, ranked, rungs_of, told
from seedbed.selection.record import GivenNoise, Selection
from seedbed.selection.scoring import foresee_pool, judge_pool, preview_pool, race_pool


@per_prompt
def select(
    pipe: Any,
    prompt: str | None = None,
    *,
    candidates: int = 10,
    seed: int = 0,
    acquisition: str | Acquisition = "auto",
    profile: Profile | str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] | None = None,
    depth: int | None = None,
    race: Given = "auto",
    prefer: Prefer | None = None,
    batch_size: BatchSize = "auto",
    previews: bool = False,
    progress: Progress = True,
    **call: Any,
) -> Selection:
    """Choose the most promising of several initial noises, before anything is generated.

    Every candidate goes through the first denoiser evaluation of the pipeline's own call, without guidance,
    and the acquisition function scores it by the attention it sees there (ANSE, arXiv 2505.17561). A layer's
    score depends neither on the other candidates nor on the batch, up to rounding; totals that agree to 1e-6
    of the largest count as equal, and the lower index wins.

    Args:
        pipe: any diffusers pipeline whose call takes `latents`; unchanged afterwards.
        prompt: what to generate; or pass `prompt_embeds=`. For a list of prompts, the result is a list of
            selections: prompt number i has the noises of seed + i. Lists of `negative_prompt` or `generator`
            then have one entry for each prompt.
        candidates: how many noises; candidate i is `NoiseRecipe(seed, candidate=i)` whatever their number. A
            single one is taken as it is, without an evaluation.
        seed: of the noises.
        acquisition: an `Acquisition`; or a name, options after a colon ("bansa:keep=0.5,place=logits"); or
            "auto", the function that the profile names, else bansa.
        profile: what "auto" follows: a profile or its file; None looks for the one beside the model.
        layers: kinds of attention ("self", "cross", "joint", "temporal") or globs on layer names; None: all.
        depth: stop each forward after that many attention layers; None: after the last scored one.
        race: drop the worst while the layers run: pairs (scored layers seen, survivors), layers as a whole
            number or a fraction in (0, 1), as in ((3, 5), (5, 2), (6, 1)); None lets all see all layers.
            "auto" is the profile's race where the model has been calibrated for this function, else the
            default for models of at least 12 scored layers; none where `layers` or `depth` are chosen.
        prefer: "low" or "high" total; None: what the acquisition function says.
        batch_size: rows of one forward; "auto": what fits (`seedbed.selection.batches.Batches`). Where an
            acquisition runs several copies of a candidate, each is a row, and they stay together.
        previews: also decode what each candidate's first step predicts (one more step each).
        progress: True for a bar on stderr, or a callable (what, done, total).
        call: further arguments of the pipeline's call (height, num_frames, num_inference_steps, ...). With
            `num_videos_per_prompt=n` or `num_images_per_prompt=n` the n best noises are kept, and none is
            dropped on the way unless `race` is given.

    Returns:
        The selection; `pipe(prompt, latents=selection.noise, ...)` generates from its choice.

    Raises:
        BadInput: an argument that cannot be used, including a depth beyond the last layer.
        BadOutput: a score that is not finite.
        BadRecord: a damaged profile.
        NotSupported: a model without softmax attention, or a pipeline that cannot be probed.
    """
    positive("candidates", candidates)
    call, kept = several(call, candidates)
    probe = Probe(pipe, prompt, **call)
    selection = choose(
        probe,
        recipes_for(probe, candidates, seed),
        acquisition=acquisition,
        profile=profile,
        layers=layers,
        depth=depth,
        race=None if kept > 1 and race == "auto" else race,
        prefer=prefer,
        batch_size=batch_size,
        previews=previews,
        progress=progress,
    )
    return replace(selection, kept=kept, call=asked(selection.call, kept))


def score(
    pipe: Any,
    prompt: str | None,
    noises: Tensor | Sequence[NoiseRecipe | Tensor],
    *,
    acquisition: str | Acquisition = "auto",
    profile: Profile | str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] | None = None,
    depth: int | None = None,
    race: Given = "auto",
    prefer: Prefer | None = None,
    batch_size: BatchSize = "auto",
    previews: bool = False,
    progress: Progress = True,
    **call: Any,
) -> Selection:
    """Score noises that you already have; arguments, result and errors as in `select`.

    Args:
        noises: (candidates, *shape), or a list of noises (*shape) and recipes. A record can redraw recipes,
            not tensors: of these it keeps the sha256.

    Raises:
        BadInput: also if a noise is not finite, or not of the shape of the pipeline's latents (names both).
    """
    if not isinstance(noises, (Tensor, list, tuple)) or (isinstance(noises, Tensor) and not noises.ndim):
        raise BadInput(f"the noises must be one tensor, or a list of noises and recipes, not {noises!r:.60}")
    if len(noises) < 1:
        raise BadInput("there is no noise to score: pass at least one")
    call, kept = several(call, len(noises))
    probe = Probe(pipe, prompt, **call)
    pool: list[NoiseRecipe | GivenNoise] = []
    for index, noise in enumerate(noises):
        if not isinstance(noise, (Tensor, NoiseRecipe)):
            raise BadInput(f"noise {index} must be a tensor or a recipe, not {type(noise).__name__}")
        if tuple(noise.shape) != tuple(probe.spec.shape):
            raise BadInput(
                f"noise {index} has shape {tuple(noise.shape)}, "
                f"but this pipeline's latents have shape {tuple(probe.spec.shape)}"
            )
        if isinstance(noise, NoiseRecipe):
            pool.append(noise.sealed())
        elif bool(noise.isfinite().all()):
            pool.append(GivenNoise.of(noise.detach().cpu().float().contiguous(), index))
        else:
            raise BadInput(f"noise {index} has values that are not finite")
    selection = choose(
        probe,
        tuple(pool),
        acquisition=acquisition,
        profile=profile,
        layers=layers,
        depth=depth,
        race=None if kept > 1 and race == "auto" else race,
        prefer=prefer,
        batch_size=batch_size,
        previews=previews,
        progress=progress,
        even_one=True,
    )
    return replace(selection, kept=kept, call=asked(selection.call, kept))


def choose(
    probe: Probe,
    pool: Sequence[NoiseRecipe | GivenNoise],
    *,
    acquisition: str | Acquisition,
    profile: Profile | str | os.PathLike[str] | None,
    layers: str | Sequence[str] | None,
    depth: int | None,
    race: Given,
    prefer: Prefer | None,
    batch_size: BatchSize,
    previews: bool,
    progress: Progress,
    even_one: bool = False,
) -> Selection:
    """Score a pool with a probe that is already there; see `select`.

    Args:
        even_one: score a pool of one, although there is nothing to choose.
    """
    checked(batch_size)
    if isinstance(acquisition, str) and acquisition == "auto":
        if profile is None:
            found, origin = find_profile(probe.pipe), f"the model's {FILENAME}"
        elif isinstance(profile, Profile):
            found, origin = profile, "the profile"
        else:
            found, origin = read_profile(profile), str(profile)
        if found is None:
            function = resolve("bansa")
            reason = f"auto: no {FILENAME} lies beside the model, so the published function"
        else:
            function, reason = found.acquisition, f"auto: {origin} names it: {found.why}"
            layers = found.layers if layers is None else layers
            depth = found.depth if depth is None else depth
            prefer = found.prefer if prefer is None else prefer
    elif profile is not None:
        raise BadInput("a profile names the acquisition function: leave out acquisition, or the profile")
    else:
        function, reason = resolve(acquisition), "asked for"
        attends = function.uses_attention and not function.foresees
        found = find_profile(probe.pipe) if race == "auto" and attends else None
    if function.foresees and (layers, depth) != (None, None):
        raise BadInput(f"{function.name} does not score layers one by one: leave out layers and depth")

    better: Prefer = function.prefer if prefer is None else prefer
    if better not in ("low", "high"):
        raise BadInput(f"prefer must be 'low' or 'high', not {better!r}")

    started = perf_counter()
    names: tuple[str, ...] = ()
    scores = torch.zeros(len(pool), 0, dtype=torch.float64)
    totals = torch.full((len(pool),), math.nan, dtype=torch.float64)
    rungs: Rungs = ()
    order: tuple[int, ...] = ()
    confidence: float | None = None
    seconds: dict[str, float] = {}
    pictures: list[np.ndarray[Any, Any]] | None = None
    with reporting(progress) as show:
        if len(pool) == 1 and not even_one:
            reason = "one candidate: nothing to choose, so nothing was scored"
            if function.uses_attention and (layers, depth) != (None, None):
                plan(probe.layers, layers, depth)  # a mistake is one for a pool of any size
        elif function.uses_attention:
            layout = plan(probe.layers, layers, depth)
            rungs, whose = rungs_of(
                race,
                function,
                better,
                len(layout.names),
                len(pool),
                calibrated=found.race if found is not None else None,
                narrowed=(layers, depth) != (None, None),
            )
            scored = race_pool(probe, pool, function, layout, batch_size, show, rungs, better)
            scores, order, confidence = scored.scores, scored.order, scored.confidence
            names, totals = layout.names[: scores.shape[1]], scores.nanmean(1)
            if rungs:
                reason += f"; {told(rungs, whose)}"
            if scored.unable:
                reason += f"; those that stayed started over, as {scored.unable}"
        elif race not in ("auto", None):
            raise BadInput(f"{function.name} cannot race: it does not score attention layers")
        elif function.foresees:
            show("scoring", 0, len(pool))
            totals = foresee_pool(probe, pool, function, batch_size)
            show("scoring", len(pool), len(pool))
        else:
            totals = judge_pool(function, pool)
        seconds["scoring"] = perf_counter() - started
        if probe.compiled and "scoring" in probe.ledger.entries:
            reason += f"; scored in eager mode, as the {' and '.join(probe.compiled)} is compiled"
        if previews:
            started = perf_counter()
            pictures = preview_pool(probe, pool, show)
            seconds["preview"] = perf_counter() - started

    plain, missing = recordable(probe.call)
    return Selection(
        prompt=probe.prompt,
        model=Model.of(probe.pipe),
        call=plain,
        missing=missing,
        noise_dtype=probe.spec.dtype,
        recipes=tuple(pool),
        scores=scores,
        totals=totals,
        order=order or ranked(totals, better),
        layers=names,
        depth=depth,
        race=rungs,
        confidence=confidence,
        acquisition=function.name,
        options=recordable(function.options())[0],
        prefer=better,
        unit=function.unit,
        reason=reason,
        ledger=probe.ledger,
        seconds=seconds,
        versions=package_versions(),
        previews=pictures,
    )


def recipes_for(probe: Probe, candidates: int, seed: int) -> tuple[NoiseRecipe, ...]:
    """The sealed recipes of candidates 0, 1, ... of a seed, for the latents of this probe's pipeline."""
    return tuple(
        NoiseRecipe(
            seed=seed, candidate=index, shape=tuple(probe.spec.shape), frame_axis=probe.spec.frame_axis
        ).sealed()
        for index in range(candidates)
    )
