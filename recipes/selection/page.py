# ruff: noqa: E501 - the page is prose
"""Write docs/evidence.md and the README's table from recipes/selection/results.

`python recipes/selection/page.py`, after `summarise.py`, `first_step.py`, `benchmarks/mask_noise.py` and
`figures.py`. A test checks that both are what the committed results make.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START, END = "<!-- evidence: recipes/selection/page.py writes this -->", "<!-- /evidence -->"

SIGNALS = {
    "entropy": "row entropy",
    "collision": "collision probability",
    "bansa": "BANSA, mask-free",
    "bansa-logits": "BANSA, mask-free, on logits",
    "bansa.k10.0": "BANSA, K = 10 masks",
    "text_mass": "attention on the text",
    "guidance_gap": "guidance gap",
    "x0_std": "spread of x̂0",
    "x0_motion": "motion of x̂0",
    "x0_change": "change of x̂0",
    "judge.score": "verifier on decoded x̂0",
}


def load(name: str) -> Any:
    return json.loads((HERE / f"results/{name}.json").read_text())


def signed(interval: list[float | None]) -> str:
    mean, low, high = interval
    if mean is None:
        return "–"
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def plain(interval: list[float | None]) -> str:
    return "–" if interval[0] is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval).replace("-", "−")


def percent(interval: list[float | None]) -> str:
    mean, low, high = interval
    if mean is None:
        return "–"
    return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]".replace("-", "−")


def p_value(p: float) -> str:
    return "1" if p >= 0.995 else f"{p:.3f}" if p >= 0.001 else "< .001"


def rows_of(lines: list[list[str]], heads: list[str]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *lines])


def signal_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        step, _, name = row["signal"].partition("/")
        agreement = "–" if row["reliability"] is None else f"{row['reliability'][0]:.2f}".replace("-", "−")
        lines.append(
            [
                SIGNALS[name],
                step,
                f"{row['evaluations']:g}",
                signed(row["within"]),
                p_value(row["adjusted"]),
                signed(row["low"]),
                signed(row["high"]),
                percent(row["share"]),
                agreement,
            ]
        )
    return rows_of(
        lines,
        ["signal", "steps", "NFE", "Spearman", "p", "gain, lowest", "gain, highest", "share", "reliability"],
    )


def variant_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        name = row["signal"].removeprefix("0/")
        masks, place, keep = "mask-free", "probabilities", "0.2"
        for part in name.replace(".0", "", 0).split("."):
            if part.startswith("k") and part[1:].isdigit():
                masks = f"K = {part[1:]}"
        place = "logits" if "logits" in name else place
        for value in ("0.5", "0.8"):
            keep = value if f"keep{value}" in name else keep
        if name == "bansa-dropout":
            masks, place, keep = "K = 10", "dropout, 10 forwards", "0.8"
        agreement = "–" if row["reliability"] is None else plain(row["reliability"])
        lines.append(
            [place, masks, keep, signed(row["within"]), signed(row["low"]), signed(row["high"]), agreement]
        )
    head = [
        "masks on",
        "estimate",
        "keep",
        "Spearman",
        "gain, lowest",
        "gain, highest",
        "agreement of two sets of masks",
    ]
    return rows_of(lines, head)


def schedule_text(chosen: dict[str, Any]) -> str:
    rungs = ", ".join(f"{left} after {at}" for at, left in chosen["schedule"])
    return f"{chosen['candidates']} noises: {rungs}"


def equal_table(rows: list[dict[str, Any]]) -> str:
    return rows_of(
        [
            [
                f"{row['budget']:g} ×",
                signed(row["gain"]),
                percent(row["share"]),
                signed(row["full videos"]),
                percent(row["full videos share"]),
                signed(row["difference"]),
                "; ".join(dict.fromkeys(schedule_text(c) for c in row["chosen"])),
            ]
            for row in rows
        ],
        [
            "cost",
            "preview: gain",
            "share",
            "best of N: gain",
            "share",
            "difference",
            "schedules (survivors after steps)",
        ],
    )


def front_table(evidence: dict[str, Any], equal: list[dict[str, Any]]) -> str:
    """What choosing by each signal brings on a model, as it came out."""
    spread = evidence["spread"]
    by_name = {row["signal"]: row for row in evidence["signals"] + evidence.get("variants", [])}

    def cost(evaluations: float, pool: int = 10) -> str:
        return f"{1 + pool * evaluations / 40:.2f} ×"

    lines = [["a random noise", "1 ×", "score " + plain(spread["random"]), "–"]]

    def line(label: str, price: str, interval: list[float], share: list[float]) -> None:
        lines.append([label, price, signed(interval), percent(share)])

    gap = spread["gap"][0]
    for label, name, end in (
        ("lowest BANSA at the first step, K = 10 masks, as published", "0/bansa.k10.0", "low"),
        ("lowest BANSA, mask-free", "0/bansa", "low"),
        ("highest BANSA, mask-free", "0/bansa", "high"),
        ("lowest entropy", "0/entropy", "low"),
    ):
        row = by_name[name]
        lines.append(
            [label, cost(1, 16), signed(row[end]), f"{100 * row[end][0] / gap:.0f} %".replace("-", "−")]
        )
    learned = evidence["learned"][0]
    line(
        "learned from the first step's attention and prediction",
        cost(2, 16),
        learned["gain"],
        learned["share"],
    )
    learned = evidence["learned"][2]
    line("the same after two steps", cost(6, 16), learned["gain"], learned["share"])
    for row in equal:
        if row["budget"] in (2.0, 3.0):
            number = f"{row['budget']:g}"
            line(
                f"best of {number} full videos, by the verifier",
                f"{number} ×",
                row["full videos"],
                row["full videos share"],
            )
            line("**preview**, by the same verifier", f"{number} ×", row["gain"], row["share"])
    lines.append(
        [f"the best of {spread['noises']} noises", f"{spread['noises']} ×", signed(spread["gap"]), "100 %"]
    )
    return rows_of(lines, ["choice, attention among 16 noises", "cost", "gain in score", "share of the gap"])


def learned_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            str(r["step"]),
            f"{r['evaluations']:g}",
            signed(r["within"]),
            p_value(r["p"]),
            signed(r["gain"]),
            percent(r["share"]),
        ]
        for r in rows
    ]
    return rows_of(lines, ["steps", "NFE", "Spearman", "p", "gain", "share"])


def judge_table(parts: list[dict[str, Any]]) -> str:
    names = {"look": "colour and shape", "motion": "motion"}
    lines = []
    for part in parts:
        judge, outcome = part["judge"].split("_")[0], part["outcome"].removeprefix("outcome.").split("_")[0]
        for row in part["rows"]:
            if row["budget"] in (2.0, 3.0):
                lines.append(
                    [
                        names[judge],
                        names[outcome],
                        f"{row['budget']:g} ×",
                        signed(row["gain"]),
                        signed(row["full videos"]),
                    ]
                )
    return rows_of(lines, ["chosen by", "reported", "cost", "preview: gain", "best of N: gain"])


def average_table(rows: dict[str, Any]) -> str:
    lines = [
        [
            ", ".join(json.loads(k) and map(str, json.loads(k))),
            signed(r["within"]),
            signed(r["low"]),
            signed(r["high"]),
        ]
        for k, r in rows.items()
    ]
    return rows_of(lines, ["after steps", "Spearman", "gain, lowest", "gain, highest"])


def depth_line(evidence: dict[str, Any]) -> str:
    found = {
        name: {rule: evidence["d*"][name][rule]["depth"] for rule in ("full_score", "quality")}
        for name in evidence["d*"]
    }
    return "; ".join(
        f"{name}: {rules['full_score']} by `full_score`, {rules['quality'] or 'none reaches .7'} by `quality`"
        for name, rules in found.items()
    )


def mask_table() -> str:
    rows = json.loads((ROOT / "benchmarks/results/mask_noise.json").read_text())["rows"]
    lines = [
        [
            row["place"],
            str(row["masks"]),
            str(row["tokens"]),
            str(row["rows"]),
            str(row["heads"]),
            plain(row["reliability"]),
            plain(row["mask_free"]),
        ]
        for row in rows
    ]
    return rows_of(
        lines,
        [
            "masks on",
            "K",
            "tokens",
            "rows",
            "heads",
            "two sets of masks agree",
            "one set agrees with mask-free",
        ],
    )


def snr_table(models: dict[str, Any]) -> str:
    lines = []
    for model, found in models.items():
        for row in found["signals"]:
            if row["step"] == 0:
                lines.append(
                    [
                        model,
                        SIGNALS[row["signal"]],
                        signed(row["within"]),
                        p_value(row["adjusted"]),
                        signed(row["low"]),
                        signed(row["high"]),
                    ]
                )
    return rows_of(
        lines, ["model", "signal at t = T", "Spearman", "p, Holm", "gain, lowest", "gain, highest"]
    )


def spread_table(models: dict[str, Any]) -> str:
    first = load("first-step")
    lines = [
        [
            model,
            plain(found["spread"]["random"]),
            plain(found["spread"]["oracle"]),
            *(f"{first[model][s][0]:.2f}" for s in "0136"),
        ]
        for model, found in models.items()
    ]
    heads = [
        "model",
        "random",
        "best of 16",
        "x̂0 depends on the noise: t = T",
        "after 1",
        "after 3",
        "after 6",
    ]
    return rows_of(lines, heads)


AFTER_BINDING = """At t = T nothing is sure here either, once corrected, and choosing by it gains nothing. But **from the second evaluation
on this model knows**, where its first training did not: how much the prediction changed, and after three steps the
attention too. There a *higher* BANSA, a lower collision probability and more attention on the text go with better videos, at
correlations of .10 to .12: too weak to gain by alone, and for BANSA the end that the paper does not prefer. Together, and
with the predictions, they are worth something: the learned predictor recovers three quarters of the gap after two steps,
without a verifier, for six evaluations of each candidate (its p-values are not corrected). A gap of this size is small: this model
is right most of the time. The captions are the first of those above, as many as there was time for; it is one training,
and the variants of BANSA, larger pools and a twin without zero terminal SNR that reads are not measured yet."""

AFTER_LOOSE = """**No attention signal knows anything that could be measured**, neither at t = T nor after six steps: the intervals leave
room for correlations of less than .1, and neither end of BANSA gains. What attention knew on `shapes-cogvideox` after three
steps did not carry over to this sibling. Perhaps a model to which a caption can mean two things draws either with the same
assurance, and only the video tells them apart; that was not measured. The verifier's look at x̂0 knows from the second
evaluation on, and previews recover most of the gap. The learned predictor gains a quarter of it after two steps and half
after three; at t = T it chose *worse* than chance (none of these p-values is corrected). It is one training, and as many
captions as there was time for."""

SUMMARY = """- **The seed matters**, and half of what it decides can be had for one more generation: at twice the cost of
  a plain video, a preview that judges decoded x̂0 halfway recovers half of the gap between a random noise and the best
  of sixteen, significantly more than best of 2. That needs a verifier.
- **The first step knows nothing here.** No attention score at t = T, published or mask-free, low or high, of any depth,
  ranks the noises of a prompt; neither does a predictor learned from all of them. Choosing by them is choosing at
  random. The schedule has zero terminal SNR; see below what a schedule without it does. On `shapes-cogvideox`, where
  fewer were tried, none is sure either.
- **The next steps may know something, if the model can read.** On `shapes-cogvideox` a predictor learned from attention and
  predictions recovers three quarters of a small gap after two steps, without a verifier; on `shapes-cogvideox-loose`, which
  reads but leaves more to the noise, a quarter, and attention by itself nothing; on the first training, which
  cannot tell who was to do what, next to nothing.
- **Pooled over prompts, the published correlation appears all the same** on the first training, with the published sign. It is a property of
  prompts (hard captions have a higher score), not of noises: it vanishes within a prompt.
- **The published K = 10 score ranks mostly the noise of its own masks** on this model.
- **Selection improves what the verifier looks at**; nothing else was seen to change."""

AFTER_SIGNALS = """Up to three steps nothing but the verifier's look at the decoded x̂0 knows which noise will do better,
and at t = T not even that does. A p of 0.014 is the least that the permutations and the correction can give. The share is that of the end that came out better, chosen in hindsight. After six steps the guidance gap and the spread of x̂0 correlate with the outcome
weakly but surely. The halves of the rows look at different places of the frame, so where a signal is about places they
may order the noises in opposite ways: a negative reliability."""

AFTER_VARIANTS = """No correlation is significant, in either direction; of the 28 gains one interval excludes zero, about what
chance would have it. The mask-free rows of this table were computed with a more
exact and slower form of the score than the one now in `bansa_expected`, which [was measured](bansa.md#how-exact-it-is) to
rank noises as averaged masks do at a Spearman correlation of .99."""

AFTER_MASKS = """The table of variants above has the agreement at 60 tokens on all captions: two draws of the published
score (masks on the probabilities) agree at .18 with K = 10 and at .60 with K = 30, masks on the logits at .95 with
K = 10. The mask-free form has no such noise. Rows and heads hardly matter (what averages the masks' noise out averages
the differences between noises out too), and tokens help slowly: .18, .35 and .37 at 60, 204 and 444."""
AFTER_SNR = """**Refuted**, by the plan's own rule: without zero terminal SNR the entropy at t = T is not significant in
either training, nor is any other signal. The argument itself holds: with zero terminal SNR the first prediction hardly
depends on the noise, without it it does (the table above). But that a prediction depends on the noise does not say that
attention there knows which noise will do better. The trial's model was smaller, trained once and much less
accurate; what made the difference was not measured. And none of the four models can read which motion belongs to which
object (see the top of this page), the trial's perhaps could: for models that can, the question is open again. What does come back in
all four models, uncorrected, is late: after six steps a *smaller* guidance gap goes with a better video. This is one
world, one architecture and four trainings; U-Nets and flow matching are not measured yet."""
AFTER_LEARNED = """At t = T it knows nothing either; p-values here are not corrected, and the gain after two steps, whose
correlation is not significant, is one of four."""
AFTER_EQUAL = """What bounds it is how late the verifier can see: before a third of the steps its look at x̂0 is too
uncertain to drop many by, and every candidate that is looked at costs its steps. Schedules were replayed on previews
measured after 1, 2, 3, 4, 5, 7 and 10 steps; later rungs were not tried."""
AFTER_JUDGES = """Chosen by colour and shape, the videos get better in colour and shape and no better in motion, and the
other way round: neither harm nor good was found in what the verifier does not see, though the intervals leave room for a
few hundredths of both. Gains are real, but only for what is asked."""


def blind() -> str:
    """The most that exchanging attributes in captions does to the models of the first training."""
    found = json.loads((ROOT / "recipes/shapes/binding.json").read_text())
    ends = [
        max(abs(value) for value in row[attribute])
        for model in ("shapes-cogvideox-unread", "shapes-cogvideox-snr")
        for row in found[model]["rows"]
        for attribute in ("motion", "shape")
    ]
    return f"{math.ceil(1e5 * max(ends)) / 1e3:g} %"


def binding_text(found: dict[str, Any]) -> str:
    rows = json.loads((ROOT / "recipes/shapes/binding.json").read_text())["shapes-cogvideox"]["rows"]
    row = max(rows, key=lambda row: row["motion"][0])
    return f"""`shapes-cogvideox` went on from where its first training ended, with a new text encoder that had been taught from captions
alone which attribute belongs to which object, and was then left as it was. Exchanging the motions in a caption now raises
its denoising error at t = {row["t"]} by {percent(row["motion"])} of itself, and {percent(found["spread"]["all right"])} of its videos are right in everything.
{found["spread"]["captions"]} of the captions above × {found["spread"]["noises"]} noises, Holm over the {len(found["signals"])} signals of the table:"""


def loose_text(found: dict[str, Any]) -> str:
    name = "shapes-cogvideox-loose"
    rows = json.loads((ROOT / "recipes/shapes/binding.json").read_text())[name]["rows"]
    row = max(rows, key=lambda row: row["motion"][0])
    return f"""`{name}` went on from there with patches of one latent pixel, 204 tokens where there had been 60, and with loose
captions: in 40 % of all cases they gave each of two objects the other's motion, in 40 % the other's shape. So it
reads, and yet the noise decides, and a gap is left to choose in. Exchanging the motions in
a caption raises its denoising error at t = {row["t"]} by {percent(row["motion"])} of itself, and {percent(found["spread"]["all right"])} of its videos are right in
everything. {found["spread"]["captions"]} of the captions above × {found["spread"]["noises"]} noises, Holm over the {len(found["signals"])} signals of the table:"""


def found_on(found: dict[str, Any]) -> str:
    """What was measured on a model that reads, without words."""
    return f"""{front_table(found, found["equal cost"])}

{signal_table(found["signals"])}

The learned predictor, as [below](#a-learned-predictor):

{learned_table(found["learned"])}"""


def page() -> str:
    evidence, equal, judges = load("evidence"), load("equal-cost"), load("held-out-judge")
    models, binding, loose = load("terminal-snr"), load("binding"), load("loose")
    spread, wrong = evidence["spread"], evidence["confident but wrong"]
    two = next(row for row in equal["rows"] if row["budget"] == 2.0)
    return f"""# Does selection help?

What follows was measured on `shapes-cogvideox-unread`, the embedded model's first training, but for two sections,
[on what it became](#on-a-model-that-reads) and [on a model between the two](#on-a-model-whose-noise-decides). The world's verifier read 500 rendered videos and their reconstructions back
without a mistake ([model card](model-card-unread.md)): {spread["captions"]} held-out captions with two objects × {spread["noises"]} noises, other noises for every
caption, guidance 6, 20 steps. The outcome is the share of prompted attributes that the finished video gets right. A
user chooses within one prompt, so everything is computed within prompts; intervals are 95 %, by a bootstrap over
prompts; p-values are two-sided, by permutation within prompts, and Holm-corrected for all
{len(evidence["signals"]) + len(evidence["variants"])} signals and variants on this page. Cost is in denoiser evaluations (NFE); a plain generation takes 40. What to
measure was fixed before (`recipes/selection/README.md`). [What papers claim](claims.md) sets the papers' claims against it, line by line.

**What that model cannot know.** Its text encoder turned out to be a bag of words. Exchange the motions or the shapes of
the two objects in a caption, and its denoising error changes by less than {blind()} of itself (`recipes/shapes/binding.py` of commit 58e2916; the
same holds for the twin without zero terminal SNR). So the noise alone decides which motion falls to which object, and nothing
in the model can tell whether that is what the prompt said: where the objects differ, a signal's failure to know it is forced,
and says nothing of models that read. A verifier, which looks at the video, can tell; so previews work. This was found
after everything else here. `shapes-cogvideox` now reads: [below](#on-a-model-that-reads).

## In short

{SUMMARY}

{front_table(evidence, equal["rows"])}

## How much the seed matters

A random noise scores {plain(spread["random"])}, the best of {spread["noises"]} {plain(spread["oracle"])}: a gap of {plain(spread["gap"])}. The best of 2
full videos recovers {percent(spread["best of 2 share"])} of it. {percent(spread["all right"])} of the videos are right in everything.

## Every signal, from the first step to the sixth

A signal "after s steps" is read in evaluation s + 1; 0 is t = T. Gain: the outcome of the noise with the lowest or
highest value, less that of a random noise. Share: of the gap, at the better end. Reliability: how far two independent
halves of the rows order the noises alike; "–" where a signal has no estimate to repeat.

{signal_table(evidence["signals"])}

{AFTER_SIGNALS}

## Every published variant of BANSA, at t = T

{variant_table(evidence["variants"])}

Pooled over all captions and noises, as published, the score and the outcome correlate at
{signed(evidence["pooled"]["bansa.k10.0"])} (K = 10), {signed(evidence["pooled"]["bansa"])} (mask-free) and {signed(evidence["pooled"]["entropy"])}
(entropy): Pearson, captions resampled whole. Within captions, where a user chooses, nothing of it is left.

With K = 1 the score is 0 for every noise, by its definition. Two halves of the rows of the mask-free form agree at
{plain(evidence["mask-free reliability over half the rows"])}.

{AFTER_VARIANTS}

**Pools of 2 to 32 noises** (the same captions, with 16 noises more):

![gain against the size of the pool](figures/evidence-pool.png)

**Depth.** The mean over the first d layers, against the outcome within prompts (left), and ANSE's two rules for d*
pooled over prompts as published (right). d* at τ = .7: {depth_line(evidence)}.

![depth](figures/evidence-depth.png)

**More steps averaged** (the mean of mask-free BANSA over the evaluations after these steps):

{average_table(evidence["steps averaged"])}

## On a model that reads

{binding_text(binding)}

{found_on(binding)}

{AFTER_BINDING}

## On a model whose noise decides

{loose_text(loose)}

{found_on(loose)}

{AFTER_LOOSE}

## How much of the published ranking is the noise of its masks?

Two independent sets of masks score the same 16 noises of 16 captions at t = T (`benchmarks/mask_noise.py`). Sizes the
model was not trained on still have attention maps, and they show how it goes with the number of tokens.

![agreement of two sets of masks](figures/evidence-mask-noise.png)

{mask_table()}

{AFTER_MASKS}

## The terminal-SNR question

**The argument.** With zero terminal SNR the input at t = T is pure noise, whatever the video was: the noise tells
nothing about x0, the ideal prediction is the mean over all videos of the caption, and the ideal v is its negative. So
an ideal first step gives the same answer for every noise, and whatever still differs between noises there is the
model's error. Which video comes out is decided by the later steps, where noise and prediction mix. Without zero
terminal SNR (Stable Diffusion's and AnimateDiff's schedules) a trace of x0 is in the input during training, the model
learns to look for it, and at generation it reads one into the noise. So there the first step could know something, and
an earlier trial, one training of a smaller model, had found that it does, with sharper attention being better.

{spread_table(models)}

"Depends on the noise": the standard deviation over noises of the predicted clean latents, as a share of their overall
deviation.

**The test**, as planned: four signals at t = T on four models, Holm over the sixteen.

{snr_table(models)}

![correlations by step](figures/evidence-terminal-snr.png)

{AFTER_SNR}

## Confident but wrong

How often the noise that a score likes best gives a video that is not right in everything: lowest BANSA
{percent(wrong["0/bansa low"])}, highest {percent(wrong["0/bansa high"])}, lowest entropy {percent(wrong["0/entropy low"])}, a random noise {percent(wrong["random"])}. Below, the
surest failures: left, the video from the noise whose BANSA lies furthest below its pool's; right, from the noise of
the same pool that did best.

![confident but wrong](figures/evidence-wrong.png)

{gallery_list(wrong["gallery"][:6])}

## A learned predictor

Ridge regression on attention statistics of every layer, the guidance gap and statistics of x̂0, standardised within
the pool; every caption is predicted by weights that were fitted without its tenth of the captions.

{learned_table(evidence["learned"])}

{AFTER_LEARNED}

## Equal cost

`Previews` denoises all candidates a few steps, lets the verifier judge the decoded x̂0, drops the worst and goes
on with the rest. Best of N judges finished videos by the same verifier; between whole numbers it is a mixture. The
schedule for each budget is chosen on one half of the captions and measured on the other, both ways.

![score against cost](figures/evidence-cost.png)

{equal_table(equal["rows"])}

At 2 × the preview recovers {percent(two["share"])} of the gap, best of 2 {percent(two["full videos share"])}. {AFTER_EQUAL}

**Gamed or real?** The same with a verifier that sees only half of the attributes, and the other half as the judge:

{judge_table(judges)}

{AFTER_JUDGES}

## Run it again

```
seedbed lab run recipes/selection/evidence.json --out runs/lab/evidence
seedbed lab run recipes/selection/pool.json --out runs/lab/pool
seedbed lab run recipes/selection/terminal-snr.json --out runs/lab/terminal-snr
seedbed lab run recipes/selection/binding.json --out runs/lab/binding
seedbed lab run recipes/selection/loose.json --out runs/lab/loose
git worktree add models-0.1 58e2916   # whose recipe made these models
python models-0.1/recipes/shapes/binding.py
python models-0.1/recipes/shapes/train.py --out runs/shapes --variant shapes-cogvideox-repeat
python models-0.1/recipes/shapes/train.py --out runs/shapes --variant shapes-cogvideox-snr-repeat
seedbed lab run recipes/selection/terminal-snr-repeats.json --out runs/lab/terminal-snr-repeats
python recipes/selection/first_step.py shapes-cogvideox-unread shapes-cogvideox-snr runs/shapes/shapes-cogvideox-repeat runs/shapes/shapes-cogvideox-snr-repeat
python benchmarks/mask_noise.py
python recipes/selection/summarise.py --runs runs/lab
python recipes/selection/figures.py
python recipes/selection/page.py
```
"""


def gallery_list(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{i + 1}. {row['prompt']}: {row['score']:.2f} by the chosen noise ({row['deviations below']:.1f} deviations below "
        f"the pool's mean), {row['best score']:.2f} by the best"
        for i, row in enumerate(rows)
    )


def pages() -> dict[Path, str]:
    """docs/evidence.md and the README with its table, by path."""
    readme = (ROOT / "README.md").read_text()
    binding = load("binding")
    table = front_table(binding, binding["equal cost"])
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return {
        ROOT / "docs/evidence.md": page(),
        ROOT / "README.md": f"{before}{START}\n{table}\n{END}{after}",
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, text in pages().items():
        path.write_text(text)
