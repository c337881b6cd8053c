"""From measured signals to a choice: what each of them is worth, ANSE's depths, and a learned predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.evidence import Evidence, Verdict, depth_of, evaluations, judge_signals
from seedbed.lab.replays import best_halving, cost, crossed_gain
from seedbed.lab.statistics import Array, Interval
from seedbed.selection.acquisitions import Acquisition, Prefer
from seedbed.selection.predictor import Learned, fit
from seedbed.selection.profile import Finding, Preview, Profile
from seedbed.selection.random import Random

# After t = T, a choice is worth its price if a pool of so many costs no more than one generation.
POOL = 10
LEVEL = 0.05
TAU = 0.7
# Of a schedule of previews, in plain generations.
BUDGET = 3.0

# What `select` could follow: a function, and the depth down to which it reads; by the name of its signal.
_Options = dict[str, tuple[Acquisition, int | None]]


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything a calibration found.

    Attributes:
        profile: the choice with its evidence.
        verdicts: on every signal, p-values adjusted for all of them; those on `learned` signals come from the
            held-out prompts alone.
        depths: for each acquisition function, `seedbed.lab.evidence.depth_of`.
        fitted, tested: the prompts that the learned predictors were fitted and tested on.
    """

    profile: Profile
    verdicts: tuple[Verdict, ...]
    depths: dict[str, dict[str, Any]]
    fitted: tuple[int, ...]
    tested: tuple[int, ...]


def findings(evidence: Evidence, functions: Mapping[str, Acquisition], seed: int = 0) -> Findings:
    """Judge every signal of an evidence, and make a profile of what is best.

    Args:
        evidence: as `seedbed.lab.measurement.measured` names its columns.
        functions: the acquisition functions among its signals at t = T, by their labels.
        seed: of the split into fitted and tested prompts.
    """
    options: _Options = {f"0/{name}": (function, None) for name, function in functions.items()}
    order = np.random.default_rng(seed).permutation(len(evidence.prompts))
    fitted, tested = (tuple(sorted(part.tolist())) for part in np.array_split(order, 2))
    again = {f"0/{name}": (f"0/{name}", f"0/{name}.again") for name in functions}
    pairs = {name: pair for name, pair in again.items() if f"{pair[1]}/0" in evidence.columns}
    learned: dict[str, Learned] = {}
    totals: dict[str, Array] = {}
    for step in sorted({int(name.partition("/")[0]) for name in evidence.names()}):
        features = feature_names(evidence, step, functions)
        name = f"{step}/learned"
        # Two predictors from different prompts say how much of a ranking is the fit's own chance.
        pairs[name] = (f"{name}.a", f"{name}.b")
        parts = (fitted, fitted[0::2], fitted[1::2])
        for twin, prompts in zip((name, *pairs[name]), parts, strict=True):
            predictor = _learn(evidence.subset(prompts), features)
            signals = {n: evidence.columns[f"{step}/{n}"][list(tested)] for n in predictor.coefficients}
            totals[twin] = predictor.total(signals)
            if twin == name:
                learned[name] = predictor
                options[name] = (predictor, None)

    evidence = Evidence(evidence.prompts, dict(evidence.columns))
    depths: dict[str, dict[str, Any]] = {}
    for name, function in functions.items():
        if not function.uses_attention:
            continue
        depths[name] = depth_of(evidence, f"0/{name}", TAU)
        depth = depths[name]["full_score"]["depth"]
        if depth is not None and depth < evidence.layers:
            truncated = f"0/{name}, depth {depth}"
            evidence.columns[truncated] = evidence.signal(f"0/{name}", range(depth))
            options[truncated] = (function, depth)

    held_out = evidence.subset(tested)
    held_out.columns.update(totals)
    names = [n for n in evidence.names() if "/judge." not in n or n.endswith("/judge.score")]
    verdicts = judge_signals(evidence, [n for n in names if not n.endswith(".again")], pairs)
    verdicts += judge_signals(held_out, list(learned), pairs)
    adjusted = statistics.holm([verdict.p for verdict in verdicts])
    verdicts = [
        replace(verdict, adjusted=float(p), evaluations=_price(verdict.signal, evidence, options))
        for verdict, p in zip(verdicts, adjusted, strict=True)
    ]
    profile = _choose(verdicts, options, evidence, held_out)
    if not isinstance(profile.acquisition, Learned):
        profile = replace(profile, learned=min(learned.values(), key=lambda predictor: predictor.step))
    return Findings(profile, tuple(verdicts), depths, fitted, tested)


def feature_names(evidence: Evidence, step: int, functions: Mapping[str, Any]) -> list[str]:
    """The signals at a step that a learned predictor may use: those that `Learned` reads for itself."""
    names = []
    for name in evidence.columns:
        at, _, signal = name.partition("/")
        statistic = signal.partition("/")[0]
        ours = statistic not in functions or statistic == "entropy"
        if at == str(step) and ours and not statistic.endswith((".even", ".odd", ".again")):
            names += [] if statistic.startswith("judge.") else [name]
    return names


def _learn(evidence: Evidence, features: Sequence[str]) -> Learned:
    """Ridge coefficients, the strength by cross-validation over the prompts."""
    weights = fit(
        np.stack([evidence.columns[name] for name in features], axis=-1), evidence.outcome()
    ).weights
    step = int(features[0].partition("/")[0])
    return Learned(
        {name.partition("/")[2]: float(w) for name, w in zip(features, weights, strict=True)}, step
    )


def _price(name: str, evidence: Evidence, options: _Options) -> float:
    """What one candidate costs until a signal is known, in full conditional forwards.

    Attention that `select` reads stops after its last layer; a learned choice and the predictions need whole
    guided steps.
    """
    function, depth = options.get(name, (None, None))
    if function is None or function.foresees:
        return evaluations(name, float(evidence.columns["cost.step"].mean()))
    share = 1.0 if depth is None else depth / evidence.layers
    return function.copies * (function.steps - 1 + share) if function.uses_attention else 0.0


def _choose(
    verdicts: Sequence[Verdict], options: _Options, evidence: Evidence, held_out: Evidence
) -> Profile:
    """The profile of the best that `select` could follow; random where nothing is."""

    def merit(verdict: Verdict) -> tuple[float, float]:
        """Gain on the prompts that judge the learned ones too, then cheapness."""
        gains = statistics.gain(held_out.signal(verdict.signal), held_out.outcome(), verdict.prefer)
        return float(gains.mean()), -verdict.evaluations

    generation = float(evidence.columns["cost.generation"].mean())
    able = [
        verdict
        for verdict in verdicts
        if verdict.signal in options
        # A profile names functions of seedbed, none of the caller's own.
        and type(options[verdict.signal][0]).__module__.startswith("seedbed.")
        and (verdict.signal.startswith("0/") or POOL * verdict.evaluations <= generation)
    ]
    sure = [verdict for verdict in able if is_sure(verdict)]
    best = max(sure or able, key=merit)
    outcome, tested = evidence.outcome(), len(held_out.prompts)
    lines = tuple(
        _finding(verdict, prefer, tested if verdict.learned else len(outcome))
        for verdict in verdicts
        for prefer in ("high", "low")
    )
    on = f"{len(outcome)} prompts x {outcome.shape[1]} noises, {len(verdicts)} signals tried"
    gain = f"{best.gain.mean:+.3f} [{best.gain.low:+.3f}, {best.gain.high:+.3f}]"
    if not sure:
        why = (
            f"no choice without a verifier is better than chance for sure ({on}): the best, {best.signal}, "
            f"gained {gain}, p {best.adjusted:.2g}"
        )
        return Profile(Random(), None, None, None, why, None, None, lines)
    function, depth = options[best.signal]
    where = f" on {tested} held-out prompts" if best.learned else ""
    why = (
        f"{best.signal} gained {gain} over a random noise, {best.share.mean:.0%} of the way to "
        f"the best noise{where}, p {best.adjusted:.2g} ({on})"
    )
    learned = function if isinstance(function, Learned) else None
    return Profile(function, best.prefer, None, depth, why, learned, None, lines)


def previewing(evidence: Evidence, verifier: str) -> Preview | None:
    """The schedule of previews that does best for three generations' cost; None where none is sure to gain.

    Chosen on all prompts; the gain that `why` tells is that of schedules chosen on the other half of them.
    """
    steps = round(float(evidence.columns["cost.generation"].mean() / evidence.columns["cost.step"].mean()))
    try:
        gains, _ = crossed_gain(evidence, BUDGET, steps=steps)
    except BadInput:  # too few steps were looked at to make a schedule of that cost
        return None
    gain, share = statistics.bootstrap(gains), statistics.share(gains, evidence.outcome())
    if not gain.low > 0:
        return None
    best = best_halving(evidence, BUDGET, steps=steps)
    prompts, noises = evidence.outcome().shape
    why = (
        f"previews gained {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over a random noise at "
        f"{cost(best.schedule, best.candidates, steps):.2g} generations' cost, {share.mean:.0%} of the way "
        f"to the best noise ({prompts} prompts x {noises} noises)"
    )
    return Preview(best.schedule, verifier, best.candidates, why)


def is_sure(verdict: Verdict) -> bool:
    """Whether a signal is better than chance: its correlation, corrected, and its gain, both for one end."""
    agrees = (verdict.within.mean > 0) == (verdict.prefer == "high")
    return verdict.adjusted < LEVEL and verdict.gain.low > 0 and agrees


def _finding(verdict: Verdict, prefer: Prefer, prompts: int) -> Finding:
    step, _, signal = verdict.signal.partition("/")
    return Finding(
        signal=signal,
        step=int(step),
        prefer=prefer,
        gain=_numbers(verdict.low if prefer == "low" else verdict.high),
        share=_numbers(verdict.share) if prefer == verdict.prefer else (None, None, None),
        within=_numbers(verdict.within),
        reliability=_numbers(verdict.reliability)[0] if verdict.reliability else None,
        p=verdict.adjusted,
        nfe=verdict.evaluations,
        prompts=prompts,
    )


def _numbers(interval: Interval) -> tuple[float | None, float | None, float | None]:
    """None for what could not be computed."""
    mean, low, high = (None if np.isnan(value) else value for value in interval)
    return mean, low, high
