"""What an experiment found, for people: tables, and pages that need no network and no other file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedbed import __version__
from seedbed.errors import BadInput
from seedbed.lab.evidence import Verdict, groups
from seedbed.lab.experiment import Recipe, Row, find_task, plan
from seedbed.report.page import render
from seedbed.statistics import Interval, bootstrap

Cell = str | float | Interval | None


@dataclass(frozen=True)
class Table:
    """Cells under headings: text, numbers, intervals, None for nothing; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def scales(self) -> list[tuple[float, float] | None]:
        """For each column, the range of its intervals; None where there is nothing to compare."""
        found: list[tuple[float, float] | None] = []
        for column in zip(*self.rows, strict=True):
            ends = {x for cell in column if isinstance(cell, Interval) for x in cell if math.isfinite(x)}
            found.append((min(ends), max(ends)) if len(ends) > 3 else None)
        return found

    def to_text(self, rows: int | None = None) -> str:
        """The headings and the first `rows` rows (None for all) in aligned columns."""
        lines = [self.columns, *([cell_text(cell) for cell in row] for row in self.rows[:rows])]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def cell_text(cell: Any) -> str:
    """A cell as people read it: four digits, an interval as `mean [low, high]`, – for nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, Interval):
        if math.isnan(cell.low):
            return cell_text(cell.mean)
        return f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def signal_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """What each signal is worth, a row for each verdict, in their order."""
    columns = ("signal", "NFE", "Spearman", "p, Holm", "gain, low", "gain, high", "share", "reliability")
    return Table(
        title,
        columns,
        [
            [v.signal, v.evaluations, v.within, v.adjusted, v.low, v.high, v.share, v.reliability]
            for v in verdicts
        ],
        "Signal: steps done / name. NFE: evaluations of one candidate until it is known. Spearman with the "
        "outcome within prompts; p: two-sided, by permutation within prompts, corrected for all signals of "
        "the table. Gain: outcome of the noise with the lowest or highest value less that of a random noise. "
        "Share: of the gap between a random and the best noise, at the better end. Reliability: agreement of "
        "two estimates, by other rows, masks or prompts. Intervals are 95 %, bootstrap over prompts.",
    )


def whole_prompts(recipe: Recipe, rows: Iterable[Row]) -> list[Row]:
    """The rows of those prompts of each model that are finished: all methods, all noises.

    So a table of an unfinished run compares like with like.
    """
    found = {row["key"]: row for row in rows}
    parts: dict[tuple[str, str], list[str]] = {}
    for unit in plan(recipe):
        parts.setdefault((unit.model, unit.prompt), []).extend(draw.key for draw in unit.draws)
    return [found[key] for keys in parts.values() if all(key in found for key in keys) for key in keys]


def tables_of(task: str, rows: Sequence[Row]) -> list[Table]:
    """What the task's module makes of its rows by `tables(rows)`; else the mean of every number.

    Raises:
        BadInput: no rows; or as the task.
    """
    if not rows:
        raise BadInput("no prompt is finished yet: run the recipe first")
    declared = getattr(find_task(task)[0], "tables", None)
    if declared is not None:
        return list(declared(rows))
    return [
        Table(
            name,
            ["column", "prompts", "noises", "mean"],
            [
                [column, *values.shape, bootstrap(values.mean(1))]
                for column, values in evidence.columns.items()
            ],
            "Means over prompts and noises; 95 % intervals, bootstrap over prompts.",
        )
        for name, evidence in groups(rows).items()
    ]


def page(recipe: Recipe, rows: Sequence[Row], tables: Iterable[Table]) -> str:
    """A self-contained HTML page of an experiment's tables.

    Args:
        rows: those that the tables were made of.
        tables: in the order in which they are shown.
    """
    prompts, asked, noises = len({row["prompt"] for row in rows}), len(recipe.captions()), recipe.noises
    facts = {
        "Task": recipe.task,
        "Models": ", ".join(recipe.models) or "none",
        "Prompts": str(prompts) if prompts == asked else f"{prompts} of {asked}",
        "Noises of each": f"{noises.count}, of seeds {noises.seed} to {noises.seed + asked - 1}",
        "Rows": f"{len(rows):,}",
    }
    lead = "" if prompts == asked else "The run is not finished: only prompts with all their noises count."
    return document(recipe.name, lead, facts, tables, recipe.to_json())


def document(
    title: str, lead: str, facts: Mapping[str, str], tables: Iterable[Table], recipe: str = ""
) -> str:
    """A self-contained HTML page of tables, the intervals of each column drawn on one scale.

    Args:
        lead: what was found, in a sentence.
        facts: more of it by name; in the order in which they are shown.
        recipe: what to run for it again.
    """
    return render(
        "experiment.html",
        name=title,
        lead=lead,
        facts=facts,
        tables=tables,
        recipe=recipe,
        version=__version__,
        zip=zip,
        text=cell_text,
    )
