"""From measured signals to a choice: what each of them is worth, ANSE's depths, and a learned predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seedbed.errors import BadInput
from seedbed.lab import schedules, statistics
from seedbed.lab.evidence import Evidence, Verdict, depth_of, judge_signals
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


@dataclass(frozen=True)
class _Option:
    """A signal that `select` could follow."""

    acquisition: Acquisition
    depth: int | None = None


def findings(evidence: Evidence, functions: Mapping[str, Acquisition], seed: int = 0) -> Findings:
    """Judge every signal of an evidence, and make a profile of what is best.

    Args:
        evidence: as `seedbed.lab.calibration.measured` names its columns.
        functions: the acquisition functions among its signals at t = T, by their labels.
        seed: of the split into fitted and tested prompts.
    """
    options = {f"0/{name}": _Option(function) for name, function in functions.items()}
    order = np.random.default_rng(seed).permutation(len(evidence.prompts))
    fitted, tested = (tuple(sorted(part.tolist())) for part in np.array_split(order, 2))
    outcomes = {n: v[list(tested)] for n, v in evidence.columns.items() if n.startswith("outcome.")}
    held_out = Evidence(tuple(evidence.prompts[i] for i in tested), outcomes)
    again = {f"0/{name}": (f"0/{name}", f"0/{name}.again") for name in functions}
    pairs = {name: pair for name, pair in again.items() if f"{pair[1]}/0" in evidence.columns}
    learned: dict[str, Learned] = {}
    for step in sorted({int(name.partition("/")[0]) for name in evidence.names()}):
        features = feature_names(evidence, step, functions)
        name = f"{step}/learned"
        learned[name] = learn(evidence, features, fitted)
        options[name] = _Option(learned[name])
        held_out.columns[name] = _totals(evidence, learned[name], tested)
        # Two predictors from different prompts say how much of a ranking is the fit's own chance.
        pairs[name] = (f"{name}.a", f"{name}.b")
        for half, twin in enumerate(pairs[name]):
            held_out.columns[twin] = _totals(evidence, learn(evidence, features, fitted[half::2]), tested)

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
            options[truncated] = _Option(function, depth)

    others = [n for n in evidence.names() if "/judge." in n and not n.endswith("/judge.score")]
    judged = [n for n in evidence.names() if n not in others and not n.endswith(".again")]
    verdicts = judge_signals(evidence, judged, pairs)
    for verdict in judge_signals(held_out, list(learned), pairs):
        # What was learned to be high is followed there, also where the low end happens to do better.
        gains = statistics.gain(held_out.signal(verdict.signal), held_out.outcome())
        verdicts.append(replace(verdict, share=statistics.share(gains, held_out.outcome())))
    adjusted = statistics.holm([verdict.p for verdict in verdicts])
    verdicts = [
        replace(verdict, adjusted=float(p), evaluations=price(verdict.signal, evidence, options))
        for verdict, p in zip(verdicts, adjusted, strict=True)
    ]
    return Findings(
        profile=choose(verdicts, options, learned, evidence, held_out, tested),
        verdicts=tuple(verdicts),
        depths=depths,
        fitted=fitted,
        tested=tested,
    )


def feature_names(evidence: Evidence, step: int, functions: Mapping[str, Acquisition]) -> list[str]:
    """The signals at a step that a learned predictor may use: those that `Learned` reads for itself."""
    names = []
    for name in evidence.columns:
        at, _, signal = name.partition("/")
        statistic = signal.partition("/")[0]
        ours = statistic not in functions or statistic == "entropy"
        if at == str(step) and ours and not statistic.endswith((".even", ".odd", ".again")):
            names += [] if statistic.startswith("judge.") else [name]
    return names


def learn(evidence: Evidence, features: Sequence[str], prompts: Sequence[int]) -> Learned:
    """Ridge coefficients fitted on these prompts, the strength by cross-validation over them."""
    rows = list(prompts)
    signals = np.stack([evidence.columns[name][rows] for name in features], axis=-1)
    weights = fit(signals, evidence.outcome()[rows]).weights
    step = int(features[0].partition("/")[0])
    return Learned(
        {name.partition("/")[2]: float(w) for name, w in zip(features, weights, strict=True)}, step
    )


def price(name: str, evidence: Evidence, options: Mapping[str, _Option]) -> float:
    """What one candidate costs until a signal is known, in full conditional forwards.

    Attention that `select` reads stops after its last layer; a learned choice and the predictions need whole
    guided steps.
    """
    step = int(name.partition("/")[0])
    guided = float(evidence.columns["cost.step"].mean())
    option = options.get(name)
    if option is not None and not option.acquisition.foresees:
        function = option.acquisition
        share = 1.0 if option.depth is None else option.depth / evidence.layers
        return function.copies * (function.steps - 1 + share) if function.uses_attention else 0.0
    attention = f"{name}/0" in evidence.columns
    return guided * step + (1.0 if attention else guided)


def choose(
    verdicts: Sequence[Verdict],
    options: Mapping[str, _Option],
    learned: Mapping[str, Learned],
    evidence: Evidence,
    held_out: Evidence,
    tested: Sequence[int],
) -> Profile:
    """The profile of the best that `select` could follow; random where nothing is."""
    outcome = evidence.outcome()

    def merit(verdict: Verdict) -> tuple[float, float]:
        """Gain on the prompts that judge the learned ones too, then cheapness."""
        values = (held_out if is_learned(verdict) else evidence).signal(verdict.signal)
        values = values if is_learned(verdict) else values[list(tested)]
        gains = statistics.gain(values, held_out.outcome(), end_of(verdict))
        return float(gains.mean()), -verdict.evaluations

    generation = float(evidence.columns["cost.generation"].mean())
    able = [
        verdict
        for verdict in verdicts
        if verdict.signal in options
        and nameable(options[verdict.signal].acquisition)
        and (verdict.signal.startswith("0/") or POOL * verdict.evaluations <= generation)
    ]
    best = max(able, key=merit)
    sure = [verdict for verdict in able if is_sure(verdict)]
    first = min(learned.values(), key=lambda predictor: predictor.step)
    lines = tuple(
        _finding(verdict, prefer, len(tested) if verdict.signal in learned else len(outcome))
        for verdict in verdicts
        for prefer in ("high", "low")
    )
    on = f"{len(outcome)} prompts x {outcome.shape[1]} noises, {len(verdicts)} signals tried"
    if not sure:
        why = (
            f"no choice without a verifier is better than chance for sure ({on}): the best, {best.signal}, "
            f"gained {_said(best)}, p {best.adjusted:.2g}"
        )
        return Profile(Random(), None, None, None, why, first, None, lines)
    winner = max(sure, key=merit)
    option = options[winner.signal]
    where = f" on {len(tested)} held-out prompts" if winner.signal in learned else ""
    why = (
        f"{winner.signal} gained {_said(winner)} over a random noise, {winner.share.mean:.0%} of the way to "
        f"the best noise{where}, p {winner.adjusted:.2g} ({on})"
    )
    if isinstance(option.acquisition, Learned):
        first = option.acquisition
    return Profile(option.acquisition, end_of(winner), None, option.depth, why, first, None, lines)


def previewing(evidence: Evidence, verifier: str) -> Preview | None:
    """The schedule of previews that does best for three generations' cost; None where none is sure to gain.

    Chosen on all prompts; the gain that `why` tells is that of schedules chosen on the other half of them.
    """
    steps = round(float(evidence.columns["cost.generation"].mean() / evidence.columns["cost.step"].mean()))
    try:
        gains, _ = schedules.crossed(evidence, BUDGET, steps=steps)
    except BadInput:  # too few steps were looked at to make a schedule of that cost
        return None
    gain, share = statistics.bootstrap(gains), statistics.share(gains, evidence.outcome())
    if not gain.low > 0:
        return None
    choice = schedules.best(evidence, BUDGET, steps=steps)
    prompts, noises = evidence.outcome().shape
    why = (
        f"previews gained {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over a random noise at "
        f"{schedules.cost(choice, steps):.2g} generations' cost, {share.mean:.0%} of the way to the best "
        f"noise ({prompts} prompts x {noises} noises)"
    )
    return Preview(choice.schedule, verifier, choice.candidates, why)


def is_sure(verdict: Verdict) -> bool:
    """Whether a signal is better than chance: its correlation, corrected, and its gain, both for one end."""
    agrees = (verdict.within.mean > 0) == (end_of(verdict) == "high")
    return verdict.adjusted < LEVEL and gain_of(verdict).low > 0 and agrees


def end_of(verdict: Verdict) -> Prefer:
    """The better end of a signal; what was learned to be high is followed there."""
    return "high" if is_learned(verdict) else verdict.prefer


def is_learned(verdict: Verdict) -> bool:
    """Whether the signal is a predictor, which was fitted on other prompts than it is judged on."""
    return verdict.signal.endswith("/learned")


def gain_of(verdict: Verdict) -> Interval:
    """The gain at that end."""
    return verdict.low if end_of(verdict) == "low" else verdict.high


def nameable(function: Acquisition) -> bool:
    """Whether a profile can hold it: a function of seedbed, not one of the caller's own."""
    return type(function).__module__.startswith("seedbed.")


def _said(verdict: Verdict) -> str:
    gain = gain_of(verdict)
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def _totals(evidence: Evidence, predictor: Learned, prompts: Sequence[int]) -> Array:
    rows = list(prompts)
    return predictor.total(
        {name: evidence.columns[f"{predictor.step}/{name}"][rows] for name in predictor.coefficients}
    )


def _finding(verdict: Verdict, prefer: Prefer, prompts: int) -> Finding:
    step, _, signal = verdict.signal.partition("/")
    return Finding(
        signal=signal,
        step=int(step),
        prefer=prefer,
        gain=_numbers(verdict.low if prefer == "low" else verdict.high),
        share=_numbers(verdict.share) if prefer == end_of(verdict) else (None, None, None),
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
