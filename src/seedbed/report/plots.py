"""Small inline SVG plots: geometry here, colours in the page's style sheet, which knows light and dark."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 78, 510, 14, 254  # edges of what is plotted


def layer_lines(scores: NDArray[np.float64], names: Sequence[str], best: int, unit: str) -> Markup:
    """One line per candidate over the attention layers, the chosen one on top.

    scores: (candidates, layers) in the acquisition's own unit, NaN where a layer was not scored.
    names: a label per candidate; best: row of the chosen candidate; unit: of the scores, "" for none.
    """
    finite = scores[np.isfinite(scores)]
    ticks = ticks_around(float(finite.min()), float(finite.max()))
    count = scores.shape[1]
    xs: list[float] = np.linspace(LEFT, RIGHT, count).tolist() if count > 1 else [(LEFT + RIGHT) / 2]
    top, extent = ticks[-1], (BOTTOM - TOP) / (ticks[-1] - ticks[0])

    parts = [_opening(f"Score by layer for {len(names)} candidates; the chosen one is {names[best]}.")]
    exact = 1e-6 * (ticks[1] - ticks[0])
    digits = next(d for d in range(99) if all(abs(round(tick, d) - tick) < exact for tick in ticks))
    for tick in ticks:
        y = TOP + extent * (top - tick)
        label = f"{tick:.{digits}f}" if digits < 6 else f"{tick:.1e}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, label, "end"))
    turned = f'<g transform="translate(11 {(TOP + BOTTOM) / 2:.0f}) rotate(-90)">'
    parts.append(turned + _text(0, 0, f"score ({unit})" if unit else "score", kind="label") + "</g>")
    for row in [*(row for row in range(len(names)) if row != best), best]:
        points = [
            f"{x:.1f},{TOP + extent * (top - score):.1f}"
            for x, score in zip(xs, scores[row], strict=True)
            if math.isfinite(score)
        ]
        kind, title = "line chosen" if row == best else "line", f"<title>{escape(names[row])}</title>"
        parts.append(f'<polyline class="{kind}" points="{" ".join(points)}">{title}</polyline>')
        if row == best or len(points) == 1:  # a single layer has no line to see
            places = [point.split(",") for point in points]
            parts += [f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="2.6"/>' for x, y in places]
    return Markup("".join(parts) + _layer_axis(xs) + "</svg>")


def layer_heat(
    scores: NDArray[np.float64], names: Sequence[str], layers: Sequence[str], order: Sequence[int], sign: int
) -> Markup:
    """Heat map, candidates (best first) by layers: distance from the pool's mean in that layer.

    scores: (candidates, layers), NaN where a candidate was not seen; a cell shows (score - mean) / standard
    deviation, both over the candidates that were.
    sign: -1 where low scores are preferred, +1 where high ones are: which colour means "preferred".
    """
    spread = np.nanstd(scores, axis=0)
    z = (scores - np.nanmean(scores, axis=0)) / np.where(spread > 0, spread, 1.0)
    width, height = (RIGHT - LEFT) / len(layers), (BOTTOM - TOP) / len(order)
    gap = 1 if min(width, height) > 5 else 0

    parts = [_opening(f"Every layer's opinion of {len(order)} candidates, best candidate on top.")]
    step = -(-len(order) * 13 // (BOTTOM - TOP))  # labels need 13 pixels each
    for row, candidate in enumerate(order):
        name, y = names[candidate], TOP + row * height
        if row % step == 0:
            parts.append(
                _text(LEFT - 8, y + height / 2 + 4, name, "end", "tick strong" if row == 0 else "tick")
            )
        for column, value in enumerate(z[candidate]):
            if math.isfinite(value):
                kind = "good" if value * sign > 0 else "bad"
                x, opacity = LEFT + column * width, min(abs(value) / 2, 1)
                title = escape(f"{name}, {layers[column]}: {value:+.1f} sd")
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width - gap:.1f}" '
                    f'height="{height - gap:.1f}" fill-opacity="{opacity:.2f}"><title>{title}</title></rect>'
                )
    middles = [LEFT + (column + 0.5) * width for column in range(len(layers))]
    return Markup("".join(parts) + _layer_axis(middles) + "</svg>")


def _opening(description: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _layer_axis(xs: Sequence[float]) -> str:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if len(xs) / s <= 12)
    shown = sorted({0, *range(step - 1, len(xs), step)})
    words = _text((LEFT + RIGHT) / 2, HEIGHT - 6, "attention layer, in order of execution", kind="label")
    return "".join(_text(xs[i], BOTTOM + 18, str(i + 1)) for i in shown) + words


def ticks_around(low: float, high: float) -> list[float]:
    """Between 3 and 7 round numbers that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]
