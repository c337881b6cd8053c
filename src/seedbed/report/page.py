"""Self-contained HTML pages from plain data: reports of selections and of edits, and the contact sheet.

Each is one file that needs no network and no other file.
"""

import base64
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seedbed.report.video import SHORT_SIDE, encode_image, encode_video

# Of the best candidates: a video takes up to 100 kB of a page, a line and a row of a plot a tenth of that.
PICTURES = PLOTTED = 60
# Edges of what is plotted, within 520 x 300; `templates/plots.html` draws it as inline SVG.
LEFT, RIGHT, TOP, BOTTOM = 78, 510, 14, 254


def selection_page(data: dict[str, Any]) -> str:
    """The page of one selection.

    Args:
        data: a selection's or generation's record, of which `prompt`, `model`, `acquisition`, `prefer`,
            `reason`, `best`, `order`, `totals`, `scores`, `layers`, `recipes`, `ledger`, `seconds` and `call`
            are shown, and where given `unit` (of the scores, such as "nats"), `fps` (8) and `rungs` (the
            pauses of a selection by previews); plus, each optional: `frames`, uint8 (frames, height, width,
            3), the generated video; `previews`, one such array or None per candidate, in the order of the
            pool, of which those of the `PICTURES` best are shown; `replay`, the shell command that makes the
            video again. The layers' plots show the `PLOTTED` best.

    Raises:
        KeyError: the record lacks one of its keys.
    """
    record = {key: value for key, value in data.items() if key not in ("frames", "previews", "replay")}
    best, frames, fps = data["best"], data.get("frames"), data.get("fps") or 8
    totals, scores = (np.array(data[key], np.float64) for key in ("totals", "scores"))  # None becomes nan
    previews = _pictures(data, 160, fps)
    rungs = [dict(zip(rung["candidates"], rung["scores"], strict=True)) for rung in data.get("rungs") or []]
    origins = [origin(recipe) for recipe in data["recipes"]]
    names = [name for name, _, _ in origins]
    if len(set(names)) < len(names):  # noises of the user's own, told apart by their seeds, else numbered
        names = [seed for _, seed, _ in origins]
    if len(set(names)) < len(names):
        names = [f"noise {index}" for index in range(len(names))]

    seen = np.isfinite(scores).sum(axis=1)
    # Means over fewer layers do not compare with those of the candidates that stayed to the end.
    stayed = totals[(seen == seen.max()) & np.isfinite(totals)]
    low, high = (float(stayed.min()), float(stayed.max())) if stayed.size else (math.nan, math.nan)
    rows = [
        {
            "name": names[candidate],
            "origin": ", ".join(filter(None, origins[candidate][1:])),
            "chosen": candidate == best,
            "total": figure(totals[candidate], high - low),
            "dropped": seen[candidate] if seen[candidate] < seen.max() else None,
            "place": 100 * (totals[candidate] - low) / (high - low) if high > low else 50,
            "preview": previews.get(candidate),
            "rungs": [figure(rung[candidate], high - low) if candidate in rung else None for rung in rungs],
        }
        for candidate in data["order"]
    ]
    # Those that are plotted, best first.
    shown = data["order"][:PLOTTED]
    plots = [layer_lines(scores[shown], shown.index(best))] if np.isfinite(scores[shown]).any() else []
    if plots and len(totals) > 1:
        plots.append(layer_heat(scores[shown]))
    picked = "picked" in data.get("options", {})
    ledger, seconds = data["ledger"], data["seconds"]
    spent = sum(ledger.values())
    costs = [
        {
            "what": what,
            "evaluations": amount(ledger[what]) if what in ledger else "–",
            "share": 100 * ledger.get(what, 0) / spent if spent else 0,
            "seconds": f"{seconds[what]:,.2f}" if what in seconds else "–",
        }
        for what in {**ledger, **seconds}
    ]
    return render(
        "selection.html",
        data=data,
        unit=data.get("unit", ""),
        fps=fps,
        hero=media(frames, fps, record) if frames is not None else None,
        size="{0} frames, {2} × {1} pixels".format(*frames.shape) if frames is not None else "",
        stand_in=previews.get(best),
        names=[names[candidate] for candidate in shown],
        line=shown.index(best),
        pictures=PICTURES,
        plotted=PLOTTED,
        rows=rows,
        by_previews=bool(rungs) or picked or data["acquisition"] in ("preview", "previews"),
        picked=picked,
        low=figure(low, high - low),
        high=figure(high, high - low),
        spread=percentage((high - low) / abs(stayed.mean())) if high > low and stayed.mean() else None,
        chosen=next(row for row in rows if row["chosen"]),
        plots=plots,
        costs=costs,
        spent=amount(spent),
        elapsed=f"{sum(seconds.values()):,.1f}",
        overheads=[
            f"{what} {percentage(evaluations / ledger['generation'])} %"
            for what, evaluations in ledger.items()
            if ledger.get("generation") and what != "generation"
        ],
        command=data.get("replay") or "seedbed replay RECORD.json",
        recipe=json.dumps(data["recipes"][best], indent=2),
    )


def sheet_page(data: dict[str, Any]) -> str:
    """The contact sheet: every candidate's preview, for a person to pick from.

    Args:
        data: a sheet's record; plus `previews`, uint8 (frames, height, width, 3) for each candidate in the
            order of the pool, and `command`, the shell command that finishes a candidate, whose number is
            appended, or "".

    Raises:
        KeyError: the record lacks one of its keys.
    """
    totals, previews = np.array(data["totals"], np.float64), _pictures(data, 320, data["fps"])  # None: nan
    judged, named = np.isfinite(totals).any(), [origin(recipe) for recipe in data["recipes"]]
    spread = float(np.nanmax(totals) - np.nanmin(totals)) if judged else 0.0
    cards = [
        {
            "number": candidate,
            "name": f"noise {candidate}",
            "origin": ", ".join(
                word for word in named[candidate][::2] if word not in ("", f"noise {candidate}")
            ),
            "preview": previews.get(candidate),
            "score": figure(totals[candidate], spread) if judged else None,
            "first": bool(spread) and totals[candidate] == np.nanmax(totals),
            "checked": judged and candidate == data["order"][0],
        }
        for candidate in data["order"]
    ]
    return render(
        "sheet.html",
        data=data,
        pictures=PICTURES,
        cards=cards,
        command=data["command"],
        judge=data["options"].get("verifier"),
        spent=amount(sum(data["ledger"].values())),
        elapsed=f"{sum(data['seconds'].values()):,.1f}",
        rest=data["sheet"]["of"] - data["sheet"]["steps"],
    )


def edit_page(data: dict[str, Any]) -> str:
    """The page of an edit: source and edit side by side.

    Args:
        data: an edit's record; plus `frames` and `original`, uint8 (frames, height, width, 3).

    Raises:
        KeyError: the record lacks one of its keys.
    """
    record = {key: value for key, value in data.items() if key not in ("frames", "original")}
    options = dict(data["options"])
    return render(
        "edit.html",
        data={**data, "prompt": data["target"]},
        before=media(data["original"], data["fps"]),
        after=media(data["frames"], data["fps"], record),
        size="{0} frames, {2} × {1} pixels".format(*data["frames"].shape),
        layers=options.pop("layers", []),
        options=options,
        costs=[(what, amount(evaluations)) for what, evaluations in data["ledger"].items()],
        spent=amount(sum(data["ledger"].values())),
        elapsed=f"{sum(data['seconds'].values()):,.1f}",
    )


def origin(recipe: dict[str, Any]) -> tuple[str, str, str]:
    """From a recipe's record: what a noise is called, the seed of its pool, and how it was made.

    One that torch draws is called by the seed that any other tool takes, and its pool's plays no part. How it
    was made is its prior and its refiners, "" for plain Gaussian noise.
    """
    prior, seed = recipe.get("prior", "gaussian"), recipe["seed"]
    drawn = prior if prior != "gaussian" else ""
    made = ", ".join(filter(None, [drawn, *(each["refiner"] for each in recipe.get("refinements", ()))]))
    if prior.partition(":")[0] == "torch":
        return f"torch seed {seed + recipe['candidate']}", "", made
    return f"noise {recipe['candidate']}", "given" if seed is None else f"seed {seed}", made


def _pictures(data: dict[str, Any], side: int, fps: float) -> dict[int, dict[str, Any]]:
    """The previews of the best candidates, for the templates."""
    previews = data.get("previews") or [None] * len(data["order"])
    return {
        candidate: media(shrunk(previews[candidate], side), fps)
        for candidate in data["order"][:PICTURES]
        if previews[candidate] is not None
    }


def render(template: str, **content: Any) -> str:
    """A page of `templates/`."""
    import jinja2  # a record is read without it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("seedbed.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def media(frames: NDArray[np.uint8], fps: float, record: dict[str, Any] | None = None) -> dict[str, Any]:
    """A video or picture for the templates: its kind, its data as a URI, and whether it is tiny."""
    if len(frames) == 1:
        kind, data = "image/png", encode_image(frames[0], record)
    else:
        kind, data = "video/mp4", encode_video(frames, fps, record)
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"kind": kind, "uri": uri, "tiny": min(frames.shape[1:3]) < SHORT_SIDE / 2}


def shrunk(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Mean over square blocks, down to a long side of at most twice `side`: larger ones make a page heavy."""
    factor = max(1, max(frames.shape[1:3]) // side)
    return np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames])


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
