"""Small inline SVG plots: geometry here, colours in the page's style sheet, which knows light and dark."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 78, 10, 14, 46


def layer_lines(scores: NDArray[np.float64], names: Sequence[str], best: int, unit: str) -> Markup:
    """One line per candidate over the attention layers, the chosen one on top.

    scores: (candidates, layers) in the acquisition's own unit, NaN where a layer was not scored.
    names: a label per candidate; best: row of the chosen candidate; unit: of the scores, "" for none.
    """
    finite = scores[np.isfinite(scores)]
    ticks = ticks_around(float(finite.min()), float(finite.max()))
    low, high = ticks[0], ticks[-1]
    count = scores.shape[1]

    def x(layer: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (layer / (count - 1) if count > 1 else 0.5)

    def y(score: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - score) / (high - low)

    parts = [_frame(f"Score by layer for {len(names)} candidates; the chosen one is {names[best]}.")]
    exact = 1e-6 * (ticks[1] - ticks[0])
    digits = next(d for d in range(99) if all(abs(round(tick, d) - tick) < exact for tick in ticks))
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        label = f"{tick:.{digits}f}" if digits < 6 else f"{tick:.1e}"
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    parts += _layer_axis(count, x)
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"score{escape(f' ({unit})' if unit else '')}</text>"
    )
    for row in [*(row for row in range(len(names)) if row != best), best]:
        points = [(x(i), y(float(s))) for i, s in enumerate(scores[row]) if math.isfinite(s)]
        kind = "line chosen" if row == best else "line"
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(
            f'<polyline class="{kind}" points="{path}"><title>{escape(names[row])}</title></polyline>'
        )
        # A single layer has no line to see.
        if row == best or len(points) == 1:
            parts += [
                f'<circle class="dot {kind}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in points
            ]
    return Markup("".join(parts) + "</svg>")


def layer_heat(
    scores: NDArray[np.float64], names: Sequence[str], layers: Sequence[str], order: Sequence[int], sign: int
) -> Markup:
    """Heat map, candidates (best first) by layers: distance from the pool's mean in that layer.

    scores: (candidates, layers), NaN where a candidate was not seen; a cell shows (score - mean) / standard
    deviation, both over the candidates that were.
    sign: -1 where low scores are preferred, +1 where high ones are: which colour means "preferred".
    """
    scores = scores[list(order)]
    spread = np.nanstd(scores, axis=0)
    z = (scores - np.nanmean(scores, axis=0)) / np.where(spread > 0, spread, 1.0)
    candidates, count = scores.shape
    width = (WIDTH - LEFT - RIGHT) / count
    height = (HEIGHT - TOP - BOTTOM) / candidates
    gap = 1 if min(width, height) > 5 else 0

    parts = [_frame(f"Every layer's opinion of {candidates} candidates, best candidate on top.")]
    step = -(-candidates * 13 // (HEIGHT - TOP - BOTTOM))
    for row, candidate in enumerate(order):
        top = TOP + row * height
        if row % step == 0:
            kind = "tick strong" if row == 0 else "tick"
            parts.append(
                f'<text class="{kind}" x="{LEFT - 8}" y="{top + height / 2 + 4:.1f}" text-anchor="end">'
                f"{escape(names[candidate])}</text>"
            )
        for column, layer in enumerate(layers):
            value = float(z[row, column])
            if not math.isfinite(value):
                continue
            kind = "good" if value * sign > 0 else "bad"
            opacity = min(abs(value) / 2, 1)
            parts.append(
                f'<rect class="{kind}" x="{LEFT + column * width:.1f}" y="{top:.1f}" '
                f'width="{width - gap:.1f}" height="{height - gap:.1f}" fill-opacity="{opacity:.2f}">'
                f"<title>{escape(names[candidate])}, {escape(layer)}: {value:+.1f} sd</title></rect>"
            )
    parts += _layer_axis(count, lambda layer: LEFT + (layer + 0.5) * width)
    return Markup("".join(parts) + "</svg>")


def _frame(description: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'


def _layer_axis(count: int, x: Callable[[int], float]) -> list[str]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if count / s <= 12)
    shown = [0] if count == 1 else sorted({0, *range(step - 1, count, step)})
    bottom = HEIGHT - BOTTOM
    parts = [
        f'<text class="tick" x="{x(i):.1f}" y="{bottom + 18}" text-anchor="middle">{i + 1}</text>'
        for i in shown
    ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        "attention layer, in order of execution</text>"
    )
    return parts


def ticks_around(low: float, high: float) -> list[float]:
    """Between 3 and 7 round numbers that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]
