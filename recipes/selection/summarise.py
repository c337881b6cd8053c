"""From the rows of the runs to the numbers of docs/evidence.md: recipes/selection/results/*.json.

`python recipes/selection/summarise.py --runs runs/lab`, once `seedbed lab run` has made runs/lab/evidence,
runs/lab/pool, runs/lab/binding, runs/lab/loose, runs/lab/terminal-snr and runs/lab/terminal-snr-repeats.
Parts whose run is not there are left as they are. Everything is a mean over captions with its 95 % bootstrap
interval; nothing here is random but the bootstrap, the permutations and the simulated pools, whose seeds are
fixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from seedbed import statistics
from seedbed.acquisition.halving import cost
from seedbed.acquisition.learned import fit
from seedbed.lab.choice import feature_names
from seedbed.lab.evidence import OUTCOME, Evidence, depth_of, groups, judge_signals
from seedbed.lab.replays import crossed_gain
from seedbed.lab.work import Store
from seedbed.statistics import Array

STEPS = 20
BUDGETS = (1.5, 2.0, 3.0, 4.0)
RESULTS = Path(__file__).with_name("results")


def rounded(value: Any) -> Any:
    """Plain JSON: five digits are more than any interval here allows."""
    if dataclasses.is_dataclass(value):
        return rounded(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(f"{value:.5g}")
    return value.item() if isinstance(value, np.generic) else value


def best_of_subset(signals: Array, outcomes: Array, m: int, prefer: statistics.Prefer = "high") -> Array:
    """Expected outcome of the noise that the signal prefers among m drawn from the pool without replacement.

    Exact, by order statistics: the one chosen is the i-th best (from 0) of all n with probability
    C(n - 1 - i, m - 1) / C(n, m). So gains at every smaller pool need no further run. Among noises with equal
    signals each is as likely to be chosen.

    Args:
        signals: (prompts, noises).
        outcomes: (prompts, noises), higher is better.
        m: noises drawn, 1 to all of them.
        prefer: which end of the signal is chosen.

    Returns:
        (prompts,).
    """
    count = signals.shape[1]
    equal = signals[:, :, None] == signals[:, None, :]
    shared = (equal * outcomes[:, None, :]).sum(2) / equal.sum(2)
    order = np.argsort(signals if prefer == "low" else -signals, axis=1)
    weights = [math.comb(count - 1 - i, m - 1) / math.comb(count, m) for i in range(count)]
    return np.asarray(np.take_along_axis(shared, order, axis=1) @ np.array(weights))


def verdicts(
    evidence: Evidence, names: list[str], pairs: dict[str, tuple[str, str]] | None = None
) -> list[Any]:
    return [rounded(verdict) for verdict in judge_signals(evidence, names, pairs)]


def learned(evidence: Evidence, step: int, folds: int = 10) -> dict[str, Any]:
    """The ridge predictor at one step, every caption predicted without its fold."""
    truth = evidence.outcome()
    names = feature_names(evidence, step, _variants(evidence))
    signals = np.stack([evidence.columns[name] for name in names], axis=-1)
    found = fit(signals, truth, folds=folds)
    gain = statistics.gain(found.predicted, truth)
    return {
        "step": step,
        "features": len(names),
        "ridge": found.ridge,
        "within": statistics.bootstrap(statistics.within(found.predicted, truth)),
        "p": float(statistics.permutation(found.predicted, truth)),
        "gain": statistics.bootstrap(gain),
        "share": statistics.share(gain, truth),
        "evaluations": 2 * (step + 1),
        "best of m": {
            m: statistics.bootstrap(best_of_subset(found.predicted, truth, m) - statistics.random(truth))
            for m in (2, 4, 6, 8, 10, 12, 16)
        },
    }


def _variants(evidence: Evidence) -> list[str]:
    """Functions that were measured beside the plain signals."""
    return [n.partition("/")[2] for n in evidence.names() if "bansa" in n]


def whole(evidence: Evidence, judge: str, outcome: str, budget: float) -> np.ndarray:
    """Best of N by the verifier on finished videos; between whole N, a mixture of both: (prompts,) gain."""
    truth, mark = evidence.outcome(outcome), evidence.outcome(f"outcome.{judge}")
    low = int(budget)
    values = best_of_subset(mark, truth, low)
    if budget > low:
        more = best_of_subset(mark, truth, low + 1)
        values = values + (budget - low) * (more - values)
    return values - statistics.random(truth)


def equal_cost(evidence: Evidence, judge: str = "score", outcome: str = OUTCOME) -> dict[str, Any]:
    """Best of N on full videos against previews, at the same number of evaluations."""
    truth = evidence.outcome(outcome)
    rows = []
    for budget in BUDGETS:
        mine, chosen = crossed_gain(evidence, budget, steps=STEPS, judge=judge, outcome=outcome)
        full = whole(evidence, judge, outcome, budget)
        rows.append(
            {
                "budget": budget,
                "chosen": [
                    {**dataclasses.asdict(c), "cost": cost(c.schedule, c.candidates, STEPS)} for c in chosen
                ],
                "gain": statistics.bootstrap(mine),
                "share": statistics.share(mine, truth),
                "full videos": statistics.bootstrap(full),
                "full videos share": statistics.share(full, truth),
                "difference": statistics.bootstrap(mine - full),
            }
        )
    return {"judge": judge, "outcome": outcome, "rows": rows}


def spread(evidence: Evidence) -> dict[str, Any]:
    truth = evidence.outcome()
    return {
        "captions": len(truth),
        "noises": truth.shape[1],
        "random": statistics.bootstrap(statistics.random(truth)),
        "oracle": statistics.bootstrap(statistics.oracle(truth)),
        "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
        "best of 2 share": statistics.share(
            best_of_subset(truth, truth, 2) - statistics.random(truth), truth
        ),
        "all right": statistics.bootstrap(evidence.outcome("outcome.all_right").mean(1)),
    }


def confident_but_wrong(evidence: Evidence) -> dict[str, Any]:
    """How often the noise that a signal prefers fails its caption, against a random one; and which."""
    right = evidence.outcome("outcome.all_right")
    found: dict[str, Any] = {"random": statistics.bootstrap(1 - right.mean(1))}
    for name, prefer in (("0/bansa", "low"), ("0/bansa", "high"), ("0/entropy", "low")):
        values = evidence.signal(name)
        best = values.argmin(1) if prefer == "low" else values.argmax(1)
        wrong = 1 - np.take_along_axis(right, best[:, None], 1)[:, 0]
        found[f"{name} {prefer}"] = statistics.bootstrap(wrong)
        if (name, prefer) == ("0/bansa", "low"):
            score = evidence.outcome()
            failed = [p for p in range(len(best)) if wrong[p]]
            # The surest failures: the chosen noise's score lies furthest below its pool's, in deviations.
            margin = (values.mean(1) - values.min(1)) / values.std(1)
            failed.sort(key=lambda p: -margin[p])
            found["gallery"] = [
                {
                    "prompt": evidence.prompts[p],
                    "number": int(p),
                    "candidate": int(best[p]),
                    "score": float(score[p, best[p]]),
                    "best": int(score[p].argmax()),
                    "best score": float(score[p].max()),
                    "deviations below": float(margin[p]),
                }
                for p in failed[:8]
            ]
    return found


def plain_names(evidence: Evidence) -> list[str]:
    """Every signal that needs no options, after 0 to 6 steps."""
    plain = [
        "entropy",
        "collision",
        "bansa",
        "text_mass",
        "guidance_gap",
        "x0_std",
        "x0_motion",
        "x0_change",
        "judge.score",
    ]
    return [f"{s}/{n}" for s in (0, 1, 2, 3, 6) for n in plain if f"{s}/{n}" in evidence.names()]


def binding_table(evidence: Evidence) -> dict[str, Any]:
    """What a model whose text encoder reads says to the same signals."""
    names = [*plain_names(evidence), "0/bansa-logits", "0/bansa.k10.0"]
    return {
        "spread": spread(evidence),
        "signals": verdicts(evidence, names, {"0/bansa.k10.0": ("0/bansa.k10.0", "0/bansa.k10.1")}),
        "learned": [learned(evidence, step) for step in (0, 1, 2, 3)],
        "equal cost": equal_cost(evidence)["rows"],
    }


def main_table(evidence: Evidence) -> dict[str, Any]:
    truth = evidence.outcome()
    names = plain_names(evidence)
    masks = {f"0/bansa.k{k}.0": (f"0/bansa.k{k}.0", f"0/bansa.k{k}.1") for k in (3, 5, 7, 10, 30)}
    masks |= {
        f"0/bansa.keep{p}.k10.0": (f"0/bansa.keep{p}.k10.0", f"0/bansa.keep{p}.k10.1") for p in (0.5, 0.8)
    }
    masks["0/bansa-logits.k10.0"] = ("0/bansa-logits.k10.0", "0/bansa-logits.k10.1")
    variants = [*masks, "0/bansa.keep0.5", "0/bansa.keep0.8", "0/bansa-logits", "0/bansa-logits.keep0.5"]
    variants += ["0/bansa-logits.keep0.8", "0/bansa-dropout"]
    rows = {"0/bansa.rows": ("0/bansa.rows30.1", "0/bansa.rows30.2")}
    depth = {}
    for d in range(1, evidence.layers + 1):
        for name in ("bansa", "entropy"):
            values = evidence.signal(f"0/{name}", d)
            depth[f"{name} {d}"] = {
                "low": statistics.bootstrap(statistics.gain(values, truth, "low")),
                "high": statistics.bootstrap(statistics.gain(values, truth, "high")),
                "within": statistics.bootstrap(statistics.within(values, truth)),
            }
    average = {}
    for last in (0, 1, 2, 3, 6):
        used = [s for s in (0, 1, 2, 3, 6) if s <= last]
        values = np.mean([evidence.signal(f"{s}/bansa") for s in used], axis=0)
        average[f"{used}"] = {
            "low": statistics.bootstrap(statistics.gain(values, truth, "low")),
            "high": statistics.bootstrap(statistics.gain(values, truth, "high")),
            "within": statistics.bootstrap(statistics.within(values, truth)),
        }
    tested = judge_signals(evidence, [*names, *variants], masks)
    return {
        "spread": spread(evidence),
        "signals": [rounded(v) for v in tested[: len(names)]],
        "variants": [rounded(v) for v in tested[len(names) :]],
        "mask-free reliability over half the rows": statistics.bootstrap(
            statistics.within(*(evidence.signal(n) for n in rows["0/bansa.rows"]))
        ),
        "depth": depth,
        "d*": {name: depth_of(evidence, f"0/{name}") for name in ("bansa", "entropy", "bansa.k10.0")},
        "pooled": {name: pooled(evidence, f"0/{name}") for name in ("bansa", "bansa.k10.0", "entropy")},
        "steps averaged": average,
        "learned": [learned(evidence, step) for step in (0, 1, 2, 3)],
        "confident but wrong": confident_but_wrong(evidence),
    }


def pooled(evidence: Evidence, name: str, draws: int = 2000) -> list[float]:
    """Pearson correlation with the outcome over all videos, as published; captions are resampled whole."""
    signal, truth = evidence.signal(name), evidence.outcome()
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(truth), size=len(truth)) for _ in range(draws)]
    found = [np.corrcoef(signal[some].ravel(), truth[some].ravel())[0, 1] for some in drawn]
    whole = np.corrcoef(signal.ravel(), truth.ravel())[0, 1]
    return [float(whole), *map(float, np.quantile(found, [0.025, 0.975]))]


def held_out_judge(evidence: Evidence) -> list[dict[str, Any]]:
    """Choose by some attributes, report others that the choice did not look at."""
    what = {k: (v["shape"] + v["colour"]) / 2 for k, v in _attributes(evidence).items()}
    where = {k: v["motion"] for k, v in _attributes(evidence).items()}
    columns = dict(evidence.columns)
    for name, group in (("look", what), ("motion", where)):
        for at, values in group.items():
            columns[f"{at}{name}_half"] = values
    split = Evidence(evidence.prompts, columns)
    return [
        equal_cost(split, f"{judge}_half", f"outcome.{outcome}_half")
        for judge, outcome in (("look", "look"), ("look", "motion"), ("motion", "motion"), ("motion", "look"))
    ]


def _attributes(evidence: Evidence) -> dict[str, dict[str, np.ndarray]]:
    starts = {n.rpartition(".")[0] + "." for n in evidence.columns if n.endswith(".motion")}
    return {s: {a: evidence.columns[s + a] for a in ("shape", "colour", "motion")} for s in starts}


def pools(evidence: Evidence, more: Evidence) -> dict[str, Any]:
    """Gain against the size of the pool, from 2 to 32 noises."""
    shared = len(more.prompts)
    if evidence.prompts[:shared] != more.prompts:
        raise SystemExit("evidence and pool have other captions: run both recipes as they are committed")
    names = [name for name in evidence.columns if name in more.columns]
    both = Evidence(
        more.prompts,
        {n: np.concatenate([evidence.columns[n][:shared], more.columns[n]], axis=1) for n in names},
    )
    truth = both.outcome()
    signals = {
        "bansa low": ("0/bansa", "low"),
        "bansa high": ("0/bansa", "high"),
        "bansa k10 low": ("0/bansa.k10.0", "low"),
        "entropy low": ("0/entropy", "low"),
        "oracle": (OUTCOME, "high"),
    }
    return {
        label: {
            m: statistics.bootstrap(
                best_of_subset(both.signal(name), truth, m, prefer) - statistics.random(truth)
            )
            for m in (2, 4, 8, 16, 32)
        }
        for label, (name, prefer) in signals.items()
    }


SNR_SIGNALS = ("entropy", "collision", "text_mass", "guidance_gap")


def terminal_snr(models: dict[str, Evidence]) -> dict[str, Any]:
    """The plan of recipes/selection/README.md."""
    found: dict[str, Any] = {}
    flat = []
    for model, evidence in models.items():
        values = np.stack([evidence.signal(f"0/{name}") for name in SNR_SIGNALS])
        flat += [
            (model, name, float(p))
            for name, p in zip(SNR_SIGNALS, statistics.permutation(values, evidence.outcome()), strict=True)
        ]
    adjusted = statistics.holm([p for *_, p in flat])
    first = {(model, name): float(p) for (model, name, _), p in zip(flat, adjusted, strict=True)}
    for model, evidence in models.items():
        truth = evidence.outcome()
        rows = []
        for step in (0, 1, 3, 6):
            for name in SNR_SIGNALS:
                values = evidence.signal(f"{step}/{name}")
                rows.append(
                    {
                        "step": step,
                        "signal": name,
                        "within": statistics.bootstrap(statistics.within(values, truth)),
                        "adjusted": first[model, name] if step == 0 else None,
                        "low": statistics.bootstrap(statistics.gain(values, truth, "low")),
                        "high": statistics.bootstrap(statistics.gain(values, truth, "high")),
                        "relative spread": float((values.std(1) / np.abs(values.mean(1))).mean()),
                    }
                )
        found[model] = {"spread": spread(evidence), "signals": rows}
    return found


def load(folder: Path) -> Evidence | None:
    return Evidence.of(Store(folder).rows()) if folder.is_dir() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)

    def write(name: str, value: Any) -> None:
        (arguments.out / f"{name}.json").write_text(json.dumps(rounded(value), indent=1) + "\n")
        print(name, flush=True)

    for name in ("binding", "loose"):
        found = load(arguments.runs / name)
        if found is not None:
            write(name, binding_table(found))
    evidence = load(arguments.runs / "evidence")
    if evidence is not None:
        write("evidence", main_table(evidence))
        write("equal-cost", equal_cost(evidence))
        write("held-out-judge", held_out_judge(evidence))
        more = load(arguments.runs / "pool")
        if more is not None:
            write("pool", pools(evidence, more))
        models = {"shapes-cogvideox-unread": evidence}
        for folder in ("terminal-snr", "terminal-snr-repeats"):
            if (arguments.runs / folder).is_dir():
                found = groups(Store(arguments.runs / folder).rows())
                models |= {Path(model).name: some for model, some in found.items()}
        if len(models) > 1:
            write("terminal-snr", terminal_snr(models))
