"""From the rows of the runs to the numbers of the front table: `results/MODEL.json` beside this file.

`python recipes/front/summarise.py --runs runs` reads what `seedbed lab run` made of this folder's recipes,
runs/base, runs/tuning, ..., and the rows of `seedbed calibrate`, runs/MODEL/seedbed-profile.json.rows. Parts
whose run is not there stay as they are in the results. Everything is a mean over captions with its 95 %
bootstrap interval; the seeds of what is drawn are fixed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seedbed import statistics
from seedbed.acquisition.learned import Learned, fit
from seedbed.lab.choice import feature_names
from seedbed.lab.evidence import OUTCOME, Evidence, judge_signals
from seedbed.lab.measurement import differences
from seedbed.lab.replays import crossed_gain, previewed
from seedbed.lab.work import Store
from seedbed.statistics import Array
from seedbed.verifiers.appearance import METRICS
from seedbed.worlds import shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tables import rounded

RESULTS = Path(__file__).with_name("results")
RUNS = ("base", "few", "tuning", "priors", "drafts", "late")
CANDIDATES = 10  # of a pool that is chosen from at the first step
FUNCTIONS = ("bansa", "bansa-k10")  # beside the plain signals
PAIRS = {"0/bansa-k10": ("0/bansa-k10", "0/bansa-k10.again")}
FIRST = ("0/bansa-k10", "0/bansa", "0/entropy", "0/learned")  # that count on the model of few steps
AGAIN = ("0/bansa:estimator=masked", "0/bansa", "0/entropy")  # as a calibration has them, on other captions
HALVES = {"look": ("shape", "colour"), "motion": ("motion",)}


def row(cost: float, gains: dict[str, Array], truth: Array, plain: Array, **more: Any) -> dict[str, Any]:
    """A line of the front table: cost in plain generations, gain on every number, share of the gap.

    Args:
        gains: outcome's name to (captions,) against a random noise.
        truth: (captions, noises) of the pool whose gap is shared; plain: best of 2's gain, to be paired with.
    """
    score = gains[OUTCOME]
    found = {
        "cost": cost,
        "gain": statistics.bootstrap(score),
        "share": statistics.share(score, truth),
        "minus best of 2": statistics.bootstrap(score - plain),
        **{
            name.partition(".")[2]: statistics.bootstrap(gain)
            for name, gain in gains.items()
            if name != OUTCOME
        },
        **more,
    }
    return found


def outcomes(columns: Mapping[str, Any]) -> list[str]:
    """The score, and the metrics that were measured beside it."""
    return [name for name in (OUTCOME, *(f"outcome.{metric}" for metric in METRICS)) if name in columns]


def chosen(evidence: Evidence, signal: Array, n: int, prefer: statistics.Prefer) -> dict[str, Array]:
    """What the signal's choice among n noises gains on the score and every metric, (captions,) each."""
    return {
        name: statistics.best_of(signal, evidence.columns[name], n, prefer)
        - statistics.random(evidence.columns[name])
        for name in outcomes(evidence.columns)
    }


def learned(training: Evidence, held_out: Evidence, step: int) -> tuple[Array, float]:
    """A predictor fitted on captions of the training part: its totals, (captions, noises), of held-out ones.

    Also its cross-validated gain on the training part, by which a step is chosen.
    """
    names = [n for n in feature_names(training, step, FUNCTIONS) if n in held_out.columns]
    found = fit(np.stack([training.columns[n] for n in names], axis=-1), training.outcome())
    short = [name.partition("/")[2] for name in names]
    predictor = Learned(coefficients=dict(zip(short, map(float, found.weights), strict=True)), step=step)
    totals = predictor.total({s: held_out.columns[n] for s, n in zip(short, names, strict=True)})
    return totals, float(statistics.gain(found.predicted, training.outcome()).mean())


def choosing(evidence: Evidence, training: Evidence | None) -> dict[str, Any]:
    """The lines of the front table that only choose, from the pool of `base`."""
    truth, lines = evidence.outcome(), {}
    generation, step = (float(evidence.columns[f"cost.{n}"].mean()) for n in ("generation", "step"))
    steps = round(generation / step)
    two = statistics.best_of(truth, truth, 2) - statistics.random(truth)
    for n in (2, 4):
        lines[f"best of {n}"] = row(n, chosen(evidence, truth, n, "high"), truth, two, verifier=True)
    attention = 1 + CANDIDATES / generation  # the conditional half of the first evaluation
    for name, signal in (("ANSE, as published", "0/bansa-k10"), ("ANSE, without masks", "0/bansa")):
        values = evidence.signal(signal)
        lines[name] = row(attention, chosen(evidence, values, CANDIDATES, "low"), truth, two, verifier=False)
    if training is not None:
        # At the cost of two generations: as many candidates as that allows after so many steps.
        tried = {}
        for after in (step for step in (0, 1, 2) if f"{step}/entropy" in evidence.names()):
            totals, worth = learned(training, evidence, after)
            most = int((generation + step * (after + 1)) / (step * (after + 1)))
            tried[worth] = after, totals, min(most, truth.shape[1])
        after, totals, n = tried[max(tried)]
        price = (n * step * (after + 1) + generation - step * (after + 1)) / generation
        lines[f"learned predictor, step {after + 1}"] = row(
            price, chosen(evidence, totals, n, "high"), truth, two, verifier=False
        )
    for budget in (2.0, 4.0):
        lines[f"previews, {budget:g} ×"] = row(
            budget, previews(evidence, budget, steps), truth, two, verifier=True
        )
    return lines


def previews(evidence: Evidence, budget: float, steps: int) -> dict[str, Array]:
    """What choosing by previews for the score gains on every number, on captions that chose no schedule."""
    score, schedules = crossed_gain(evidence, budget, steps=steps)
    gains = {name: -statistics.random(evidence.columns[name]) for name in outcomes(evidence.columns)[1:]}
    for half, schedule in ((1, schedules[0]), (0, schedules[1])):
        some = evidence.subset(range(half, len(evidence.prompts), 2))
        for name, values in gains.items():
            values[half::2] += previewed(some, schedule, outcome=name, draws=200, seed=1)
    return {OUTCOME: score} | gains


def by_method(rows: list[dict[str, Any]]) -> dict[str, Evidence]:
    methods: dict[str, list[dict[str, Any]]] = {}
    for each in rows:
        methods.setdefault(each["method"], []).append(each)
    return {method: Evidence.of(some) for method, some in methods.items()}


def changing(rows: list[dict[str, Any]], recipe: dict[str, Any], truth: Array) -> dict[str, Any]:
    """The lines that change the noise or search, each minus the first noise of its seed.

    The captions are those of the pool `truth`, by which best of 2 is known, or the first of them.
    """
    found = by_method(rows)
    first = next(iter(recipe["methods"]))
    plain, lines = found[first], {}
    price = float(plain.columns["cost.generation"].mean())
    pairs = statistics.best_of(truth, truth, 2) - statistics.random(truth)
    for method, each in found.items():
        if method == first:
            continue
        gains = {name: (each.columns[name] - plain.columns[name]).mean(1) for name in outcomes(plain.columns)}
        cost = float(each.columns["cost.generation"].mean()) / price
        verifier = "verifier" in json.dumps(recipe["methods"][method])
        lines[method] = row(cost, gains, truth, pairs, verifier=verifier)
    return lines


def unseen_judge(evidence: Evidence) -> dict[str, Any]:
    """Choose previews by what objects look like and judge how they move, and the other way round; 2 x."""
    steps = round(float(evidence.columns["cost.generation"].mean() / evidence.columns["cost.step"].mean()))
    columns = dict(evidence.columns)
    for start in {n.rpartition(".")[0] for n in columns if n.endswith(".motion") and n != "outcome.motion"}:
        for name, parts in HALVES.items():
            columns[f"{start}.{name}_half"] = np.mean([columns[f"{start}.{part}"] for part in parts], axis=0)
    for name, parts in HALVES.items():
        columns[f"outcome.{name}_half"] = np.mean([columns[f"outcome.{part}"] for part in parts], axis=0)
    split = Evidence(evidence.prompts, columns)
    return {
        f"chosen by {judge}, judged by {outcome}": statistics.bootstrap(
            crossed_gain(split, 2.0, steps=steps, judge=f"{judge}_half", outcome=f"outcome.{outcome}_half")[0]
        )
        for judge in HALVES
        for outcome in HALVES
    }


def by_kind(evidence: Evidence) -> dict[str, Any]:
    """Score, gap, and how often the lowest BANSA is wrong, by what the two objects have in common."""
    kinds: dict[str, list[int]] = {}
    for number, caption in enumerate(evidence.prompts):
        one, two = shapes.parse(caption)
        shared = [name for name in ("shape", "motion") if getattr(one, name) == getattr(two, name)]
        kinds.setdefault(" and ".join(shared) or "neither", []).append(number)
    found = {}
    for kind, numbers in sorted(kinds.items()):
        some = evidence.subset(numbers)
        truth, right = some.outcome(), some.columns["outcome.all_right"]
        found[kind] = {
            "captions": len(numbers),
            "random": statistics.bootstrap(statistics.random(truth)),
            "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
            "wrong": statistics.bootstrap(1 - statistics.random(right)),
            "wrong, lowest BANSA": statistics.bootstrap(
                1 - statistics.best_of(some.signal("0/bansa"), right, prefer="low")
            ),
        }
    return found


def signals(evidence: Evidence, names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "signal": v.signal,
            "evaluations": v.evaluations,
            "within": v.within,
            "p": v.adjusted,
            "low": v.low,
            "high": v.high,
            "reliability": v.reliability,
        }
        for v in judge_signals(evidence, names, PAIRS)
    ]


def pool(model: str, runs: Path, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the pool of `base`, or of `few`, says: the gap, the signals, and every way to choose from it."""
    evidence = Evidence.of(rows.get("base") or rows["few"])
    truth, cache = evidence.outcome(), runs / model / "seedbed-profile.json.rows"
    training = Evidence.of(Store(cache).rows()) if cache.exists() else None
    first = [name for name in ("entropy", "bansa", "bansa-k10") if f"0/{name}" in evidence.names()]
    made: dict[str, Any] = {}
    if rows.get(name := f"front-{model}"):
        recipe = json.loads(Store(runs / name).recipe.read_text())
        made = changing(rows[name], recipe, truth[: recipe["prompts"]["count"]])
    names = [n for n in evidence.names() if n.partition("/")[0] in ("0", "1", "2", "3", "6")]
    found = {"signals": signals(evidence, names)}
    if "few" in rows and training is not None:
        columns = evidence.columns | {"0/learned": learned(training, evidence, 0)[0]}
        found["first step"] = signals(Evidence(evidence.prompts, columns), [*FIRST])
        found["again"] = signals(training, [*AGAIN])
        # Of the layers of Wan's blocks, that of the video to itself and that to the text, in turn.
        found["attention"] = {
            f"{name}, {kind}": statistics.bootstrap(
                statistics.within(evidence.by_layer(name)[place::2].mean(0), truth)
            )
            for name in FIRST[:3]
            for place, kind in enumerate(("self", "cross"))
        }
    return {
        "captions": len(truth),
        "noises": truth.shape[1],
        "random": statistics.bootstrap(statistics.random(truth)),
        "best": statistics.bootstrap(statistics.oracle(truth)),
        "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
        "all right": statistics.bootstrap(evidence.columns["outcome.all_right"].mean(1)),
        "front": choosing(evidence, training) | made,
        "pooled": {name: pooled(evidence, f"0/{name}") for name in first},
        "unseen judge": unseen_judge(evidence),
        "kinds": by_kind(evidence),
        **found,
    }


def summary(model: str, runs: Path) -> dict[str, Any]:
    """All that the runs which are there know of a model."""
    rows = {}
    for name in (f"front-{model}", *RUNS):
        if (runs / name / "rows.jsonl").exists() and (
            own := [each for each in Store(runs / name).rows() if each["model"] == model]
        ):
            rows[name] = own
    found = pool(model, runs, rows) if "base" in rows or "few" in rows else {}
    if "late" in rows:
        late = Evidence.of(rows["late"])
        found["late"] = [
            {
                "step": step,
                "within": statistics.bootstrap(statistics.within(judged, late.outcome())),
                "gain": statistics.bootstrap(statistics.gain(judged, late.outcome())),
            }
            for step in range(100)
            if (judged := late.columns.get(f"{step}/judge.score")) is not None
        ]
    both = {name: differences(rows[name])[model] for name in ("tuning", "priors", "drafts") if name in rows}
    return found | both


def pooled(evidence: Evidence, name: str, draws: int = 2000) -> list[float]:
    """Pearson correlation with the outcome over all videos, as published; captions are resampled whole."""
    signal, truth = evidence.signal(name), evidence.outcome()
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(truth), size=len(truth)) for _ in range(draws)]
    some = [np.corrcoef(signal[each].ravel(), truth[each].ravel())[0, 1] for each in drawn]
    whole = np.corrcoef(signal.ravel(), truth.ravel())[0, 1]
    return [float(whole), *map(float, np.quantile(some, [0.025, 0.975]))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    kept = [Store(arguments.runs / name) for name in RUNS if (arguments.runs / name / "rows.jsonl").exists()]
    models = {each["model"] for store in kept for each in store.rows()}
    for model in sorted(models):
        path = RESULTS / f"{model}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        made = rounded(summary(model, arguments.runs))
        path.write_text(json.dumps(before | made, indent=1) + "\n")
        print(path, *made)
