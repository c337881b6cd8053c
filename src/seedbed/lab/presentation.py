"""What an experiment found, for people: tables, figures, and pages that need no network and no other file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from seedbed import __version__
from seedbed.errors import BadInput
from seedbed.lab.evidence import Verdict, groups
from seedbed.lab.experiment import Recipe, Row, find_task, plan
from seedbed.lab.statistics import Interval, bootstrap

Cell = str | float | Interval | None

# Of lines and texts in figures: both are read on a white and on a black page.
_GREY = "#808080"
_COLOURS = ("#2f9163", "#cf6a2c", "#4a80cc", "#b0559f", "#a08000", "#0f93a6", "#d04a68", "#7b8379")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seedbed",
    "text.parse_math": False,
    "font.family": "sans-serif",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _GREY),
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_templates = jinja2.Environment(
    loader=jinja2.ChoiceLoader([jinja2.PackageLoader("seedbed.lab"), jinja2.PackageLoader("seedbed.report")]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Table:
    """Cells under headings: text, numbers, intervals, None for nothing; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def texts(self) -> list[list[str]]:
        """The rows as people read them: see `cell_text`."""
        return [[cell_text(cell) for cell in row] for row in self.rows]

    def to_text(self, rows: int | None = None) -> str:
        """The headings and the first `rows` rows (None for all) in aligned columns."""
        lines = [list(self.columns), *self.texts()[:rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


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


def tables_of(task: str, rows: Sequence[Row]) -> list[Table | Figure]:
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


def page(recipe: Recipe, rows: Sequence[Row], found: Iterable[Table | Figure]) -> str:
    """A self-contained HTML page of an experiment's tables and figures.

    Args:
        rows: those that the tables were made of.
        found: in the order in which they are shown.
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
    return document(recipe.name, lead, facts, found, recipe.to_json())


def document(
    title: str, lead: str, facts: Mapping[str, str], found: Iterable[Table | Figure], recipe: str = ""
) -> str:
    """A self-contained HTML page of tables and figures.

    Args:
        lead: what was found, in a sentence.
        facts: more of it by name; in the order in which they are shown.
        recipe: what to run for it again.
    """
    parts = []
    for each in found:
        table, drawn = each, None
        if isinstance(each, Figure):
            first = 0 if len(each.series) > 1 else 1
            rows = [(name, *point)[first:] for name, points in each.series.items() for point in points]
            table, drawn = Table(each.title, ("series", each.x, each.y)[first:], rows, each.note), svg(each)
        parts.append({"table": table, "svg": drawn})
    template = _templates.get_template("experiment.html")
    return template.render(
        name=title, lead=lead, facts=facts, parts=parts, recipe=recipe, version=__version__
    )


def svg(figure: Figure) -> Markup:
    """A figure as inline SVG, the same for the same figure, to be read on light and dark pages."""
    series = {
        name: [(x, value) for x, value in points if math.isfinite(value.mean)]
        for name, points in figure.series.items()
    }
    places = [x for points in series.values() for x, _ in points]
    if not places:
        return Markup('<p class="note">There is nothing to show yet.</p>')
    from matplotlib import figure as plots
    from matplotlib import rc_context

    labels = [x for x in dict.fromkeys(places) if isinstance(x, str)]
    with rc_context(_STYLE):
        height = 0.9 + 0.24 * len(labels) if labels else 4.4
        drawing = plots.Figure((7.9, height), layout="constrained")
        axes = drawing.subplots()
        axes.grid(axis="x" if labels else "y", color=_GREY, alpha=0.25)
        for index, (name, points) in enumerate(series.items()):
            shift = (index + 1) / (len(series) + 1) - 0.5
            placed = [(labels.index(x) + shift if isinstance(x, str) else x, *value) for x, value in points]
            at, means, low, high = np.array(sorted(placed)).reshape(-1, 4).T
            colour = _COLOURS[index % len(_COLOURS)]
            style: dict[str, Any] = {"color": colour, "markersize": 4.5, "label": name}
            if labels:
                axes.plot(means, at, "o", **style)
                axes.hlines(at, low, high, colour, alpha=0.65)
            else:
                axes.plot(at, means, "o-", **style)
                axes.vlines(at, low, high, colour, alpha=0.65)
        if labels:
            axes.set_yticks(range(len(labels)), [x if len(x) <= 40 else f"{x[:39]}…" for x in labels])
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.axvline(0, color=_GREY, linewidth=0.8)
        axes.set(xlabel=figure.y if labels else figure.x, ylabel="" if labels else figure.y)
        if len(series) > 1:
            drawing.legend(loc="outside upper left", ncols=len(series), frameon=False)
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(written, format="svg", transparent=True, metadata=nothing)
    # An opening tag without a size of its own: the page says how wide it is.
    _, opening, content = re.split(r"(<svg[^>]*>)", written.getvalue(), maxsplit=1)
    box = opening.split('viewBox="')[1].split('"')[0]
    return Markup(f'<svg viewBox="{box}" role="img" aria-label="{escape(figure.title)}">{content}')
