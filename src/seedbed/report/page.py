"""The report of a selection: one HTML file that needs no network and no other file."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from seedbed.report.plots import layer_heat, layer_lines
from seedbed.report.video import SHORT_SIDE, encode_image, encode_video

PREVIEW_SIDE = 160  # pixels of a preview's long side on the page; larger ones only make the file heavy

templates = jinja2.Environment(
    loader=jinja2.PackageLoader("seedbed.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def selection_page(data: dict[str, Any]) -> str:
    """A self-contained HTML page about one selection, from plain data.

    Args:
        data: a selection's or generation's record, of which `prompt`, `model`, `acquisition`, `prefer`,
            `reason`, `best`, `order`, `totals`, `scores`, `layers`, `recipes`, `ledger`, `seconds` and `call`
            are shown, and where given `unit` (of the scores, such as "nats"), `fps` (8) and `rungs` (the
            pauses of a selection by previews); plus, each optional: `frames`, uint8 (frames, height, width,
            3), the generated video; `previews`, one such array or None per candidate, in the order of the
            pool; `replay`, the shell command that makes the video again.

    Raises:
        KeyError: the record lacks one of its keys.
    """
    record = {key: value for key, value in data.items() if key not in ("frames", "previews", "replay")}
    order, best = list(data["order"]), data["best"]
    totals = [math.nan if total is None else float(total) for total in data["totals"]]
    previews = data.get("previews") or [None] * len(totals)
    fps = data.get("fps") or 8
    frames, unit = data.get("frames"), data.get("unit", "")
    names = [f"noise {recipe['candidate']}" for recipe in data["recipes"]]
    if len(set(names)) < len(names):  # noises of the user's own, told apart by their seeds
        names = [f"seed {recipe['seed']}" for recipe in data["recipes"]]

    seen = [sum(score is not None for score in row) for row in data["scores"]]
    # Means over fewer layers do not compare with those of the candidates that stayed to the end.
    compared = [total for total, depth in zip(totals, seen, strict=True) if depth == max(seen)]
    finite: list[float] = [total for total in compared if math.isfinite(total)]
    low, high = (min(finite), max(finite)) if finite else (math.nan, math.nan)
    mean = abs(sum(finite)) / max(len(finite), 1)
    rows = [
        {
            "rank": rank + 1,
            "name": names[candidate],
            "seed": data["recipes"][candidate]["seed"],
            "chosen": candidate == best,
            "total": figure(totals[candidate], high - low),
            "dropped": seen[candidate] if seen[candidate] < max(seen) else None,
            "place": 100 * (totals[candidate] - low) / (high - low) if high > low else 50,
            "preview": media(shrunk(previews[candidate]), fps) if previews[candidate] is not None else None,
        }
        for rank, candidate in enumerate(order)
    ]

    rungs = data.get("rungs") or []
    for row, candidate in zip(rows, order, strict=True):
        row["rungs"] = [
            figure(scores[candidate], high - low) if candidate in scores else None
            for scores in (dict(zip(rung["candidates"], rung["scores"], strict=True)) for rung in rungs)
        ]

    layers: Sequence[str] = data["layers"]
    lines = heat = None
    if layers:
        scores = np.array(
            [[math.nan if s is None else s for s in row] for row in data["scores"]], dtype=np.float64
        )
        if np.isfinite(scores).any():
            lines = layer_lines(scores, names, layers, best, unit)
        if lines and len(totals) > 1:
            heat = layer_heat(scores, names, layers, order, -1 if data["prefer"] == "low" else 1)

    ledger, seconds = data["ledger"], data["seconds"]
    spent = sum(ledger.values())
    costs = [
        {
            "what": what,
            "evaluations": amount(ledger[what]) if what in ledger else "–",
            "share": 100 * ledger.get(what, 0) / spent if spent else 0,
            "seconds": f"{seconds[what]:,.2f}" if what in seconds else "–",
        }
        for what in [*ledger, *(what for what in seconds if what not in ledger)]
    ]

    return templates.get_template("selection.html").render(
        data=data,
        unit=unit,
        fps=fps,
        version=data.get("seedbed"),
        hero=media(frames, fps, record) if frames is not None else None,
        previewed=any(preview is not None for preview in previews),
        size="{0} frames, {2} × {1} pixels".format(*frames.shape) if frames is not None else "",
        stand_in=media(shrunk(previews[best]), fps) if previews[best] is not None else None,
        rows=rows,
        rungs=rungs,
        picked="picked" in data.get("options", {}),
        low=figure(low, high - low),
        high=figure(high, high - low),
        spread=percentage((high - low) / mean) if high > low and mean else None,
        chosen=next(row for row in rows if row["chosen"]),
        lines=lines,
        heat=heat,
        layers=layers,
        costs=costs,
        spent=amount(spent),
        elapsed=f"{sum(seconds.values()):,.1f}",
        overheads=[
            f"{what} {percentage(evaluations / ledger['generation'])} %"
            for what, evaluations in ledger.items()
            if ledger.get("generation") and what != "generation"
        ],
        replay=data.get("replay") or "seedbed replay RECORD.json",
        recipe=json.dumps(data["recipes"][best], indent=2),
    )


def media(frames: np.ndarray, fps: float, record: dict[str, Any] | None = None) -> dict[str, Any]:
    """A video or picture for the templates: its kind, its data as a URI, and whether it is tiny."""
    if len(frames) == 1:
        kind, data = "image/png", encode_image(frames[0], record)
    else:
        kind, data = "video/mp4", encode_video(frames, fps, record)
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"kind": kind, "uri": uri, "tiny": min(frames.shape[1:3]) < SHORT_SIDE / 2}


def shrunk(frames: np.ndarray, side: int = PREVIEW_SIDE) -> np.ndarray:
    """Mean over square blocks, down to a long side of at most twice `side`."""
    factor = max(frames.shape[1:3]) // side
    if factor < 2:
        return frames
    height, width = (side // factor * factor for side in frames.shape[1:3])
    blocks = frames[:, :height, :width].reshape(
        len(frames), height // factor, factor, width // factor, factor, 3
    )
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def figure(value: float, spread: float) -> str:
    """As many decimals as tell the candidates apart, and no more."""
    if not math.isfinite(value):
        return "–"
    digits = 4 if not spread > 0 else 2 - math.floor(math.log10(spread))
    return f"{value:.{digits}f}" if 0 <= digits <= 7 else f"{value:.4g}"


def amount(evaluations: float) -> str:
    """Four digits, and all those of large numbers: 7.333, 184, 12,345."""
    return f"{evaluations:,.0f}" if evaluations >= 1000 else f"{evaluations:.4g}"


def percentage(share: float) -> str:
    """Two digits, and all those of large numbers: 0.0022, 18, 360."""
    return f"{100 * share:,.0f}" if share >= 0.1 else f"{100 * share:.2g}"
