# ruff: noqa: E501 - the page is prose
"""Write docs/minimal-model.md and its figure from recipes/minimal/results.json.

`python recipes/minimal/minimal_page.py`, after `minimal.py`. A test checks that the page is what the committed
results make.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
NAMES = {"velocity": "velocity", "x0": "x0", "epsilon": "ε", "guidance_gap": "guidance gap"}
Row = dict[str, list[float]]


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "results.json").read_text())
    return found


def signed(interval: list[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval).replace("-", "−")


def plain(interval: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *lines])


def side(interval: list[float]) -> int:
    """Where 0 is outside of the interval: its sign; else 0."""
    return (interval[1] > 0) - (interval[2] < 0)


def verdict(row: Row) -> str:
    """The plan's: on hits and on W1 alike, or undecided."""
    ends = (side(row["hits"]), -side(row["w1"]))
    return {(1, 1): "helps", (-1, -1): "harms"}.get(ends, "undecided")


def claim(row: Row) -> str:
    """The plan's: of the paper's claim that the start is closer and the way shorter."""
    ends = (side(row["start"]), side(row["path"]))
    return "confirmed" if ends == (-1, -1) else "refuted" if 1 in ends else "undecided"


def cells(row: Row, *measures: str) -> list[str]:
    return [signed(row[measure]) for measure in measures]


def percent(interval: list[float]) -> str:
    mean, low, high = (f"{100 * value:.0f}" for value in interval)
    return f"{mean} % [{low}, {high}]"


def sign(number: float) -> str:
    return "+" if number > 0 else "−"


def pick(result: dict[str, Any], **wanted: Any) -> Row:
    (found,) = (row for row in result["sweep"] if all(row[key] == value for key, value in wanted.items()))
    return dict(found)


def main_table(result: dict[str, Any]) -> str:
    base = result["plain"]
    lines = [
        [
            "plain noise",
            *(plain(base[group]["hits"]) for group in ("all", "matched", "mismatched")),
            *(plain(base["all"][measure]) for measure in ("w1", "start", "path")),
            "",
            "",
        ]
    ]
    for name, arm in result["main"].items():
        label = "erased, n = 8" if name == "erased" else f"injected, {name.split()[1][0]}".replace("-", "−")
        hits = [signed(arm[group]["hits"]) for group in ("all", "matched", "mismatched")]
        claimed = "–" if name == "erased" else claim(arm["all"])
        lines.append([label, *hits, *cells(arm["all"], "w1", "start", "path"), verdict(arm["all"]), claimed])
    heads = ["", "hits", "of matched", "of mismatched", "W1", "start", "path", "quality", "trajectory"]
    return table(heads, lines)


def rescaled_table(result: dict[str, Any]) -> str:
    lines = []
    alone = {(row["target"], row["sign"]): row for row in result["scaled alone"]}
    for rescale in ("none", "spherical", "standardise"):
        for target, name in NAMES.items():
            for direction in (1, -1):
                row = pick(result, rescale=rescale, target=target, sign=direction, delta=0.1)
                lines.append([f"{rescale}, {name}, {sign(direction)}", *cells(row, "hits", "w1", "start", "path", "whole"), verdict(row), claim(row), signed(alone[target, direction]["hits"]) if rescale == "none" else "–"])  # fmt: skip
    heads = ["", "hits", "W1", "start", "path", "whole", "quality", "trajectory", "hits, scaled alone"]
    return table(heads, lines)


def settings_table(result: dict[str, Any]) -> str:
    after = {(row["tie"], row["guidance"], row["sign"]): row for row in result["settings, spherical"]}
    lines = []
    for setting in result["settings"]:
        base, where = setting["plain"], (setting["tie"], setting["guidance"])
        hits = [f"{base[group]['hits'][0]:.3f}" for group in ("matched", "mismatched")]
        arms = [arm["all"]["hits"] for arm in setting["arms"].values()]
        arms += [after[(*where, direction)]["hits"] for direction in (1, -1)]
        lines.append(
            [f"{where[0]:g}", f"{where[1]:g}", ", ".join(hits), *(signed(interval) for interval in arms)]
        )
    names = [name.replace("injected ", "").replace("-", "−") for name in result["settings"][0]["arms"]]
    heads = ["tie", "guidance", "matched, mismatched", *names, "+0.1, spherical", "−0.1, spherical"]
    return table(heads, lines)


def counted(result: dict[str, Any], rescale: str) -> str:
    """Of the five strengths, signs kept apart, how often an injected velocity is closer and its way shorter."""
    told = []
    for direction in (1, -1):
        rows = [row for row in result["sweep"] if (row["rescale"], row["target"], row["sign"]) == (rescale, "velocity", direction)]  # fmt: skip
        held = sum(claim(row) == "confirmed" for row in rows)
        told.append(f"{held} of {len(rows)} strengths with {sign(direction)}")
    return ", ".join(told)


def page() -> str:
    result = load()
    main, base, controls = result["main"], result["plain"], result["controls"]
    minus, plus, erased = (main[name]["all"] for name in ("injected -0.1", "injected +0.1", "erased"))
    bare = {name: pick(result, rescale="none", target=name, sign=-1, delta=0.1) for name in NAMES}
    spherical = {
        (target, direction): pick(result, rescale="spherical", target=target, sign=direction, delta=0.1)
        for target in NAMES
        for direction in (1, -1)
    }
    alone = {(row["target"], row["sign"]): row for row in result["scaled alone"]}
    guided = {
        row["sign"]: row
        for row in result["settings, spherical"]
        if (row["tie"], row["guidance"]) == (0.5, 3.0)
    }
    anew = controls["one step injected, from t = 1"]["all"]
    on = controls["one step, on from t = 0.9"]["all"]
    outer = [result["share of the mean in the injected direction"][k] for k in (0, 2)]
    return f"""# A minimal model of erasure and injection

A flow in one dimension, known in closed form, whose noises carry semantics: what do erasure and injection (arXiv
2511.07756) do to it? Three Gaussian targets, one for each prompt; each third of the noise is tied to one of them in the
training pairs; captions are loose, so that prompt and noise both count. A noise is *matched* if its third is that of the
prompt's target. Everything was planned before it was run (`recipes/minimal/README.md`); this page is written by
`recipes/minimal/minimal_page.py` from the results, {result["pools"]} pools of {result["noises"]} noises under each
prompt, intervals 95 % over pools, differences paired.

## In short

- **What a noise carries matters far more than any refinement of it.** Matched noises end in the prompt's target in
  {percent(base["matched"]["hits"])} of the cases, mismatched ones in {percent(base["mismatched"]["hits"])}.
- **Erasure does nothing on average**: hits {signed(erased["hits"])}. It helps the mismatched
  ({signed(main["erased"]["mismatched"]["hits"])}) and harms the matched
  ({signed(main["erased"]["matched"]["hits"])}): regression to the mean.
- **The planned comparison of injection is {verdict(minus)}.** With sign − hits rise by {signed(minus["hits"])} and
  the distance to the target rises too, {signed(minus["w1"])}; with + both fall.
  Re-standardising is the likely reason, found after looking: under the two outer prompts
  {100 * outer[0]:.0f} and {100 * outer[1]:.0f} % of the power of what is injected is the mean of the pool, a move towards the target
  that standardising takes back.
- **With the mean kept and the norm too (`rescale="spherical"`), all four predictions agree**: towards the
  data helps, away from it harms. Velocity − {signed(spherical["velocity", -1]["hits"])}, ε − {signed(spherical["epsilon", -1]["hits"])},
  guidance gap − {signed(spherical["guidance_gap", -1]["hits"])}, x0 + {signed(spherical["x0", 1]["hits"])}, at δ = .1. Velocity, ε
  and the gap point from the data to the noise here, as in diffusers, so the published + walks away from the data.
- **As published, much of it is scale.** Scaling the plain noise to the deviation of the injected one, nothing else,
  gives {signed(alone["epsilon", -1]["hits"])} of the {signed(bare["epsilon"]["hits"])} of ε −, and
  {signed(alone["x0", -1]["hits"])} where x0 −, which walks away from the data, has {signed(bare["x0"]["hits"])}.
- **With guidance 3 and tied noises the sign turns**: velocity, spherical, − {signed(guided[-1]["hits"])}, +
  {signed(guided[1]["hits"])}. No sign is right everywhere; measure both on your model.
- **Closer start, shorter trajectory: it depends.** In the planned comparison the paper's claim is
  {claim(minus)} for − and {claim(plus)} for +. As published it holds for the velocity at {counted(result, "none")},
  spherical at {counted(result, "spherical")}. The way saved is less than the step that was made to save
  it: with that step, the whole way is {signed(bare["velocity"]["whole"])} for −, as published, at δ = .1.
- **Injection can be exactly one denoising step** ([below](#injection-against-a-denoising-step)), after which
  the sampler starts again at the beginning. That is what an injection adds: a step of .1 and on from there
  changes hits by {signed(on["hits"])}, the same step and then all steps by {signed(anew["hits"])}.

## Tables

Injection of the velocity at t = .9, .5 and .1, δ = .1, standardised. *Hits*: share of noises that end nearest to the
prompt's target; *W1*: distance from the ends to the target (a sample of the target itself:
{plain(result["w1 of a sample of the target"])}); *start*: from the refined noise to the centre of the target; *path*:
length of the trajectory. *Quality* is decided where hits and W1 agree, *trajectory* is the paper's claim.

{main_table(result)}

![Trajectories, and what the strength does](figures/minimal-model.png)

The same strength for every target, sign and rescaling ("none": as published). *Whole* is the path with the step from
the noise to the refined noise; *scaled alone* is the plain noise at the standard deviation of the injected one, added
after looking. Not corrected for their number:

{rescaled_table(result)}

Hits on other models: how firmly noises are tied (0: not at all), and guidance. Erased, or the velocity injected,
standardised where nothing else is said; the last two columns were added after looking.

{settings_table(result)}

Three evaluations more in sampling, what injection costs: hits {signed(controls["53 steps"]["all"]["hits"])}.

## What this does not say

- It is one dimension, where trajectories cannot cross and a noise has no shell to leave. A noise near 0 ends well
  under every prompt here, so that whatever makes noises small raises hits. Nothing here says that a large δ is good for videos.
- Only the planned comparison was one; the rest is many comparisons, uncorrected, on one model.
- The model is exact. Errors of a trained denoiser, which an injection may mend or feed, are not in it.
- "Standardise" and "spherical" act on a pool of noises under one prompt, in place of the many numbers of one noise.
- The paper's n, K, times, weights, δ and its convention for the velocity's sign are not public to us.

## Injection against a denoising step

The paper calls them equivalent. With x_t = α x0 + σ ε, a deterministic step from (α, σ) to (α', σ') is α' x̂0 + σ' ε̂. Written
out in what the model predicts, it is an injection of **one** prediction, at the time of the noise, **as published**
(`rescale="none"`), times a scale, if δ and sign are these:

| prediction | denoises with | δ of the step | scale |
| --- | --- | --- | --- |
| velocity ε − x0, straight path (α = 1 − t, σ = t) | − | t − t' | √(1 + δ²) |
| v = α ε − σ x0, variance preserving (σ = sin φ) | − | tan(φ − φ') | **1** |
| ε, variance preserving, α > 0 | − | σ − α σ'/α' | α' √(1 + δ²)/α |
| ε at pure noise (α = 0) | – | none: ε̂ = z, so that injection only scales | – |
| x0 | + | α' σ/σ' − α | σ' √(1 + δ²)/σ; 1 at pure noise, variance preserving |

The other sign is the step back to more noise (DDIM inversion). For v the published denominator is exact: an injection
*is* one DDIM step, a turn by arctan δ. On a straight path the state at t' has another
variance than the noise, so that a scale is left over.

It is not a step

- with **several times**: K equal predictions make one step √K times as long, and predictions of other times at the noise of the first are on no trajectory
  at all;
- **re-standardised**, but for scale and mean: standardised the length is still δ, spherical another one;
- in **what follows**: after a step the sampler goes on from t', after an injection it starts at the beginning, and takes
  a state of t' for pure noise. If the two were equivalent there, injection would change nothing but the grid of times; the
  control above shows that it changes more.

`tests/refinement/test_equivalence.py` checks every line in float64, on random linear predictions and on this model, and
the first two against diffusers' `FlowMatchEulerDiscreteScheduler` and `DDIMScheduler`.

## Models outside of our table

The formulas are functions of tensors and of any `predict(z, t)`, so a model of another kind needs no session. Text to 3-D, with
`ShapEPipeline`, whose prior network predicts the clean latent:

```python
import torch
from seedbed.refinement.formulas import inject

config = pipe.prior.config
embeds = pipe._encode_prompt(prompt, pipe.device, 1, False)

@torch.no_grad()
def predict(z, t):
    said = pipe.prior(z.view(1, -1, config.embedding_dim), timestep=t, proj_embedding=embeds)
    return said.predicted_image_embedding[..., : config.embedding_dim].reshape(z.shape)

noise = torch.randn(config.num_embeddings * config.embedding_dim, generator=torch.Generator().manual_seed(0))
refined = inject(noise, predict, [1023, 512, 64], delta=0.3, sign=1)
```

`pipe(prompt, latents=refined[None])` then renders another object than the plain noise, and the same one again
(`tests/refinement/test_shap_e.py`, on a tiny random model: whether it is a better one was not measured). The
renderer draws points along its rays from torch's global generator: call `torch.manual_seed` before each rendering, or two
renderings of one latent differ slightly.
"""


def figure() -> None:
    import matplotlib.pyplot as plt
    import torch
    from minimal import CENTRES, DELTAS, STEPS, Model, third
    from PIL import Image

    result = load()
    blue, red, colours = "#2a6f97", "#c1443c", ("#2a6f97", "#c1443c", "#3b8752", "#b5832b")
    drawn, grid = plt.subplots(2, 2, figsize=(9.2, 6.6))
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    first, prompt = grid[0, 0], 2
    x = torch.special.ndtri((torch.arange(30, dtype=torch.float64) + 0.5) / 30)
    ways = [x]
    for i in range(STEPS):
        t = 1 - i / STEPS
        ways.append(ways[-1] - Model().velocity(ways[-1], t, prompt) / STEPS)
    times = [1 - i / STEPS for i in range(STEPS + 1)]
    for way, belongs in zip(torch.stack(ways, 1), third(x), strict=True):
        first.plot(times, way, color=blue if belongs == prompt else red, linewidth=0.9)
    first.plot([], [], color=blue, label="matched")
    first.plot([], [], color=red, label="mismatched")
    first.set(xlim=(1, 0), ylim=(-3.4, 2.7), xlabel="t", title=f"the prompt names {CENTRES[prompt]:g}")
    panels = (("standardise", "hits", "hits, standardised"), ("spherical", "hits", "hits, spherical"))
    panels += (("spherical", "path", "path, spherical"),)
    for axis, (rescale, measure, title) in zip(grid.flat[1:], panels, strict=True):
        for target, colour in zip(NAMES, colours, strict=True):
            for direction, style in ((-1, "o-"), (1, "s--")):
                rows = [pick(result, rescale=rescale, target=target, sign=direction, delta=d) for d in DELTAS]
                mean, low, high = zip(*(row[measure] for row in rows), strict=True)
                label = f"{NAMES[target]}, {sign(direction)}"
                axis.plot(DELTAS, mean, style, color=colour, markersize=3, linewidth=1.2, label=label)
                axis.fill_between(DELTAS, low, high, color=colour, alpha=0.14, linewidth=0)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xscale="log", xlabel="δ", title=title)
        axis.set_xticks(DELTAS, [f"{d:g}" for d in DELTAS])
        axis.minorticks_off()
    first.legend(frameon=False, fontsize=8, loc="lower left", ncols=2)
    grid[0, 1].legend(frameon=False, fontsize=7, ncols=2)
    drawn.tight_layout()
    drawn.savefig(buffer := io.BytesIO(), dpi=100)
    palette = Image.open(buffer).convert("RGB").quantize(128)
    palette.save(DOCS / "figures/minimal-model.png", optimize=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    (DOCS / "minimal-model.md").write_text(page())
    figure()
