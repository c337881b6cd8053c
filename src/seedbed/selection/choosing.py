"""Choosing one of several initial noises, for one prompt or several, and the record of the choice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from seedbed.acquisition import Acquisition, AttentionScore, Random, Scores
from seedbed.acquisition.base import BatchSize
from seedbed.acquisition.scoring import plan_layers
from seedbed.acquisition.search import Search
from seedbed.adaptation import Adapt, adapt, adaptations_named
from seedbed.errors import BadInput, shown, whole
from seedbed.noise import Gaussian, NoiseRecipe, Prior, Torch, prior_named
from seedbed.noise.priors import PRIORS
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement import Refine, correlate_steps, refined, refiners_named
from seedbed.selection.pools import Noises, draw_pool, given_pool, listed
from seedbed.selection.profile import Profile, acquisition_named, chosen_function
from seedbed.selection.provenance import Model, package_versions
from seedbed.selection.record import Selection
from seedbed.selection.values import jsonable, recordable
from seedbed.texts import text_of
from seedbed.verifiers import Verifier
from seedbed.verifiers import resolve as verifier_named

Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)
Options = ParamSpec("Options")

# What pipelines call the number of videos or images of one prompt.
_COUNTS = ("num_videos_per_prompt", "num_images_per_prompt")


class OnePrompt(Protocol[Options, Made_co]):
    """A function of one prompt."""

    def __call__(
        self, pipe: Any, prompt: str | None = None, *none: Options.args, **options: Options.kwargs
    ) -> Made_co: ...


class PerPrompt(Protocol[Options, Made]):
    """A function of one prompt, or of a list of them."""

    @overload
    def __call__(
        self, pipe: Any, prompt: str | None = None, *none: Options.args, **options: Options.kwargs
    ) -> Made: ...
    @overload
    def __call__(
        self, pipe: Any, prompt: list[str] | tuple[str, ...], *none: Options.args, **options: Options.kwargs
    ) -> list[Made]: ...


def per_prompt(one: OnePrompt[Options, Made]) -> PerPrompt[Options, Made]:
    """Lets a function of one prompt take a list of them, and return a list.

    Prompt number i is the call `one(pipe, prompts[i], seed=seed + i, ...)`, so that each has noises of its
    own. Of arguments that are lists with one entry for each prompt (`negative_prompt`, `generator`), it gets
    entry i.

    Raises:
        BadInput: no prompt, a prompt that is no text, a list of another length.
    """
    function: Callable[..., Made] = one

    @functools.wraps(function)
    def each(pipe: Any, prompt: Any = None, **options: Any) -> Any:
        if not isinstance(prompt, (list, tuple)):
            return function(pipe, prompt, **options)
        if not prompt:
            raise BadInput("the list of prompts is empty: pass at least one")
        first, call = whole("seed", options.get("seed"), 0, optional=True), options.get("call")
        numbered = first is not None or options.get("noises") is None
        made = []
        for index, text in enumerate(prompt):
            if not isinstance(text, str) or (text and not text.strip()):
                raise BadInput(
                    f"prompt {index} of the list must be a text that is not blank, not {shown(text)}"
                )
            own = _entries(options, index, len(prompt))
            if numbered:
                own["seed"] = (first or 0) + index
            if isinstance(call, Mapping):
                own["call"] = _entries(call, index, len(prompt))
            made.append(functools.partial(function, pipe, text, **own))
        once = {  # as it may be a model to load
            name: read(options[name])
            for name, read in (("verifier", verifier_named), ("acquisition", acquisition_named))
            if options.get(name) is not None
        }
        return [make(**once) for make in made]

    return cast(PerPrompt[Options, Made], each)


def _entries(arguments: Mapping[str, Any], index: int, prompts: int) -> dict[str, Any]:
    """The arguments of one prompt: its entry of those lists that have one for each."""
    own = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, list) and ("prompt" in name or name == "generator"):
            if len(value) != prompts:
                raise BadInput(f"{name} is a list of {len(value)}, but there are {prompts} prompts")
            own[name] = value[index]
    return own


def videos_asked(call: Mapping[str, Any]) -> dict[str, int]:
    """How many videos or images a call asks for, by the argument that says so.

    Each is of another noise, so that the call itself is made with 1 instead.

    Raises:
        BadInput: `num_videos_per_prompt` or `num_images_per_prompt` is no whole number from 1.
    """
    return {name: whole(name, call[name]) for name in _COUNTS if call.get(name) is not None}


@per_prompt
def select(
    pipe: Any,
    prompt: str | None = None,
    *,
    candidates: int | None = None,
    seed: int = 0,
    acquisition: str | Acquisition | Profile = "auto",
    verifier: Verifier | str | None = None,
    verifier_prompt: str | None = None,
    prior: str | Prior | None = None,
    refine: Refine = None,
    adaptation: Adapt = None,
    batch_size: BatchSize = "auto",
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Selection:
    """Choose the most promising of several initial noises, before anything is generated.

    Args:
        pipe: any diffusers pipeline whose call takes `latents`; unchanged afterwards.
        prompt: what to generate, which may be empty (""); or pass `prompt_embeds=`. For a list of prompts,
            the result is a list of selections: prompt number i has the noises of seed + i. Lists of
            `negative_prompt` or `generator` then have one entry for each prompt.
        candidates: how many noises; candidate i is `NoiseRecipe(seed, candidate=i)` whatever their number. A
            single one is taken as it is, without an evaluation. None: what the profile was measured with, 6
            for previews, else 10; 1 where auto knows no reason to choose.
        seed: of the noises.
        acquisition: an `Acquisition`; a `Profile`; or a text: a function's name, options after a colon
            ("bansa:keep=0.5,layers=joint"), the file of a profile ("profile.json"), or "auto". Auto is the
            profile beside the model: previews where its verifier can judge the prompt, else the function that
            it names. Without one the first noise is taken, as no function that needs no verifier gained on
            every model of ours (docs/evidence.md), or, of as many `candidates` as are asked for, what BANSA
            as published prefers (arXiv 2505.17561).
        verifier, verifier_prompt: short for `acquisition=Previews(verifier=..., verifier_prompt=...)`.
        prior: the distribution of the noises, a `seedbed.noise.Prior` or a text ("mixed:1"); None: what the
            `seedbed.json` beside the model says that it was trained under, else Gaussian. With "torch",
            candidate i is what the pipeline itself draws for the seed `seed + i`.
        refine: what is done to every noise before it is scored, one `seedbed.refinement.Refiner` or several
            in their order, or texts ("erasure:n=8"). What is scored is then what is generated from, and all
            candidates pay. The winner alone, refined after the choice, is cheaper:
            `generate(pipe, prompt, noises=[selection.recipe], refine=...)`.
        adaptation: what acts while the pipeline denoises, one `seedbed.adaptation.Adaptation` or several, or
            texts ("enhance:strength=0.2", "guide:perturb=skip"); scores are those of the model so adapted.
        batch_size: rows of one forward; "auto": what fits (previews: one). Where an acquisition runs several
            copies of a candidate, each is a row, and they stay together.
        progress: True for a bar on stderr, or a callable (what, done, total).
        arguments: of the pipeline's call (height, num_frames, num_inference_steps, ...). With
            `num_videos_per_prompt=n` or `num_images_per_prompt=n` the n best noises are kept.
        call: the same as a dictionary, for arguments that have one of the names above (`seed`, `batch_size`).

    Returns:
        The selection; `pipe(prompt, latents=selection.noise, ...)` generates from its choice.

    Raises:
        BadInput: an argument that cannot be used, including a depth beyond the last layer.
        BadOutput: a score that is not finite.
        BadRecord: a damaged profile.
        NotSupported: a model without softmax attention, or a pipeline whose noise cannot be chosen.
    """
    function, given = acquisition_named(acquisition, verifier, verifier_prompt), merged(call, arguments)
    choice = (function, given, candidates, seed, batch_size, progress)
    return choose(pipe, prompt, *choice, prior=prior, refine=refine, adaptation=adaptation)[0]


def score(
    pipe: Any,
    prompt: str | None,
    noises: Noises,
    *,
    acquisition: str | Acquisition | Profile = "auto",
    verifier: Verifier | str | None = None,
    verifier_prompt: str | None = None,
    refine: Refine = None,
    adaptation: Adapt = None,
    batch_size: BatchSize = "auto",
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Selection:
    """Score noises that you already have; arguments, result and errors as in `select`.

    Args:
        noises: (candidates, *shape), or a list of noises (*shape) and recipes, refined ones included. A
            record can redraw recipes, not tensors: of these it keeps the sha256.

    Raises:
        BadInput: also if a noise is not finite, or not of the shape of the pipeline's latents (names both).
    """
    function, given = acquisition_named(acquisition, verifier, verifier_prompt), merged(call, arguments)
    choice = (function, given, None, None, batch_size, progress, listed(noises))
    return choose(pipe, prompt, *choice, even_one=True, refine=refine, adaptation=adaptation)[0]


def merged(call: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's arguments, from both places they may be given in.

    Raises BadInput where `call` is no mapping, or one is given in both.
    """
    if call is not None and not isinstance(call, Mapping):
        raise BadInput(f"call must map arguments of the pipeline to values, not {shown(call)}")
    twice = sorted({*(call or {})} & {*arguments})
    if twice:
        raise BadInput(f"{', '.join(twice)} is given twice: by itself, and in call")
    return {**(call or {}), **arguments}


def choose(
    pipe: Any,
    prompt: str | None,
    acquisition: str | Acquisition | Profile,
    given: dict[str, Any],
    candidates: int | None,
    seed: int | None,
    batch_size: BatchSize,
    progress: Progress,
    noises: Noises | None = None,
    *,
    even_one: bool = False,
    prior: str | Prior | None = None,
    refine: Refine = None,
    adaptation: Adapt = None,
) -> tuple[Selection, Scores, Session]:
    """Score a pool and make the record of it; what was denoised for it is in the scores.

    Args:
        acquisition: as `acquisition_named` returns it.
        given: the arguments of the pipeline's call.
        noises: the caller's own instead of those of the seed.
        even_one: a single candidate is scored too.
        prior, refine, adaptation: as in `select`.
    """
    refiners, adaptations = refiners_named(refine), adaptations_named(adaptation)
    if prior is not None:
        prior = prior_named(prior)
        if PRIORS.get(getattr(prior, "name", "")) is not type(prior):
            raise BadInput(
                f"no record could name the prior {type(prior).__name__}: add it to "
                "seedbed.noise.priors.PRIORS, under a name of its own"
            )
    if noises is not None:
        for what, asked in (("a prior is", prior), ("candidates are", candidates), ("a seed is", seed)):
            if asked is not None:
                raise BadInput(f"{what} for noises that are drawn, and these are given: leave one out")
        candidates = len(listed(noises))
    wanted = videos_asked(given)
    session = Session(pipe, prompt, **{**given, **dict.fromkeys(wanted, 1)})
    shaped = prior is not None or bool(refiners) or bool(adaptations)
    function, count, reason = chosen_function(session, acquisition, candidates, given, shaped)
    search = function if isinstance(function, Search) else None
    if search is not None:
        if candidates is not None:
            raise BadInput(
                f"{search.name} makes its own pool, and its budget says how large: leave candidates and "
                "noises out"
            )
        count = search.visits(session, refiners)
    if isinstance(function, AttentionScore) and (function.layers or isinstance(function.depth, int)):
        plan_layers(session.layers, function.layers, function.depth)  # a mistake is one for any pool
    adaptations = adapt(session, adaptations)
    if search is not None and adaptations:  # what they run is paid from the budget too
        count = search.visits(session, refiners)
    if candidates is None and isinstance(function, Random):
        count = max(count, *wanted.values(), 1)
    for name, kept in wanted.items():
        if kept > count:
            raise BadInput(f"{name}={kept}, but there are only {count} candidates: raise candidates")
    notes: tuple[str, ...] = ()
    started = perf_counter()
    if noises is None:
        pool = draw_pool(session, count if search is None else 1, 0 if seed is None else seed, prior)
    else:
        pool, notes = given_pool(session, noises)
    if not (isinstance(batch_size, str) and batch_size == "auto"):
        batch_size = whole("batch_size", batch_size)
    seconds = {}
    if refiners and search is None:
        with reporting(progress) as show:
            pool, strayed = refined(pool, refiners, session, show)
        notes += strayed
    if any(recipe.refinements for recipe in pool.recipes):
        seconds["refinement"] = perf_counter() - started
    own = session.asked.prior
    drawn = {each.prior for each in pool.recipes if isinstance(each, NoiseRecipe)}
    others = {text for text in drawn if (Gaussian.name if text.startswith(Torch.name) else text) != own}
    if own is not None and others:
        off = f"is off its distribution under {', '.join(sorted(others))}"
        notes += (f"warning: the model was trained under the prior {own}, and {off}",)
    for recipe, noise in zip(pool.recipes, pool.noises, strict=True):
        correlate_steps(session, recipe, noise)
    started = perf_counter()
    if search is not None:
        start = cast(NoiseRecipe, pool.recipes[0])
        with reporting(progress) as show:
            pool, scores = search.search(session, start, refiners, batch_size=batch_size, show=show)
    elif len(pool) == 1 and not even_one:
        scores = Scores.unranked(1)
        if not (reason.startswith("auto") and isinstance(function, Random)):
            reason = "one candidate: nothing to choose, so nothing was scored"
    else:
        with reporting(progress) as show:
            scores = function.score(session, pool, batch_size=batch_size, show=show)
    if not session.ledger.entries:  # or the first evaluation would have shown it
        session.arrive(pool.noises[0])
    what = "scoring" if scores.previews is None else "preview"  # as the ledger has it
    seconds |= {what: perf_counter() - started - sum(scores.seconds.values()), **scores.seconds}
    scores = replace(scores, notes=(*scores.notes, *notes))
    call, missing = recordable({**session.call, **wanted})
    selection = Selection(
        prompt=session.prompt,
        model=Model.of(session.pipe, session.spec.device.type),
        call=call,
        missing=missing,
        noise_dtype=session.spec.dtype,
        recipes=pool.recipes,
        pool=pool.noises,
        scores=scores.table,
        totals=scores.totals,
        order=scores.order,
        layers=scores.layers,
        race=scores.race,
        rungs=scores.rungs,
        confidence=scores.confidence,
        acquisition=function.name,
        options=jsonable(function.options()),
        prefer=function.end,
        unit=function.unit,
        reason="; ".join([reason, *scores.notes]),
        ledger=Ledger(session.ledger.to_dict()),
        seconds=seconds,
        versions=package_versions(),
        previews=scores.previews,
        kept=max(wanted.values(), default=1),
        adaptations=tuple(map(text_of, adaptations)),
    )
    return selection, scores, session
