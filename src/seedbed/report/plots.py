"""Where things lie in the two plots of a selection; `templates/plots.html` draws them as inline SVG."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEFT, RIGHT, TOP, BOTTOM = 78, 510, 14, 254  # edges of what is plotted, within 520 x 300


def layer_lines(scores: NDArray[np.float64], best: int) -> dict[str, Any]:
    """One line per candidate over the attention layers.

    Args:
        scores: (candidates, layers) in the acquisition's own unit, NaN where a layer was not scored.
        best: row of the chosen candidate, whose line comes last, on top of the others.

    Returns:
        `xs`, of each layer; `ticks`, pairs of y and label; `lines`, pairs of the candidate and its points.
    """
    ticks = ticks_around(float(np.nanmin(scores)), float(np.nanmax(scores)))
    exact = 1e-6 * (ticks[1] - ticks[0])
    digits = next(d for d in range(99) if all(abs(round(tick, d) - tick) < exact for tick in ticks))
    count = scores.shape[1]
    xs: list[float] = np.linspace(LEFT, RIGHT, count).tolist() if count > 1 else [(LEFT + RIGHT) / 2]
    extent = (BOTTOM - TOP) / (ticks[-1] - ticks[0])
    ys = (TOP + extent * (ticks[-1] - scores)).tolist()
    return {
        "xs": xs,
        "ticks": [
            (TOP + extent * (ticks[-1] - tick), f"{tick:.{digits}f}" if digits < 6 else f"{tick:.1e}")
            for tick in ticks
        ],
        "lines": [
            (row, [point for point in zip(xs, ys[row], strict=True) if math.isfinite(point[1])])
            for row in sorted(range(len(ys)), key=lambda row: row == best)
        ],
    }


def layer_heat(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Heat map, candidates by layers: distance from the mean of all in that layer.

    Args:
        scores: (candidates, layers), best first, NaN where a candidate was not seen.

    Returns:
        `xs`, the middle of each layer; `rows`, for each the candidate, y and pairs of layer and distance, in
        standard deviations over the candidates that were seen; `width` and `height` of a cell; `gap` between
        two; `step`, the rows from one label to the next.
    """
    spread = np.nanstd(scores, axis=0)
    z = (scores - np.nanmean(scores, axis=0)) / np.where(spread > 0, spread, 1.0)
    width, height = (RIGHT - LEFT) / scores.shape[1], (BOTTOM - TOP) / len(scores)
    return {
        "xs": [LEFT + (column + 0.5) * width for column in range(scores.shape[1])],
        "rows": [
            (row, TOP + row * height, [(i, cell) for i, cell in enumerate(cells) if math.isfinite(cell)])
            for row, cells in enumerate(z)
        ],
        "width": width,
        "height": height,
        "gap": 1 if min(width, height) > 5 else 0,
        "step": -(-len(scores) * 13 // (BOTTOM - TOP)),  # labels need 13 pixels each
    }


def ticks_around(low: float, high: float) -> list[float]:
    """Between 3 and 7 round numbers that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]
