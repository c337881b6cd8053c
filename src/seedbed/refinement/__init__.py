"""Refinement: noise in, noise out, its cost declared.

The refiners by name, a pool refined before it is scored, and a refined noise made again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput, BadRecord
from seedbed.noise import GivenNoise, NoiseRecipe, Pool, sha256_of
from seedbed.noise.gaussianity import leaves_shell
from seedbed.pipelines.session import Session
from seedbed.progress import Show, silent
from seedbed.refinement.frequency import FreeInit as FreeInit
from seedbed.refinement.guidance_gap import GuidanceGap as GuidanceGap
from seedbed.refinement.injection import Injection as Injection
from seedbed.refinement.inversion import DenoiseInvert as DenoiseInvert
from seedbed.refinement.refiner import Refiner as Refiner
from seedbed.refinement.refiner import correlate_steps as correlate_steps
from seedbed.refinement.refiner import model_sha256
from seedbed.refinement.variation import CrossEntropy as CrossEntropy
from seedbed.refinement.variation import Erasure as Erasure
from seedbed.refinement.variation import Variation as Variation
from seedbed.refinement.variation import Walk as Walk
from seedbed.refinement.variation import variations as variations
from seedbed.refinement.variation import walk as walk
from seedbed.texts import parse, text_of

REFINERS: dict[str, type[Refiner]] = {
    kind.name: kind
    for kind in (Erasure, Injection, GuidanceGap, DenoiseInvert, FreeInit, Variation, Walk, CrossEntropy)
}

Refine = str | Refiner | Sequence[str | Refiner] | None
"""One refiner, or several in their order, as objects or as texts ("erasure:n=8")."""


def refiners_named(refine: Refine) -> tuple[Refiner, ...]:
    """The refiners that are meant.

    Raises BadInput where there is no such refiner, it refuses an option, or a record could not name it.
    """
    several = refine if isinstance(refine, (list, tuple)) else [refine] * (refine is not None)
    found = tuple(each if isinstance(each, Refiner) else parse(REFINERS, "refiner", each) for each in several)
    for kind in map(type, found):
        if REFINERS.get(getattr(kind, "name", "")) is not kind:
            raise BadInput(
                f"no record could name the refiner {kind.__name__}: add it to seedbed.refinement.REFINERS, "
                "under a name of its own"
            )
    return found


def refined(
    pool: Pool, refiners: Sequence[Refiner], session: Session, show: Show = silent
) -> tuple[Pool, tuple[str, ...]]:
    """Every noise of a pool, refined: one at a time, so that it is the same whatever the others are.

    Warns where a refiner has something to say of this call, and where one leads off what N(0, I) draws.

    Returns:
        The pool, whose recipes say what was done, and what is to be said of it, a few words each.

    Raises:
        BadInput: a refiner that cannot be used here, or that returns another shape.
        BadOutput: a refined noise that is not finite.
        NotSupported: a pipeline of which a refiner cannot get what it asks for.
    """
    if not refiners:
        return pool, ()
    model, notes = prepare(refiners, session, pool.recipes)
    pool, strayed = refine_each(pool, refiners, session, model, show)
    return pool, tell(notes, strayed)


def prepare(
    refiners: Sequence[Refiner], session: Session, recipes: Sequence[NoiseRecipe | GivenNoise]
) -> tuple[dict[str, str], list[str]]:
    """What `refine_each` wants of the model, and what the refiners have to say; no evaluation is run.

    Errors as `refined`, as far as they can be told before.
    """
    if any(isinstance(each, Walk) for each in refiners):
        for recipe in recipes:
            if not isinstance(recipe, NoiseRecipe):
                raise BadInput(f"a walk begins at a recipe: noise {recipe.candidate} is a tensor of your own")
    notes = [said for refiner in refiners if (said := refiner.caution(session))]
    asking = [refiner for refiner in refiners if refiner.needs_model]
    for refiner in asking:  # which shows what it cannot be used on
        refiner.evaluations(session)
    return {"model": model_sha256(session.pipe)} if asking else {}, notes


def refine_each(
    pool: Pool, refiners: Sequence[Refiner], session: Session, model: dict[str, str], show: Show = silent
) -> tuple[Pool, list[str]]:
    """As `refined`, with what `prepare` returned; and which noises are no draws of N(0, I) any more."""
    recipes, noises, strayed = [], [], []
    for done, (recipe, drawn) in enumerate(zip(pool.recipes, pool.noises, strict=True)):
        show("refinement", done, len(pool))
        noise = drawn
        for refiner in refiners:
            noise = _applied(refiner, noise, session, recipe)
            entry = {"refiner": text_of(refiner), **(model if refiner.needs_model else {})}
            recipe = recipe.refined(entry, noise)
        recipes.append(recipe)
        noises.append(noise)
        if noise.numel() > 1 and not leaves_shell(drawn) and (why := leaves_shell(noise)):
            strayed.append(f"refined noise {recipe.candidate} is no draw of N(0, I): {why}")
    show("refinement", len(pool), len(pool))
    return Pool(tuple(recipes), torch.stack(noises)), strayed


def tell(notes: Sequence[str], strayed: Sequence[str]) -> tuple[str, ...]:
    """Warns of what `prepare` and `refine_each` had to say, and returns it."""
    more = f" (and {len(strayed) - 1} more)" * (len(strayed) > 1)
    told = (*notes, *(each + more for each in strayed[:1]))
    for note in told:
        warnings.warn(note, stacklevel=3)
    return told


def rebuilt(recipe: NoiseRecipe | GivenNoise, session: Session | None = None) -> tuple[Tensor, str]:
    """The noise of a recipe, its refinements done again; a given noise as it is kept, refined or not.

    With a session, its stochastic steps from this noise are from now on correlated as the prior is.

    Args:
        session: of the pipeline and call that the noise was refined with; None where no refiner asks a model.

    Returns:
        float32 (*shape) on the CPU; and in a few words how it differs from the recorded one, "" if it does
        not: torch may draw otherwise on another machine, and models round otherwise.

    Raises:
        BadInput: the session has another model, or there is no such refiner.
        BadRecord: a noise that only its owner has, a plain noise of an altered recipe, or no session where a
            refiner needs one.
    """
    before = recipe.plain
    noise, model = before.draw(), ""
    for entry in () if isinstance(recipe, GivenNoise) else recipe.refinements:
        refiner = parse(REFINERS, "refiner", entry["refiner"])
        if refiner.needs_model:
            if session is None:
                raise BadRecord(
                    f"noise {recipe.candidate} was refined by {entry['refiner']}, which needs the model: "
                    "replay(record) makes it again"
                )
            model = model or model_sha256(session.pipe)
            if entry.get("model") != model:
                raise BadInput(
                    f"noise {recipe.candidate} was refined by another model, or by this one in another "
                    f"dtype: {entry['refiner']} cannot be repeated with this pipeline"
                )
        noise = _applied(refiner, noise, session, before)
        before = before.refined(entry, noise)
    if session is not None:
        correlate_steps(session, recipe, noise)
    if recipe.sha256 in (None, sha256_of(noise)):
        return noise, ""
    return noise, f"noise {recipe.candidate} has other values here than recorded"


def _applied(
    refiner: Refiner, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise
) -> Tensor:
    if session is not None:
        correlate_steps(session, recipe, noise)
    found = refiner.refine(noise.clone(), session, recipe).detach().cpu().float().contiguous()
    if found.shape != noise.shape:
        raise BadInput(
            f"{refiner.name} returned a noise of shape {tuple(found.shape)}, not {tuple(noise.shape)}"
        )
    if not found.isfinite().all():
        raise BadOutput(f"{refiner.name} of noise {recipe.candidate} is not finite")
    return found
