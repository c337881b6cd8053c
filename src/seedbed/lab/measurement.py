"""What the noises of one prompt show on their way, and what their finished videos are worth.

Two tasks of recipes: `measure_noises` (`signals`, `generation`) looks at every noise, `measure_choices`
(`choice`) lets a method choose. `tables` says what their rows mean, methods compared on the same noises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from seedbed import statistics
from seedbed.acquisition import Acquisition, AttentionScore
from seedbed.acquisition import resolve as function_named
from seedbed.acquisition.base import BatchSize, rows_that_fit
from seedbed.acquisition.signals import measure
from seedbed.adaptation import adapt, adaptations_named
from seedbed.errors import BadInput, shown
from seedbed.lab.evidence import OUTCOME, Evidence, groups, judge_signals
from seedbed.lab.experiment import Row
from seedbed.lab.presentation import Table, signal_table
from seedbed.noise import NoiseRecipe, Pool
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.refinement import correlate_steps, refined, refiners_named
from seedbed.selection.generation import generate
from seedbed.selection.pools import draw_pool
from seedbed.verifiers import Frames, Verifier, judged, judged_text, resolve
from seedbed.verifiers.appearance import METRICS, look
from seedbed.verifiers.ratings import Ratings

# Raised whenever the rows would come out differently.
VERSION = 2
_PRICES = ("cost.generation", "cost.refinement", "cost.guidance")
_OPTIONS = {
    *("steps", "verifier", "previews", "functions", "batch_size", "call", "metrics"),
    *("prior", "refine", "adaptation"),
}


def measured(
    session: Session,
    pool: Pool,
    verifier: Verifier | Ratings,
    steps: Sequence[int] = (),
    functions: Mapping[int, Mapping[str, Acquisition]] | None = None,
    previews: bool = False,
    batch_size: BatchSize = "auto",
    metrics: bool = False,
) -> dict[str, np.ndarray[Any, Any]]:
    """Signals and outcomes of the noises of one prompt: name to (noises,) float64.

    The signals of `seedbed.acquisition.signals.measure`; the verifier's numbers for the finished video,
    `outcome.key`; and the price in evaluations of a whole generation of one candidate, `cost.generation`, and
    of a step, `cost.step`.

    Args:
        verifier: ratings by people finish no video.
        steps: after how many denoising steps signals are read; 0 is t = T. Without any, videos are generated
            one by one, by any pipeline.
        functions: {step: {name: function}}, more signals `step/name/layer`, of all layers whatever the
            function's `depth`. At t = T, those that cannot be read on the way have forwards of their own:
            `0/name/layer`, or `0/name` for one that scores no layers.
        previews: whether a verifier judges the decoded prediction of each of the steps too: `s/judge.key`.
        batch_size: noises that are denoised together.
        metrics: whether finished videos are measured by `look` too.
    """
    count = len(pool)
    for recipe, noise in zip(pool.recipes, pool.noises, strict=True):
        correlate_steps(session, recipe, noise)
    judge: Callable[[list[Frames]], dict[str, Tensor]] | None = None
    if isinstance(verifier, Ratings):
        outcome = {"score": verifier.of(session.prompt or "", pool.recipes)}  # type: ignore[arg-type]
    else:
        judge = partial(judged, verifier, prompt=judged_text(verifier, session))
    given = {0: {}, **(functions or {})}
    read = {step: {name: f for name, f in some.items() if is_read(f)} for step, some in given.items()}
    for step, some in given.items():
        if step and (own := some.keys() - read[step].keys()):
            raise BadInput(f"{min(own)} needs forwards of its own, which start at t = T: give it to step 0")
    table: dict[str, np.ndarray[Any, Any]] = {}
    if steps:
        rows = min(rows_that_fit(batch_size, pool.noises), count)
        rollout = Rollout(session, pool.noises, batch_size=rows, what="calibration")
        table = measure(rollout, steps, functions=read, judge=judge if previews else None)
    for name, function in given[0].items():
        if name in read[0]:
            continue
        if isinstance(function, AttentionScore):
            function = dataclasses.replace(function, depth=None)
        scores = function.score(session, pool, batch_size=batch_size)
        table |= {f"0/{name}/{i}": scores.table[:, i].numpy() for i in range(len(scores.layers))}
        if not scores.layers:
            table[f"0/{name}"] = scores.totals.numpy()
    if judge is not None:
        videos = rollout.finish() if steps else [session.generate(noise) for noise in pool.noises]
        outcome = judge(videos)
        table |= {f"outcome.{key}": values for key, values in (look(videos) if metrics else {}).items()}
    table |= {f"outcome.{key}": values.numpy() for key, values in outcome.items()}
    spent = session.ledger.entries
    if steps:
        step_cost = spent["calibration"] / count / rollout.step
        table["cost.step"] = np.full(count, step_cost)
        table["cost.generation"] = np.full(count, step_cost * rollout.steps)
    elif judge is not None:
        table["cost.generation"] = np.full(count, spent["generation"] / count)
    return table


def check_prompts(prompts: Sequence[str], least: int, what: str, better: str = "") -> None:
    """BadInput unless these are at least so many different texts; `what` they are for."""
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadInput("prompts must be a list of texts")
    if len(prompts) < least:
        enough = ", ".join(filter(None, [f"give at least {least}", better]))
        raise BadInput(f"{len(prompts)} prompts are too few {what}: {enough}")
    if twice := [prompt for number, prompt in enumerate(prompts) if prompt in prompts[:number]]:
        raise BadInput(f"the prompt {shown(twice[0])} is given twice: leave one out")


def is_read(function: Acquisition) -> TypeGuard[AttentionScore]:
    """Whether a function reads attention calls without changing them, so that it can look on in a rollout."""
    if not isinstance(function, AttentionScore) or type(function).attend is not AttentionScore.attend:
        return False
    return function.copies == function.steps == 1 and function.layers is None and function.race is None


def measure_noises(
    pipe: Any, prompt: str, recipes: Sequence[NoiseRecipe], options: Mapping[str, Any]
) -> list[Row]:
    """One row per noise of what `measured` finds.

    Options: its arguments, the verifier as `seedbed.verifiers.resolve` takes it and functions as `select`
    does; `prior` and `refine`, of the noises, and `adaptation`, of the model, as `select` takes them, whose
    prices in evaluations of one candidate are `cost.refinement` and `cost.guidance`; and `call`, arguments
    of the pipeline's call. Only the verifier must be given.

    Raises:
        BadInput: an option that is unknown or missing, or whose value cannot be used.
        NotSupported: a pipeline that a refiner cannot be used on.
    """
    verifier = _judge(options, _OPTIONS)
    functions = {
        int(step): {name: function_named(function) for name, function in some.items()}
        for step, some in options.get("functions", {}).items()
    }
    session, pool = Session(pipe, prompt, **options.get("call", {})), Pool.of(recipes)
    if options.get("prior") is not None:
        most = max(recipe.candidate for recipe in recipes)
        drawn = draw_pool(session, most + 1, recipes[0].seed, options["prior"])
        pool = Pool.of([drawn.recipes[recipe.candidate] for recipe in recipes])
    # As `select` does: what refines a noise sees the model as it will denoise it.
    adapt(session, adaptations_named(options.get("adaptation")))
    pool, _ = refined(pool, refiners_named(options.get("refine")), session)
    table = measured(
        session,
        pool,
        verifier,
        options.get("steps", ()),
        functions,
        bool(options.get("previews")),
        options.get("batch_size", "auto"),
        bool(options.get("metrics")),
    )
    for what, entry in (("refine", "refinement"), ("adaptation", "guidance")):
        if what in options:
            spent = session.ledger.entries.get(entry, 0.0)
            table[f"cost.{entry}"] = np.full(len(recipes), spent / len(recipes))
    return by_noise(table, len(recipes))


def measure_choices(
    pipe: Any, prompt: str, recipes: Sequence[NoiseRecipe], options: Mapping[str, Any]
) -> list[Row]:
    """One row per noise: what `seedbed.generate` makes where it may choose, from a seed of that noise's own.

    Option `choose` has its arguments (`acquisition`, `candidates`, `verifier`, `prior`, `refine`); where
    neither function nor verifier chooses, the seed's first noise is taken. `verifier` judges the finished
    video, whatever chose it; `metrics` and `call` as in `measure_noises`. `cost.generation` is all that was
    spent.

    Raises:
        BadInput: an option that is unknown or missing, or whose value cannot be used.
    """
    verifier, call = _judge(options, {"call", "choose", "metrics", "verifier"}), options.get("call", {})
    text = judged_text(verifier, Session(pipe, prompt, **call))
    chosen = dict(options.get("choose", {}))
    if not {"acquisition", "verifier"} & set(chosen):  # nothing that chooses
        chosen |= {"acquisition": "random", "candidates": 1}
    rows = []
    for recipe in recipes:
        # Pools of two noises of one prompt have no candidate in common, nor have those of two prompts.
        seed = recipe.seed * 1000 + recipe.candidate
        made = generate(pipe, prompt, seed=seed, progress=False, call=call, **chosen)
        row = {
            f"outcome.{key}": float(values[0])
            for key, values in judged(verifier, [made.frames], text).items()
        }
        if options.get("metrics"):
            row |= {f"outcome.{key}": float(values[0]) for key, values in look([made.frames]).items()}
        rows.append(row | {"cost.generation": made.selection.ledger.total})
    return rows


def by_noise(table: Mapping[str, np.ndarray[Any, Any]], noises: int) -> list[Row]:
    return [{name: float(values[i]) for name, values in table.items()} for i in range(noises)]


# Some verifiers are models: loaded once, not for every prompt.
_loaded = lru_cache(maxsize=1)(resolve)


def _judge(options: Mapping[str, Any], known: set[str]) -> Verifier:
    """The verifier of a task's options, which are all among the known ones."""
    if unknown := sorted(set(options) - known):
        raise BadInput(f"there is no option {shown(unknown[0])}: use {', '.join(sorted(known))}")
    if "verifier" not in options:
        raise BadInput("the option verifier is missing: say what judges the videos")
    given = options["verifier"]
    return (_loaded if isinstance(given, str) else resolve)(given)


def tables(rows: Sequence[Row]) -> list[Table]:
    """What the seed decides on each model, and what each signal is worth: see `evidence.judge_signals`."""
    best: list[list[Any]] = []
    seeds: list[list[Any]] = []
    worth = []
    for model, evidence in groups(rows).items():
        truth = evidence.outcome()
        nfe = float(np.mean(evidence.columns.get("cost.generation", np.nan)))
        random, oracle = statistics.random(truth), statistics.oracle(truth)
        means = [statistics.bootstrap(values) for values in (random, oracle, oracle - random)]
        seeds.append([model, *truth.shape, nfe, *means])
        best += [
            [model, n, n * nfe, statistics.bootstrap(statistics.best_of(truth, truth, n))]
            for n in range(1, truth.shape[1] + 1)
        ]
        if names := evidence.names():
            title = f"{model}: what each signal is worth"
            worth.append(signal_table(title, judge_signals(evidence, names)))
    return [
        Table(
            "What the seed decides",
            ["model", "prompts", "noises", "NFE", "random", "best of all", "gap"],
            seeds,
            "Verifier's score and what one video costs; 95 % intervals, bootstrap over prompts.",
        ),
        Table(
            "Best of n by the verifier",
            ["model", "n", "NFE", "score"],
            best,
            "Expected score of the best of n finished videos, and what they cost; 95 % intervals.",
        ),
        *compared(rows),
        *worth,
    ]


def differences(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each model every method minus its first, on the same noises; of the first the values themselves.

    Of a method: "evaluations", its NFE; "score" and the metrics that were measured beside it; "order",
    Spearman of its scores with the first's within prompts; "choice", what the noise that it likes best gains
    with the first over a random one. A method of an unfinished run is left out.
    """
    methods: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        methods.setdefault(row["model"], {}).setdefault(row["method"], []).append(row)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for model, some in methods.items():
        columns = {method: Evidence.of(own).columns for method, own in some.items()}
        first, plain = next(iter(columns.items()))
        names = [n for n in (OUTCOME, *(f"outcome.{metric}" for metric in METRICS)) if n in plain]
        found[model] = {}
        for method, own in columns.items():
            if own.get(OUTCOME, np.empty(0)).shape != plain[OUTCOME].shape:
                continue
            values = {n: own[n] - (0 if method == first else plain[n]) for n in names if n in own}
            pair = own[OUTCOME], plain[OUTCOME]
            found[model][method] = {
                "evaluations": float(sum(own[n].mean() for n in _PRICES if n in own)),
                **{n.partition(".")[2]: statistics.bootstrap(each.mean(1)) for n, each in values.items()},
                "order": statistics.bootstrap(statistics.within(*pair)),
                "choice": statistics.bootstrap(statistics.gain(*pair)),
            }
    return found


def compared(rows: Sequence[Row]) -> list[Table]:
    """The tables of `differences`."""
    tables = []
    for model, lines in differences(rows).items():
        first, plain = next(iter(lines.items()))
        if len(lines) > 1:
            title = f"{model}: every method minus {first}" if model else f"Every method minus {first}"
            note = (
                f"Of {first} the values themselves. Order: Spearman with {first} within prompts. Choice: "
                f"what the noise that a method likes best gains with {first} over a random one. Same noises; "
                "95 % intervals, bootstrap over prompts."
            )
            cells = [[method, *(line.get(name) for name in plain)] for method, line in lines.items()]
            tables.append(Table(title, ["method", "NFE", *[*plain][1:]], cells, note))
    return tables
