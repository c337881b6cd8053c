"""The report of an experiment: one HTML file that needs no network and no other file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from seedbed import __version__
from seedbed.lab.recipe import Recipe
from seedbed.lab.statistics import Interval
from seedbed.lab.store import Row
from seedbed.lab.tables import Cell, Figure, Table, cell_text
from seedbed.report.plots import ticks_around

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 14, 50
LABEL, ROW = 260, 22  # of a figure of points: room for the labels, height of a row; pixels
COLOURS = 8  # in the template

_templates = jinja2.Environment(
    loader=jinja2.ChoiceLoader([jinja2.PackageLoader("seedbed.lab"), jinja2.PackageLoader("seedbed.report")]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(recipe: Recipe, rows: Sequence[Row], found: Iterable[Table | Figure]) -> str:
    """A self-contained HTML page of an experiment's tables and figures.

    Args:
        rows: those that the tables were made of.
        found: in the order in which they are shown.
    """
    return _templates.get_template("experiment.html").render(
        name=recipe.name,
        recipe=recipe,
        source=recipe.to_json(),
        parts=_parts(found),
        rows=len(rows),
        prompts=len({row["prompt"] for row in rows}),
        asked=len(recipe.captions()),
        version=__version__,
    )


def document(title: str, lead: str, facts: Mapping[str, str], found: Iterable[Table | Figure]) -> str:
    """A self-contained HTML page of tables and figures that come from no recipe.

    Args:
        lead: what was found, in a sentence.
        facts: more of it by name; in the order in which they are shown.
    """
    return _templates.get_template("document.html").render(
        name=title, lead=lead, facts=facts, parts=_parts(found), version=__version__
    )


def _parts(found: Iterable[Table | Figure]) -> list[dict[str, Any]]:
    """What the templates show of each table and figure."""
    parts: list[dict[str, Any]] = []
    for each in found:
        if isinstance(each, Figure):
            columns = ["series", each.x, each.y] if len(each.series) > 1 else [each.x, each.y]
            cells: list[Sequence[Cell]] = [
                (name, x, value)[-len(columns) :]
                for name, points in each.series.items()
                for x, value in points
            ]
            parts.append({"svg": svg(each), "names": list(each.series)})
        else:
            columns, cells = list(each.columns), list(each.rows)
            parts.append({"svg": None, "names": []})
        texts = [[cell_text(cell) for cell in row] for row in cells]
        parts[-1] |= {"title": each.title, "note": each.note, "columns": columns, "rows": texts}
    return parts


def svg(figure: Figure) -> Markup:
    """A figure as inline SVG; its colours are the page's, which know light and dark."""
    points = [point for series in figure.series.values() for point in series]
    ends = [end for _, value in points for end in value if math.isfinite(end)]
    if not ends:
        return Markup('<p class="note">There is nothing to show yet.</p>')
    if all(isinstance(x, str) for x, _ in points):
        return _rows_of_points(figure, ticks_around(min(ends), max(ends)))
    return _lines(figure, [float(x) for x, _ in points], ticks_around(min(ends), max(ends)))


def _lines(figure: Figure, xs: Sequence[float], y_ticks: Sequence[float]) -> Markup:
    x_ticks = ticks_around(min(xs), max(xs))
    x = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    y = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    parts = [_frame(figure, HEIGHT)]
    for tick in y_ticks:
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 8, y(tick) + 4, _number(tick), "end"))
    parts += [_text(x(tick), HEIGHT - BOTTOM + 18, _number(tick)) for tick in x_ticks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, figure.x, kind="label"))
    turned = f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
    parts.append(turned + _text(0, 0, figure.y, kind="label") + "</g>")
    for index, (name, series) in enumerate(figure.series.items()):
        known = [(float(at), value) for at, value in series if math.isfinite(value.mean)]
        known.sort(key=lambda point: point[0])
        path = " ".join(f"{x(at):.1f},{y(value.mean):.1f}" for at, value in known)
        parts.append(f'<g class="series c{index % COLOURS}"><polyline points="{path}"/>')
        for at, value in known:
            if math.isfinite(value.low):
                parts.append(_line(x(at), y(value.low), x(at), y(value.high)))
            parts.append(_dot(x(at), y(value.mean), f"{name}, {_number(at)}", value))
        parts.append("</g>")
    return Markup("".join(parts) + "</svg>")


def _rows_of_points(figure: Figure, ticks: Sequence[float]) -> Markup:
    labels = list(dict.fromkeys(str(at) for series in figure.series.values() for at, _ in series))
    bottom = TOP + ROW * len(labels)
    x = _scale(ticks, LABEL, WIDTH - RIGHT)
    parts = [_frame(figure, bottom + BOTTOM)]
    for tick in ticks:
        parts.append(_line(x(tick), TOP, x(tick), bottom, "grid" if tick else "axis"))
        parts.append(_text(x(tick), bottom + 18, _number(tick)))
    parts.append(_text((LABEL + WIDTH - RIGHT) / 2, bottom + BOTTOM - 8, figure.y, kind="label"))
    for row, label in enumerate(labels):
        shown = label if len(label) <= 40 else label[:39] + "…"
        parts.append(_text(LABEL - 10, TOP + ROW * (row + 0.5) + 4, shown, "end", whole=label))
    for index, (name, series) in enumerate(figure.series.items()):
        parts.append(f'<g class="series c{index % COLOURS}">')
        for at, value in series:
            if not math.isfinite(value.mean):
                continue
            y = TOP + ROW * (labels.index(str(at)) + (index + 1) / (len(figure.series) + 1))
            if math.isfinite(value.low):
                parts.append(_line(x(value.low), y, x(value.high), y))
            parts.append(_dot(x(value.mean), y, f"{name}, {at}", value))
        parts.append("</g>")
    return Markup("".join(parts) + "</svg>")


def _frame(figure: Figure, height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(figure.title)}">'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "interval") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick", whole: str | None = None
) -> str:
    title = "" if whole in (None, text) else f"<title>{escape(whole)}</title>"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{title}</text>'


def _dot(x: float, y: float, name: str, value: Interval) -> str:
    title = escape(f"{name}: {cell_text(value)}")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{title}</title></circle>'


def _scale(ticks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _number(tick: float) -> str:
    return f"{round(tick, 10) + 0.0:.6g}"
