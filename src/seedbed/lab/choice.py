"""From measured signals to a choice: what each of them is worth, ANSE's depths, and a learned predictor."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seedbed import statistics
from seedbed.acquisition import Acquisition, AttentionScore, Learned, Random, RolloutScore
from seedbed.acquisition.learned import fit
from seedbed.files import write_bytes_atomically
from seedbed.lab.evidence import Evidence, Verdict, depth_of, evaluations, judge_signals
from seedbed.lab.presentation import Table, cell_text, document, signal_table
from seedbed.selection.profile import Finding, Profile
from seedbed.statistics import Array, Interval

# After t = T, a choice is worth its price if a pool of so many costs no more than one generation.
POOL = 10
LEVEL = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """What `calibrate` found.

    Attributes:
        profile: the choice, its evidence and the learned predictor, as `select(acquisition=...)` takes it.
        evidence: all signals and outcomes, (prompts, noises) each.
        verdicts: on every signal, p-values adjusted for all of them; those on `learned` signals come from the
            held-out prompts alone.
        depths: for each acquisition function, `seedbed.lab.evidence.depth_of`.
        tested: the prompts that the learned predictors were tested on; they were fitted on the others.
    """

    profile: Profile
    evidence: Evidence = field(repr=False)
    verdicts: tuple[Verdict, ...]
    depths: dict[str, dict[str, Any]]
    tested: tuple[int, ...]

    def __repr__(self) -> str:
        prompts, noises = self.evidence.outcome().shape
        return f"<Calibration: {self.profile.acquisition.name}, on {prompts} prompts x {noises} noises>"

    @property
    def random(self) -> Interval:
        """Outcome of a random noise."""
        return statistics.bootstrap(statistics.random(self.evidence.outcome()))

    @property
    def oracle(self) -> Interval:
        """Outcome of the best noise of each prompt's pool: what a perfect choice would bring."""
        return statistics.bootstrap(statistics.oracle(self.evidence.outcome()))

    @property
    def table(self) -> Table:
        """Every signal, largest gain first."""
        return signal_table(
            "What each signal is worth", sorted(self.verdicts, key=lambda verdict: -verdict.gain.mean)
        )

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page: the choice, the table and ANSE's depths.

        Raises:
            BadInput: a path that cannot be written.
        """
        about = self.profile.calibrated
        facts = {
            "choice": self.profile.acquisition.name,
            "a random noise": cell_text(self.random),
            "the best of the pool": cell_text(self.oracle),
            "prompts": str(about["prompts"]),
            "noises of each": str(about["noises"]),
            "seed": str(about["seed"]),
            "verifier": about["verifier"],
            "model": about["model"] or "built in memory",
            "call": ", ".join(f"{name}={value}" for name, value in about["call"].items()),
        }
        lead = f"{self.profile.why[0].upper()}{self.profile.why[1:]}."
        depths = Table(
            "Depths at which a score may stop",
            ("function", "correlates with", "d*", "pooled at d*", "within at d*"),
            [
                [name, what, depth, *(depth and rules[key][kind][depth - 1] for kind in ("pooled", "within"))]
                for name, rules in self.depths.items()
                for what, key in (("the score of all layers", "full_score"), ("the outcome", "quality"))
                for depth in [rules[key]["depth"]]
            ],
            "d*: the first layer down to which the mean correlates by 0.7 in size, pooled over prompts as "
            "published; and the correlation within prompts there.",
        )
        page = document("Calibration", lead, facts, [self.table, depths])
        return write_bytes_atomically(path, page.encode())


def conclude(evidence: Evidence, functions: Mapping[str, Acquisition], seed: int = 0) -> Calibration:
    """Judge every signal of an evidence, and make a profile of what is best.

    Args:
        evidence: as `seedbed.lab.measurement.measured` names its columns.
        functions: the acquisition functions among its signals at t = T, by their labels; over all layers.
        seed: of the split into fitted and tested prompts.
    """
    # What `select` could follow, by the name of its signal.
    able = {f"0/{name}": function for name, function in functions.items()}
    order = np.random.default_rng(seed).permutation(len(evidence.prompts))
    fitted, tested = (tuple(sorted(part.tolist())) for part in np.array_split(order, 2))
    pairs = {name: (name, f"{name}.again") for name in able if f"{name}.again/0" in evidence.columns}
    learned: dict[str, Learned] = {}
    totals: dict[str, Array] = {}
    for step in sorted({int(name.partition("/")[0]) for name in evidence.names()}):
        name = f"{step}/learned"
        # Two predictors from different prompts say how much of a ranking is the fit's own chance.
        pairs[name] = (f"{name}.a", f"{name}.b")
        parts = (fitted, fitted[0::2], fitted[1::2])
        names = feature_names(evidence, step, functions)
        for twin, prompts in zip((name, *pairs[name]), parts, strict=True):
            some = evidence.subset(prompts)
            weights = fit(np.stack([some.columns[n] for n in names], axis=-1), some.outcome()).weights
            named = zip(names, weights, strict=True)
            predictor = Learned(coefficients={n.partition("/")[2]: float(w) for n, w in named}, step=step)
            signals = {n: evidence.columns[f"{step}/{n}"][list(tested)] for n in predictor.coefficients}
            totals[twin] = predictor.total(signals)
            if twin == name:
                learned[name] = predictor

    tried = Evidence(evidence.prompts, dict(evidence.columns))
    depths: dict[str, dict[str, Any]] = {}
    for name, function in functions.items():
        if not isinstance(function, AttentionScore):
            continue
        depths[name] = depth_of(evidence, f"0/{name}")
        depth = depths[name]["full_score"]["depth"]
        if depth is not None and depth < evidence.layers:
            truncated = f"0/{name}, depth {depth}"
            tried.columns[truncated] = evidence.signal(f"0/{name}", depth)
            able[truncated] = replace(function, depth=depth)

    held_out = tried.subset(tested)
    held_out.columns.update(totals)
    able |= learned
    verdicts = judge_signals(tried, tried.names(), pairs) + judge_signals(held_out, list(learned), pairs)
    adjusted = statistics.holm([verdict.p for verdict in verdicts])
    verdicts = [
        replace(verdict, adjusted=float(p), evaluations=_price(verdict.signal, evidence, able))
        for verdict, p in zip(verdicts, adjusted, strict=True)
    ]
    return Calibration(_choose(verdicts, able, tried, held_out), evidence, tuple(verdicts), depths, tested)


def feature_names(evidence: Evidence, step: int, functions: Collection[str]) -> list[str]:
    """The signals at a step that a learned predictor may use: those that `Learned` reads for itself."""
    signals = {name for name in evidence.names() if name.startswith(f"{step}/") and "/judge." not in name}
    signals -= {f"{step}/{name}" for name in functions if name != "entropy"}
    return [name for name in evidence.columns if "/".join(name.split("/")[:2]) in signals]


def _price(name: str, evidence: Evidence, able: Mapping[str, Acquisition]) -> float:
    """What one candidate costs until a signal is known, in full conditional forwards.

    Attention that `select` reads stops after its last layer; a learned choice and the predictions need whole
    guided steps.
    """
    function = able.get(name)
    if function is None or isinstance(function, RolloutScore):
        return evaluations(name, float(evidence.columns["cost.step"].mean()))
    if not isinstance(function, AttentionScore):
        return 0.0
    share = 1.0 if function.depth is None else function.depth / evidence.layers
    return function.copies * (function.steps - 1 + share)


def _choose(
    verdicts: Sequence[Verdict], able: Mapping[str, Acquisition], evidence: Evidence, held_out: Evidence
) -> Profile:
    """The profile of the best that `select` could follow; random where nothing is."""

    def merit(verdict: Verdict) -> tuple[float, float]:
        """Gain on the prompts that judge the learned ones too, then cheapness."""
        gains = statistics.gain(held_out.signal(verdict.signal), held_out.outcome(), verdict.prefer)
        return float(gains.mean()), -verdict.evaluations

    generation = float(evidence.columns["cost.generation"].mean())
    known = [
        verdict
        for verdict in verdicts
        if verdict.signal in able
        # A profile names functions of seedbed, none of the caller's own.
        and type(able[verdict.signal]).__module__.startswith("seedbed.")
        and (verdict.signal.startswith("0/") or POOL * verdict.evaluations <= generation)
    ]
    # Better than chance: the correlation, corrected, and the gain, both for one end.
    sure = [
        verdict
        for verdict in known
        if verdict.adjusted < LEVEL
        and verdict.gain.low > 0
        and (verdict.within.mean > 0) == (verdict.prefer == "high")
    ]
    best = max(sure or known, key=merit)
    outcome, tested = evidence.outcome(), len(held_out.prompts)
    lines = tuple(
        Finding(
            signal=verdict.signal.partition("/")[2],
            step=int(verdict.signal.partition("/")[0]),
            prefer=prefer,
            gain=_numbers(verdict.low if prefer == "low" else verdict.high),
            share=_numbers(verdict.share) if prefer == verdict.prefer else (None, None, None),
            within=_numbers(verdict.within),
            reliability=_numbers(verdict.reliability)[0] if verdict.reliability else None,
            p=verdict.adjusted,
            nfe=verdict.evaluations,
            prompts=tested if verdict.learned else len(outcome),
        )
        for verdict in verdicts
        for prefer in ("high", "low")
    )
    on = f"{len(outcome)} prompts x {outcome.shape[1]} noises, {len(verdicts)} signals tried"
    gain = f"{best.gain.mean:+.3f} [{best.gain.low:+.3f}, {best.gain.high:+.3f}]"
    # The predictor that `select` may be asked for: the one that is chosen, else the one that needs least.
    cheapest = min((f for f in able.values() if isinstance(f, Learned)), key=lambda each: each.step)
    if not sure:
        why = (
            f"no choice without a verifier is better than chance for sure ({on}): the best, {best.signal}, "
            f"gained {gain}, p {best.adjusted:.2g}"
        )
        return Profile(Random(), why, cheapest, evidence=lines)
    function = able[best.signal]
    where = f" on {tested} held-out prompts" if best.learned else ""
    why = (
        f"{best.signal} gained {gain} over a random noise, {best.share.mean:.0%} of the way to "
        f"the best noise{where}, p {best.adjusted:.2g} ({on})"
    )
    if best.prefer != function.better:
        function = replace(function, prefer=best.prefer)
    learned = function if isinstance(function, Learned) else cheapest
    return Profile(function, why, learned, evidence=lines)


def _numbers(interval: Interval) -> tuple[float | None, float | None, float | None]:
    """None for what could not be computed."""
    mean, low, high = (None if np.isnan(value) else value for value in interval)
    return mean, low, high
