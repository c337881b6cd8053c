"""From measured rows to answers: which signal chooses well, how surely, at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.statistics import Array, Interval, Prefer

OUTCOME = "outcome.score"


@dataclass(frozen=True)
class Evidence:
    """What was measured on one model.

    Attributes:
        prompts: (prompts,) texts.
        columns: name to (prompts, noises) float64; noises in the order of their seeds and candidates. Numbers
            that not every row has are left out.
    """

    prompts: tuple[str, ...]
    columns: dict[str, Array]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], model: str | None = None) -> Evidence:
        """The rows of one model, as `lab.Store.rows` gives them.

        Raises:
            BadInput: no row of that model, or prompts with different numbers of noises.
        """
        kept = [row for row in rows if model is None or row["model"] == model]
        if not kept:
            raise BadInput(f"there is no row of the model {model!r}" if model else "there are no rows")
        by_prompt: dict[str, dict[tuple[int, int], Mapping[str, Any]]] = {}
        for row in kept:
            by_prompt.setdefault(row["prompt"], {})[row["seed"], row["candidate"]] = row
        ordered = [[some[noise] for noise in sorted(some)] for some in by_prompt.values()]
        if len({len(pool) for pool in ordered}) > 1:
            raise BadInput("the prompts have different numbers of noises: finish the run first")
        names = [n for n in kept[0] if all(isinstance(row.get(n), float) for row in kept)]
        columns = {n: np.array([[row[n] for row in pool] for pool in ordered], np.float64) for n in names}
        return cls(tuple(by_prompt), columns)

    def outcome(self, name: str = OUTCOME) -> Array:
        """(prompts, noises) of the finished videos."""
        return self.columns[name]

    def subset(self, prompts: Sequence[int]) -> Evidence:
        """What was measured on these prompts, by their numbers."""
        columns = {name: values[list(prompts)] for name, values in self.columns.items()}
        return Evidence(tuple(self.prompts[i] for i in prompts), columns)

    @property
    def layers(self) -> int:
        """How many attention layers were seen."""
        return 1 + max((int(n.split("/")[2]) for n in self.columns if n.count("/") == 2), default=-1)

    def signal(self, name: str, layers: Sequence[int] | None = None) -> Array:
        """A signal by its name without the layer, `0/entropy`: its mean over `layers`, None for all."""
        if name in self.columns:
            return self.columns[name]
        wanted = range(self.layers) if layers is None else layers
        try:
            return np.asarray(np.mean([self.columns[f"{name}/{layer}"] for layer in wanted], axis=0))
        except KeyError:
            raise BadInput(f"there is no signal {name}: it was not measured") from None

    def names(self) -> list[str]:
        """Every signal, without its layer, in the order of measuring; halves are left out."""
        names = ["/".join(n.split("/")[:2]) for n in self.columns if "/" in n]
        return [n for n in dict.fromkeys(names) if not n.endswith((".even", ".odd"))]


@dataclass(frozen=True)
class Verdict:
    """How well one signal chooses among all noises of a prompt.

    Attributes:
        signal: as `Evidence.signal` reads it.
        evaluations: of one candidate, until the signal is known.
        within: Spearman with the outcome within prompts; `constant` prompts have none.
        p: of `within`, two-sided, by permutation; `adjusted` for all signals of the table, by Holm.
        low, high: outcome of the candidate with the lowest or highest signal minus the mean outcome.
        share: the gain at the preferred end over the gap between random and oracle.
        reliability: within-prompt Spearman of two independent estimates of the signal, if there are two.
    """

    signal: str
    evaluations: float
    within: Interval
    constant: int
    p: float
    adjusted: float
    low: Interval
    high: Interval
    share: Interval
    reliability: Interval | None

    @property
    def learned(self) -> bool:
        """Whether the signal is a predictor, which was fitted on other prompts than it is judged on."""
        return self.signal.endswith("/learned")

    @property
    def prefer(self) -> Prefer:
        """The end with the larger gain; what was learned to be high is followed there."""
        return "low" if self.low.mean > self.high.mean and not self.learned else "high"

    @property
    def gain(self) -> Interval:
        """The gain at that end."""
        return self.low if self.prefer == "low" else self.high


def judge_signals(
    evidence: Evidence,
    signals: Sequence[str],
    pairs: Mapping[str, tuple[str, str]] | None = None,
    outcome: str = OUTCOME,
) -> list[Verdict]:
    """A verdict on each signal, p-values adjusted for all of them.

    Args:
        pairs: two independent estimates of a signal, by its name; those from the even and the odd rows are
            found without.
    """
    truth = evidence.outcome(outcome)
    values = np.stack([evidence.signal(name) for name in signals])
    p = statistics.permutation(values, truth)
    adjusted = statistics.holm(p)
    verdicts = []
    for i, name in enumerate(signals):
        low, high = (statistics.gain(values[i], truth, prefer) for prefer in ("low", "high"))
        preferred = low if low.mean() > high.mean() and not name.endswith("/learned") else high
        within = statistics.within(values[i], truth)
        two = (pairs or {}).get(name, (f"{name}.even", f"{name}.odd"))
        known = all(half in evidence.columns or f"{half}/0" in evidence.columns for half in two)
        verdicts.append(
            Verdict(
                signal=name,
                evaluations=evaluations(name),
                within=statistics.bootstrap(within),
                constant=int(np.isnan(within).sum()),
                p=float(p[i]),
                adjusted=float(adjusted[i]),
                low=statistics.bootstrap(low),
                high=statistics.bootstrap(high),
                share=statistics.share(preferred, truth),
                reliability=statistics.bootstrap(
                    statistics.reliability(*(evidence.signal(half) for half in two))
                )
                if known
                else None,
            )
        )
    return verdicts


def evaluations(signal: str, guided: float = 2) -> float:
    """What one candidate costs until a signal is known; `guided` is the price of a denoising step.

    Attention is read in the conditional half of the next evaluation; x0-hat, the guidance gap and predictors
    learned from them need both.
    """
    step, _, statistic = signal.partition("/")
    both = statistic.startswith(("judge.", "x0_", "guidance_gap", "learned"))
    return guided * int(step) + (guided if both else 1)


def depth_of(evidence: Evidence, name: str, tau: float = 0.7) -> dict[str, Any]:
    """ANSE's truncation depth d* by both published rules, and what it is within prompts (arXiv 2505.17561).

    `full_score`: Pearson correlation of the mean over layers <= d with the mean over all layers; `quality`:
    of the mean over layers <= d with the outcome, in size. Each pooled over prompts and noises as published,
    and within prompts, as a user chooses. d* is the smallest d at or above `tau`.

    Returns:
        rule -> {"pooled": (layers,), "within": (layers,), "depth": d* of the pooled one or None}.
    """
    truth = evidence.outcome()
    partial = [evidence.signal(name, range(d + 1)) for d in range(evidence.layers)]
    result = {}
    for rule, target in (("full_score", partial[-1]), ("quality", truth)):
        pooled = [_pearson(p.ravel(), target.ravel()) for p in partial]
        inside = [_pearson(_centred(p), _centred(target)) for p in partial]
        reached = [d + 1 for d, r in enumerate(pooled) if abs(r) >= tau]
        result[rule] = {"pooled": pooled, "within": inside, "depth": reached[0] if reached else None}
    return result


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(1, keepdims=True)).ravel()


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else math.nan
