"""What a calibration found, as a table and as figures."""

from __future__ import annotations

import math

from seedbed.lab.choice import Findings, end_of, gain_of, is_learned
from seedbed.lab.statistics import Interval
from seedbed.lab.tables import Figure, Table

_COLUMNS = ("steps done", "signal", "prefer", "gain", "share of the gap", "within-prompt Spearman", "p")


def table_of(findings: Findings) -> Table:
    """Every signal at its better end, largest gain first."""
    tested, prompts = len(findings.tested), len(findings.fitted) + len(findings.tested)
    return Table(
        "What each signal is worth",
        (*_COLUMNS, "reliability", "NFE", "prompts"),
        [
            (
                *verdict.signal.split("/", 1),
                end_of(verdict),
                gain_of(verdict),
                verdict.share,
                verdict.within,
                verdict.adjusted,
                verdict.reliability and verdict.reliability.mean,
                verdict.evaluations,
                tested if is_learned(verdict) else prompts,
            )
            for verdict in sorted(findings.verdicts, key=lambda verdict: -gain_of(verdict).mean)
        ],
        "Gain: outcome of the chosen noise minus that of a random one. Intervals are 95 %, by a bootstrap "
        "over prompts. p: two-sided, by permutation within prompts, corrected for all signals (Holm). NFE: "
        "for each candidate. A signal named learned was fitted on the other prompts.",
    )


def figures_of(findings: Findings) -> list[Figure]:
    """The gains at both ends of every signal, and the correlations of every function by depth."""
    gains = Figure(
        "Gain over a random noise",
        {
            "highest chosen": [(verdict.signal, verdict.high) for verdict in findings.verdicts],
            "lowest chosen": [(v.signal, v.low) for v in findings.verdicts if not is_learned(v)],
        },
        "steps done / signal",
        "gain",
    )
    depths = []
    for name, rules in findings.depths.items():
        for rule, what in (("full_score", "that of all layers"), ("quality", "the outcome")):
            found = rules[rule]
            reached = (
                f"reaches 0.7 in size at layer {found['depth']}" if found["depth"] else "never reaches 0.7"
            )
            depths.append(
                Figure(
                    f"{name}: correlation of the score down to a layer with {what}",
                    {
                        kind: [(i, Interval(r, math.nan, math.nan)) for i, r in enumerate(found[kind], 1)]
                        for kind in ("pooled", "within")
                    },
                    "attention layer",
                    "Pearson correlation",
                    f"Pooled over prompts, as published, it {reached}.",
                )
            )
    return [gains, *depths]
