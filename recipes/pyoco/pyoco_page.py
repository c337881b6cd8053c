"""What a prior is worth in training: `python recipes/pyoco/pyoco_page.py`.

Makes the measured parts of docs/pyoco.md and its figure of the files in `results/`, which measure.py,
noise.py, final.py, choose.py, layers.py and cascade.py leave. A test checks that the page is what the
committed results make.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import interval, replaced, rounded, share, signed, signs_p, table  # noqa: E402

from seedbed.statistics import bootstrap, holm  # noqa: E402

ROOT = HERE.parents[1]
PAGE, FIGURE = ROOT / "docs/pyoco.md", ROOT / "docs/figures/pyoco-curves.png"
RIVALS = ("mixed:1", "progressive:2")
PRIORS = ("gaussian", *RIVALS)
IMAGE = "no temporal layer"
# Results of final.py, and which weights they are of.
STAGES = {
    "final-2400": "after 2,400 steps",
    "final-10400": "after 10,400 steps",
}
CHOICE_HEADS = ["method", "verifier", "cost", "against", "gain in score", "p, adjusted"]
SIGNAL_HEADS = ["signal", "Spearman with the score, within captions", "p, adjusted", "gain of the lowest"]
PAIRED = ["trained under", "minus", "score", "motion right", "score by seed", "p, adjusted"]
CHOICES = [
    "model", "frames", "score", "best of 16 minus it", "BANSA, as published: Spearman", "its lowest of ten",
    "without masks: Spearman", "its lowest of ten", "injection",
]  # fmt: skip
Results = dict[str, dict[str, Any]]
Arms = dict[str, list[dict[str, Any]]]
# What else arms of three seeds differ in, at the end of their names.
VARIANTS = {"": "", ", shift 4": ", with a shift of 4", ", convolutions": ", with temporal convolutions"}
FIXED = 0.6  # a score, to which steps are counted


def read(folder: Path = HERE / "results") -> Results:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    kept = set()
    for name, each in found.items():
        if each.get("kind") in ("own", "other", "longer", "from video"):
            key = *(each[name] for name in ("world", "arm", "seed", "prior", "frames")), each.get("strength")
            if key in kept:
                raise SystemExit(f"{name}.json measures what another file of results does: {key}")
            kept.add(key)
    return found


def means(result: dict[str, Any], key: str) -> np.ndarray:
    """One number a caption; of no number where a caption has none, as frozen videos of what should rest."""
    found: np.ndarray = np.array([np.mean(some) if some else np.nan for some in result["values"][key]])
    return found


def over_seeds(results: list[dict[str, Any]], key: str) -> np.ndarray:
    found: np.ndarray = np.mean([means(result, key) for result in results], 0)
    return found[~np.isnan(found)]


def arms(results: Results) -> Arms:
    """Of each arm its trainings, sampled from their own prior at the trained length, by seed."""
    found = defaultdict(list)
    for result in results.values():
        if result.get("kind") == "own" and result["world"] == "shapes":
            found[result["arm"]].append(result)
    return found


def line(name: str, trained: list[dict[str, Any]]) -> list[str]:
    def of(key: str) -> Any:
        return bootstrap(over_seeds(trained, key))

    fvd = [each["fvd"] for each in trained]
    inception = [each["inception"][0] for each in trained]
    steps = [reached(each["curve"]) for each in trained if "curve" in each]
    spread = "{:.1f}" if len(trained) == 1 else "{:.1f} ({:.1f} to {:.1f})"
    return [
        name,
        str(len(trained)),
        interval(of("score")),
        share(of("motion")),
        share(of("frozen")),
        share(of("frames")),
        f"{1000 * over_seeds(trained, 'flicker').mean():.1f}",
        spread.format(np.mean(fvd), min(fvd), max(fvd)),
        spread.format(np.mean(inception), min(inception), max(inception)),
        f"{over_seeds(trained, 'diversity').mean():.2f}",
        ", ".join("–" if step is None else f"{step:.0f}" for step in steps),
    ]


HEADS = [
    "trained under", "seeds", "score", "motion right", "stands still", "single frames right", "flicker, ‰",
    "FVD, own features", "Inception Score", "diversity", f"steps to {FIXED:g}",
]  # fmt: skip


def differences(found: Arms, pairs: list[tuple[str, str]]) -> list[list[str]]:
    """Each arm of several seeds against another: pooled, by seed, and the score's p, adjusted for all."""
    rows, values = [], list[float]()
    for arm, base in pairs:
        if len(seeds := against(found, arm, base)) > 1:
            pooled = np.mean(seeds, 0)
            values.append(signs_p(pooled))
            motion = np.mean(against(found, arm, base, "motion"), 0)
            by_seed = ", ".join(f"{s.mean():+.3f}".replace("-", "−") for s in seeds)
            rows.append([arm, base, *(signed(bootstrap(each)) for each in (pooled, motion)), by_seed])
    return [
        [*row, f"{p:.3f}" if p >= 0.001 else "< 0.001"] for row, p in zip(rows, holm(values), strict=True)
    ]


def singles(found: Arms) -> list[list[str]]:
    """Arms of one seed, each minus another of that seed: what one training says, and no more.

    Of convolutions under a correlated prior that is convolutions under independent noise.
    """
    rows = []
    for arm in sorted(found.keys() - {*PRIORS}):
        prior, _, what = arm.partition(", ")
        like = f"gaussian, {what}"
        base = like if prior != "gaussian" and like in found else "gaussian"
        if len(found[arm]) == 1 and paired(found, arm, base):
            differing = (against(found, arm, base, key)[0] for key in ("score", "motion", "frames"))
            rows.append([arm, base, *(signed(bootstrap(each[~np.isnan(each)])) for each in differing)])
    return rows


def against(found: Arms, arm: str, base: str, key: str = "score") -> list[np.ndarray]:
    """What an arm has more of than another, (captions,) for each seed that both have."""
    return [means(one, key) - means(other, key) for one, other in paired(found, arm, base)]


def paired(found: Arms, arm: str, base: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    plain = {each["seed"]: each for each in found.get(base, [])}
    return [(each, plain[each["seed"]]) for each in found.get(arm, []) if each["seed"] in plain]


def reached(curve: list[dict[str, Any]], score: float = FIXED) -> float | None:
    """The step at which a learning curve first reaches a score, linear between its points; None if never."""
    last = (0.0, 0.0)
    for point in curve:
        step, mean = float(point["step"]), float(np.mean(point["score"]))
        if mean >= score:
            return last[0] + (step - last[0]) * (score - last[1]) / (mean - last[1])
        last = step, mean
    return None


def temporal(results: Results) -> list[list[str]]:
    """What temporal layers cost: parameters, and the time of a training step, in steps without any."""
    return [
        [name, f"{each['parameters']:,}", interval(each["time"], ".2f")]
        for name, each in results.get("layers", {}).get("layers", {}).items()
    ]


def choices(results: Results) -> list[list[str]]:
    """BANSA and injection, as choose.py measures them."""
    rows = []
    for each in results.values():
        if each.get("kind") == "choose":
            row = [each["arm"], str(each["frames"]), *(f"{each[key][0]:.3f}" for key in ("random", "gap"))]
            for signal in each["signals"]:
                lowest = each["lowest of ten"][signal["signal"]]
                row += [f"{interval(signal['within'], '+.3f')}, p {signal['p']:.3f}"]
                row += [f"{signed(lowest['gain'])}, p {lowest['p']:.3f}"]
            rows.append([*row, signed(each["injection"])])
    return rows


def mismatches(results: Results) -> list[list[str]]:
    """Rows: trained under; columns: sampled from. Scores of seed 2, its own on the diagonal."""
    rows = []
    for trained, seed in (*((prior, 2) for prior in PRIORS), (IMAGE, 0)):
        own = {
            each["prior"]: interval(bootstrap(means(each, "score")))
            for each in results.values()
            if (each.get("arm"), each.get("seed")) == (trained, seed)
            and each["kind"] in ("own", "other")
            and each["world"] == "shapes"
        }
        rows += [[trained, *(own.get(prior, "–") for prior in PRIORS)]] if own else []
    return rows


def from_video(results: Results) -> list[list[str]]:
    """Videos that began as a clip of another colour, by how much of the schedule their noise takes."""
    found = [each for each in results.values() if each.get("kind") == "from video"]
    return [
        [
            each["arm"],
            each["prior"],
            f"{each['strength']:g}",
            interval(bootstrap(means(each, "score"))),
            *(share(bootstrap(means(each, key))) for key in ("colour", "motion", "all_right")),
        ]
        for each in sorted(found, key=lambda each: (each["arm"], each["strength"], each["prior"]))
    ]


def handwriting(results: Results) -> list[list[str]]:
    """The arms of the digits world, each against independent noise."""
    found = {
        each["arm"]: each
        for each in results.values()
        if each.get("world") == "digits" and each["kind"] == "own" and each["seed"] == 2
    }
    rows = []
    for arm, each in found.items():
        plain = found.get("gaussian", each)
        less = "–" if plain is each else signed(bootstrap(means(each, "score") - means(plain, "score")))
        row = [arm, interval(bootstrap(means(each, "score")))]
        row += [share(bootstrap(means(each, key))) for key in ("digit", "motion")]
        row += [
            f"{score:.2f} ± {deviation:.2f}"
            for score, deviation in (each["inception"], each["inception of real ones"])
        ]
        rows.append([*row, less])
    return rows


def longer(results: Results) -> list[list[str]]:
    """Videos of more frames than trained, minus those of the trained number, by caption."""
    rows = []
    for each in results.values():
        found = [own for own in arms(results)[each.get("arm")] if own["seed"] == each["seed"]]
        if each.get("kind") == "longer" and found:
            (usual,) = found
            row = [each["arm"], str(each["frames"]), interval(bootstrap(means(each, "score")))]
            row += [
                signed(bootstrap(means(each, k) - means(usual, k))) for k in ("score", "motion", "frames")
            ]
            rows.append(row)
    return rows


def curves(results: Results) -> dict[str, list[tuple[int, float, float, float]]]:
    """(step, mean, low, high) of each arm's scores in training, over captions of the means over seeds."""
    found = {}
    for arm, trained in arms(results).items():
        by = defaultdict(list)
        for each in trained:
            for point in each.get("curve", []):
                by[point["step"]].append(point["score"])
        if by:
            found[arm] = [(step, *bootstrap(np.mean(scores, 0))) for step, scores in sorted(by.items())]
    return found


def noise(results: Results) -> list[list[str]]:
    """Of every kind of frames that were inverted: how alike the noise is, and the prior nearest to it."""
    rows = []
    for name, each in results.items():
        if each.get("kind") == "noise":
            maps, leak = each["maps"], each["leak"]
            near = min(("mixed", "progressive"), key=lambda prior: maps[prior]["residual"][0])
            rows.append(
                [
                    name.removeprefix("noise-"),
                    str(each["videos"]),
                    *(interval(some["same"]) for some in (maps, leak)),
                    interval(maps["cross"]),
                    ", ".join(f"{lag[0]:.2f}" for lag in maps["lags"]),
                    f"{near}, {interval(maps[near]['alpha'], '.2f')}",
                    f"`{each['prior']}`",
                ]
            )
    return rows


def cascade(results: Results) -> list[list[str]]:
    rows = []
    for name, stage in results.get("cascade", {}).get("stages", {}).items():
        error, score = stage["error"], stage["score"]
        rows.append(
            [
                name.replace("_", " "),
                *(f"{1000 * error[who][0]:.2f}" for who in ("stage", "twin")),
                interval([1000 * each for each in error["difference"]], "+.2f"),
                *(f"{score[who][0]:.3f}" for who in ("stage", "twin")),
                signed(score["difference"]),
                "yes" if stage["wins"] else "no",
            ]
        )
    return rows


def final(results: Results, name: str) -> list[list[str]]:
    """Every way to choose or better a noise of `shapes-animatediff`, in the order of its cost."""
    front = results.get(name, {}).get("front", {})
    return [
        [
            name,
            "yes" if each["verifier"] else "no",
            f"{each['cost']:.1f} ×",
            each["against"],
            signed(each["gain"]),
            each["p"],
        ]
        for name, each in sorted(front.items(), key=lambda item: item[1]["cost"])
    ]


def signal_rows(results: Results, name: str) -> list[list[str]]:
    return [
        [
            each["signal"].removeprefix("0/"),
            interval(each["within"], "+.3f"),
            f"{each['p']:.3f}",
            signed(each["low"]),
        ]
        for each in results.get(name, {}).get("signals", [])
    ]


def draw(trained: Arms, found: dict[str, list[tuple[int, float, float, float]]]) -> None:
    import matplotlib.pyplot as plt

    panels = {
        words.removeprefix(", ") or "temporal attention": [
            arm + what for arm in PRIORS if len(trained.get(arm + what, [])) > 1
        ]
        for what, words in VARIANTS.items()
    }
    panels["one seed"] = sorted(found.keys() - {*itertools.chain(*panels.values())})
    figure, places = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained", sharex=True, sharey=True)
    for axes, (title, arms) in zip(places.flat, panels.items(), strict=True):
        for arm in (arm for arm in arms if arm in found):
            steps, mean, low, high = np.array(found[arm]).T
            (drawn,) = axes.plot(steps, mean, marker="o", label=arm)
            if title != "one seed":
                axes.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.15, lw=0)
        axes.set(title=title, xlim=(0, None))
        if axes.lines:
            axes.legend(frameon=False, fontsize="small")
    figure.supxlabel("training steps", fontsize="medium")
    figure.supylabel("verifier's score", fontsize="medium")
    figure.savefig(FIGURE, dpi=160)


def measured(results: Results) -> str:
    found = arms(results)
    order = [*PRIORS, *sorted(found.keys() - {*PRIORS})]
    tables = {
        "Each arm, sampled from its own prior": (
            HEADS,
            [line(arm, found[arm]) for arm in order if arm in found],
        ),
        **{
            f"Against independent noise{words}": (
                PAIRED,
                differences(found, [(arm + what, "gaussian" + what) for arm in RIVALS]),
            )
            for what, words in VARIANTS.items()
        },
        **{
            f"Each prior{words}, against itself without": (
                PAIRED,
                differences(found, [(arm + what, arm) for arm in PRIORS]),
            )
            for what, words in VARIANTS.items()
            if what
        },
        "One seed alone": (
            ["trained under", "minus", "score", "motion right", "single frames right"],
            singles(found),
        ),
        "Temporal layers": (
            [
                "layer",
                "parameters of the network",
                "time of a training step, in steps without a temporal layer",
            ],
            temporal(results),
        ),
        "Sampled under another prior: the score": (
            ["trained under", *(f"from `{prior}`" for prior in PRIORS)],
            mismatches(results),
        ),
        "Videos longer than trained": (
            ["trained under", "frames", "score", "score minus that of 8", "motion", "single frames"],
            longer(results),
        ),
        "Video to video": (
            ["trained under", "noise from", "strength", "score", "colour", "motion", "everything"],
            from_video(results),
        ),
        "Handwriting": (
            [
                "trained under",
                "score",
                "digit",
                "motion",
                "Inception Score",
                "of real videos",
                "minus `gaussian`'s",
            ],
            handwriting(results),
        ),
        "Noise that the image model finds in frames": (
            [
                "frames of",
                "videos",
                "cosine, one video",
                "leak",
                "two videos",
                "by lag",
                "nearest, α",
                "answer",
            ],
            noise(results),
        ),
        **{
            f"{what} on `shapes-animatediff`, {stage}": (heads, rows(results, name))
            for name, stage in STAGES.items()
            for what, heads, rows in (
                ("Choosing and refining", CHOICE_HEADS, final),
                ("The first step", SIGNAL_HEADS, signal_rows),
            )
        },
        "Choosing and refining on other models": (CHOICES, choices(results)),
        "The cascade's stages": (
            ["stage", "error, ‰", "twin's", "difference", "score", "twin's", "difference", "wins"],
            cascade(results),
        ),
    }
    return "\n\n".join(f"**{title}**\n\n{table(*content)}" for title, content in tables.items() if content[1])


def page(results: Results) -> str:
    return replaced(PAGE, "measured", measured(results))


def main() -> None:
    results = read()
    found = arms(results)
    kept = {"kind": "summary"} | {
        f"minus gaussian{what}": {
            arm: bootstrap(np.mean(each, 0))
            for arm in found
            if arm.endswith(what) and (each := against(found, arm, "gaussian" + what))
        }
        for what in VARIANTS
    }
    (HERE / "results/summary.json").write_text(json.dumps(rounded(kept)) + "\n")
    draw(found, curves(results))
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
