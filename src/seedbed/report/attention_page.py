"""Pages of what attention shows: a study of it, and where a word or a place of a video looks."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seedbed.report.page import BOTTOM, LEFT, RIGHT, TOP, amount, figure, media, render, shrunk, ticks_around
from seedbed.report.video import SHORT_SIDE, encode_image

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]

# From little to much: dark blue, violet, orange, yellow, in steps whose lightness rises evenly.
_STOPS = np.array([(13, 8, 45), (84, 25, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164)])
# Frames that are drawn on, and bytes of maps that a page may hold: above it heads are left out.
_FRAMES, _BYTES = 16, 12_000_000
_BINS = 14


def study_page(data: dict[str, Any]) -> str:
    """The page of a study.

    Args:
        data: `model`; `prompts`, `steps`, `window`, `ledger`, `seconds`, `fps`; `layers`, for each `name`,
            `kind`, `half`, `normalised_entropy`, `heads` (its entropies), `energy_proportion`,
            `entropy_proportion` and `blocks` ({name: (entropy, mass)} of joint attention); `effects`, for
            each `perturb`, `effect`, `high` and `low` (values of that half); `correlations`, for each `kind`,
            `part`, `perturb`, `effect`, `layers`, `mean`, `low`, `high`; `plain`, a video or None;
            `pictures`, for each what its layer has, `layer`, `raw`, `kept` and `frames` ({perturb: video}).
    """
    layers = data["layers"]
    blocks = list(layers[0]["blocks"]) if all(each["blocks"] for each in layers) else []
    plain = data["plain"]
    return render(
        "study.html",
        data={"prompt": f"Attention of {data['model'].rpartition('/')[2] or 'a pipeline'}", **data},
        spent=amount(sum(data["ledger"].values())),
        profile=_profile(layers),
        blocks={
            name: _points([each["blocks"][name][0] for each in layers], [0.0, 1.0])[0] for name in blocks
        },
        bars=_bars([(each["entropy_proportion"], each["energy_proportion"]) for each in layers]),
        histograms=[histogram for each in data["effects"] if (histogram := _histogram(each))],
        plain=None if plain is None else media(shrunk(plain, 240), data["fps"]),
        pictures=[
            {
                **each,
                "raw": _picture(np.sqrt(each["raw"] / max(each["raw"].max(), 1e-12))),
                "kept": _picture(each["kept"]),
                "frames": {
                    change: media(shrunk(frames, 240), data["fps"])
                    for change, frames in each["frames"].items()
                },
            }
            for each in data["pictures"]
        ],
        number=lambda value: figure(value, 1.0),
    )


def maps_page(data: dict[str, Any]) -> str:
    """The page on which a person chooses layer, head and step, and sees where is looked.

    Args:
        data: `prompt`, `model`, `target` (what looks, or is looked at, in words), `frames`, a video, and
            `maps`, for each `layer`, `kind`, `step`, `part` and `values`, (heads, frames, height, width) from
            0; plus `place`, (frame, row, column) as shares, or None.
    """
    frames = some_frames(data["frames"])
    heads = sum(each["values"].size for each in data["maps"]) <= _BYTES
    maps = []
    for each in data["maps"]:
        values = each["values"]
        values = np.concatenate([values.mean(0, keepdims=True), *([values] if heads else [])])
        top = values.reshape(len(values), -1).max(1)
        packed = (values / np.maximum(top, 1e-12)[:, None, None, None] * 255).round().astype(np.uint8)
        maps.append(
            {
                **{key: each[key] for key in ("layer", "kind", "step", "part")},
                "shape": packed.shape,
                "top": [float(f"{value:.3g}") for value in top],
                "data": base64.b64encode(packed.tobytes()).decode(),
            }
        )
    pictures = [media(frame[None], 1)["uri"] for frame in shrunk(frames, 320)]
    # The page opens on the narrowest map: in a broad one, as first layers often have, nothing is to be seen.
    means = [each["values"].mean(0) for each in data["maps"]]
    first = int(np.argmax([mean.max() / max(mean.mean(), 1e-12) for mean in means]))
    shown = {"frames": pictures, "maps": maps, "first": first, "place": data["place"]}
    return render("maps.html", data=data, shown=shown, heads=heads, tiny=min(frames.shape[1:3]) < SHORT_SIDE)


def maps_image(data: dict[str, Any]) -> Pixels:
    """One picture of maps, uint8 (height, width, 3): a line for each layer, over frames from left to right.

    Means over heads and steps. Arguments as of `maps_page`.
    """
    frames = shrunk(some_frames(data["frames"], 6), 192)
    factor = max(1, 128 // min(frames.shape[1:3]))
    frames = frames.repeat(factor, 1).repeat(factor, 2)
    lines: dict[tuple[str, str], list[Floats]] = {}
    for each in data["maps"]:
        lines.setdefault((each["layer"], each["part"]), []).append(each["values"].mean(0))
    rows = []
    for (layer, part), values in lines.items():
        label = Image.new("RGB", (frames.shape[2] * len(frames), 18), "white")
        ImageDraw.Draw(label).text((4, 3), f"{layer}  {part}", fill="black")
        rows += [np.asarray(label), np.concatenate(list(overlaid(frames, np.mean(values, 0))), axis=1)]
    return np.concatenate(rows)


def some_frames(frames: Pixels, most: int = _FRAMES) -> Pixels:
    """At most so many of a video's frames, evenly spaced, the first and the last among them."""
    some: Pixels = frames[np.linspace(0, len(frames) - 1, min(len(frames), most)).round().astype(int)]
    return some


def overlaid(frames: Pixels, values: Floats) -> Pixels:
    """Frames, each under the nearest in time of the maps (frames, height, width), brightest at their most."""
    found = []
    for number, frame in enumerate(frames):
        at = round(number * (len(values) - 1) / max(1, len(frames) - 1))
        share = Image.fromarray((values[at] / max(values.max(), 1e-12) * 255).astype(np.uint8))
        own = np.asarray(share.resize(frame.shape[1::-1], Image.Resampling.BILINEAR)) / 255.0
        found.append((0.45 * frame * (1 - own[..., None]) + 0.55 * tinted(own)).clip(0, 255))
    return np.stack(found).astype(np.uint8)


def tinted(values: Floats) -> Pixels:
    """Numbers from 0 to 1 as colours, uint8 (..., 3)."""
    places = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(values, places, channel) for channel in _STOPS.T], -1).astype(np.uint8)


def _picture(values: Floats) -> str:
    data = base64.b64encode(encode_image(tinted(values))).decode()
    return f"data:image/png;base64,{data}"


def _points(values: Sequence[float], ticks: Sequence[float]) -> tuple[list[tuple[float, float]], list[float]]:
    """Places of values over the layers, and the y of each tick."""
    count = len(values)
    xs = np.linspace(LEFT + 12, RIGHT - 12, count) if count > 1 else np.array([(LEFT + RIGHT) / 2])
    extent = (BOTTOM - TOP) / (ticks[-1] - ticks[0])
    ys = [TOP + extent * (ticks[-1] - value) for value in (*values, *ticks)]
    return list(zip(xs.tolist(), ys[:count], strict=True)), ys[count:]


def _profile(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Normalised entropy by layer, with a dot for each head."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    line, ys = _points([each["normalised_entropy"] for each in layers], ticks)
    extent = ys[0] - ys[-1]
    heads = [
        [(x, ys[0] - extent * value) for value in each["heads"]]
        for (x, _), each in zip(line, layers, strict=True)
    ]
    return {"line": line, "ticks": list(zip(ys, ticks, strict=True)), "heads": heads}


def _bars(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ticks = ticks_around(0.0, max(max(pair) for pair in pairs))
    first, ys = _points([pair[0] for pair in pairs], ticks)
    second, _ = _points([pair[1] for pair in pairs], ticks)
    width = min(14.0, 0.4 * (RIGHT - LEFT) / len(pairs))
    labels = [f"{100 * tick:g} %" for tick in ticks]
    return {
        "pairs": list(zip(first, second, strict=True)),
        "ticks": [*zip(ys, labels, strict=True)],
        "width": width,
    }


def _histogram(effect: dict[str, Any]) -> dict[str, Any] | None:
    """How often an effect has which size, of the halves; None where it is the same everywhere."""
    low, high = min(effect["high"] + effect["low"]), max(effect["high"] + effect["low"])
    if not low < high:
        return None
    edges = np.linspace(low, high, _BINS + 1)
    counts = {half: np.histogram(effect[half], edges)[0] / len(effect[half]) for half in ("high", "low")}
    top = max(count.max() for count in counts.values())
    return {
        "name": effect["effect"],
        "perturb": effect["perturb"],
        "bins": {half: (count / top).tolist() for half, count in counts.items()},
        "ends": (figure(low, high - low), figure(high, high - low)),
        "means": {half: figure(float(np.mean(effect[half])), high - low) for half in ("high", "low")},
        "zero": -low / (high - low) if low < 0 < high else None,
    }
