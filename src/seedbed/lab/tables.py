"""What an experiment found, as plain data: tables and figures that a task makes of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedbed.errors import BadInput
from seedbed.lab.evidence import Evidence
from seedbed.lab.plan import plan, task_module
from seedbed.lab.statistics import Array, Interval, bootstrap

if TYPE_CHECKING:
    from seedbed.lab.recipe import Recipe
    from seedbed.lab.store import Row

Cell = str | float | Interval | None


@dataclass(frozen=True)
class Table:
    """Cells under headings: text, numbers, intervals, None for nothing; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Series of points with intervals.

    Attributes:
        series: name to its points (x, interval). Numbers as x make lines, texts one row of points for each.
        x, y: what the axes show; the intervals lie along y, in rows of points horizontally.
    """

    title: str
    series: Mapping[str, Sequence[tuple[float | str, Interval]]]
    x: str
    y: str
    note: str = ""


def groups(rows: Iterable[Row]) -> dict[str, dict[str, Array]]:
    """The numbers of each model (and method, where there are several) by column, (prompts, noises) each.

    Raises:
        BadInput: no rows, or prompts that do not share their noises.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["method"]), []).append(row)
    several = len({method for _, method in found}) > 1
    return {
        (f"{model}, {method}" if several and model else model or method): Evidence.of(some).columns
        for (model, method), some in found.items()
    }


def whole_prompts(recipe: Recipe, rows: Iterable[Row]) -> list[Row]:
    """The rows of those prompts of each model that are finished: all methods, all noises.

    So a table of an unfinished run compares like with like.
    """
    found = {row["key"]: row for row in rows}
    parts: dict[tuple[str, str], list[str]] = {}
    for unit in plan(recipe):
        parts.setdefault((unit.model, unit.prompt), []).extend(draw.key for draw in unit.draws)
    return [found[key] for keys in parts.values() if all(key in found for key in keys) for key in keys]


def tables_of(task: str, rows: Sequence[Row]) -> list[Table | Figure]:
    """What the task's module makes of its rows by `tables(rows)`; else the mean of every number.

    Raises:
        BadInput: no rows; or as the task.
    """
    if not rows:
        raise BadInput("no prompt is finished yet: run the recipe first")
    declared = getattr(task_module(task), "tables", None)
    if declared is not None:
        return list(declared(rows))
    return [
        Table(
            name,
            ["column", "prompts", "noises", "mean"],
            [[column, *values.shape, bootstrap(values.mean(1))] for column, values in columns.items()],
            "Means over prompts and noises; 95 % intervals, bootstrap over prompts.",
        )
        for name, columns in groups(rows).items()
    ]


def cell_text(cell: Any) -> str:
    """A cell as people read it: four digits, an interval as `mean [low, high]`, – for nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, Interval):
        if math.isnan(cell.low):
            return cell_text(cell.mean)
        return f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
