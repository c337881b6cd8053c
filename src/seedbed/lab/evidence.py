"""From measured rows to answers: which signal chooses well, how surely, at what cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seedbed import statistics
from seedbed.errors import BadInput
from seedbed.lab.experiment import Row
from seedbed.statistics import Array, Interval, Prefer

OUTCOME = "outcome.score"
LEARNED = "/learned"  # at the end of a predictor's name


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
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Evidence:
        """The rows of one model, as `groups` tells them apart.

        Raises:
            BadInput: no rows, or prompts with different numbers of noises.
        """
        if not rows:
            raise BadInput("there are no rows")
        by_prompt: dict[str, dict[tuple[int, int], Mapping[str, Any]]] = {}
        for row in rows:
            by_prompt.setdefault(row["prompt"], {})[row["seed"], row["candidate"]] = row
        ordered = [[some[noise] for noise in sorted(some)] for some in by_prompt.values()]
        if len({len(pool) for pool in ordered}) > 1:
            raise BadInput("the prompts have different numbers of noises: finish the run first")
        names = [n for n in rows[0] if all(isinstance(row.get(n), float) for row in rows)]
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

    def by_layer(self, name: str, layers: int | None = None) -> Array:
        """(layers, prompts, noises) of a signal, from the first layer on; None for all."""
        wanted = range(self.layers if layers is None else layers)
        return np.stack([self.columns[f"{name}/{layer}"] for layer in wanted])

    def signal(self, name: str, layers: int | None = None) -> Array:
        """(prompts, noises) of a signal without its layer, `0/entropy`: the mean over its first `layers`."""
        return self.columns[name] if name in self.columns else self.by_layer(name, layers).mean(0)

    def names(self) -> list[str]:
        """Every signal, without its layer, in the order of measuring.

        Left out are halves, second estimates and the parts of a verifier's score.
        """
        names = dict.fromkeys("/".join(n.split("/")[:2]) for n in self.columns if "/" in n)
        hidden = (".even", ".odd", ".again")
        return [n for n in names if not n.endswith(hidden) and ("/judge." not in n or n.endswith(".score"))]


def groups(rows: Iterable[Row]) -> dict[str, Evidence]:
    """What was measured on each model (and by each method, where there are several), by name.

    Raises:
        BadInput: no rows, or prompts that do not share their noises.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["method"]), []).append(row)
    several = len({method for _, method in found}) > 1
    return {
        (f"{model}, {method}" if several and model else model or method): Evidence.of(some)
        for (model, method), some in found.items()
    }


@dataclass(frozen=True)
class Verdict:
    """How well one signal chooses among all noises of a prompt.

    Attributes:
        signal: as `Evidence.signal` reads it.
        evaluations: of one candidate, until the signal is known.
        within: Spearman with the outcome within prompts; those in which the signal is the same have none.
        p: of `within`, two-sided, by permutation; `adjusted` for all signals of the table, by Holm.
        low, high: outcome of the candidate with the lowest or highest signal minus the mean outcome.
        share: the gain at the preferred end over the gap between random and oracle.
        reliability: within-prompt Spearman of two independent estimates of the signal, if there are two.
        prefer: the end with the larger gain; what was learned to be high is followed there.
    """

    signal: str
    evaluations: float
    within: Interval
    p: float
    adjusted: float
    low: Interval
    high: Interval
    share: Interval
    reliability: Interval | None
    prefer: Prefer

    @property
    def learned(self) -> bool:
        """Whether the signal is a predictor, which was fitted on other prompts than it is judged on."""
        return self.signal.endswith(LEARNED)

    @property
    def gain(self) -> Interval:
        """The gain at the preferred end."""
        return self.low if self.prefer == "low" else self.high


def judge_signals(
    evidence: Evidence,
    signals: Sequence[str],
    pairs: Mapping[str, tuple[str, str]] | None = None,
) -> list[Verdict]:
    """A verdict on each signal, p-values adjusted for all of them.

    Args:
        pairs: two independent estimates of a signal, by its name; those from the even and the odd rows are
            found without.
    """
    truth = evidence.outcome()
    values = np.stack([evidence.signal(name) for name in signals])
    p = statistics.permutation(values, truth)
    verdicts = []
    for i, (name, adjusted) in enumerate(zip(signals, statistics.holm(p), strict=True)):
        gains = [statistics.gain(values[i], truth, "low"), statistics.gain(values[i], truth, "high")]
        low, high = map(statistics.bootstrap, gains)
        prefer: Prefer = "low" if low.mean > high.mean and not name.endswith(LEARNED) else "high"
        two = (pairs or {}).get(name, (f"{name}.even", f"{name}.odd"))
        known = all(half in evidence.columns or f"{half}/0" in evidence.columns for half in two)
        verdicts.append(
            Verdict(
                signal=name,
                evaluations=evaluations(name),
                within=statistics.bootstrap(statistics.within(values[i], truth)),
                p=float(p[i]),
                adjusted=float(adjusted),
                low=low,
                high=high,
                share=statistics.share(gains[prefer == "high"], truth),
                reliability=statistics.bootstrap(statistics.within(*map(evidence.signal, two)))
                if known
                else None,
                prefer=prefer,
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


def depth_of(evidence: Evidence, name: str) -> dict[str, Any]:
    """ANSE's truncation depth d* by both published rules, and what it is within prompts (arXiv 2505.17561).

    `full_score`: Pearson correlation of the mean over layers <= d with the mean over all layers; `quality`:
    of the mean over layers <= d with the outcome, in size. Each pooled over prompts and noises as published,
    and within prompts, as a user chooses. d* is the smallest d at or above 0.7.

    Returns:
        rule -> {"pooled": (layers,), "within": (layers,), "depth": d* of the pooled one or None}.
    """
    partial = [evidence.signal(name, d + 1) for d in range(evidence.layers)]
    centred = [values - values.mean(1, keepdims=True) for values in partial]
    result = {}
    for rule, target in (("full_score", partial[-1]), ("quality", evidence.outcome())):
        pooled = [_pearson(values, target) for values in partial]
        inside = [_pearson(values, target - target.mean(1, keepdims=True)) for values in centred]
        depth = next((d for d, r in enumerate(pooled, 1) if abs(r) >= 0.7), None)
        result[rule] = {"pooled": pooled, "within": inside, "depth": depth}
    return result


def _pearson(a: Array, b: Array) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):  # nan where one is constant
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
