"""The perturbation study of the README beside this file: any models by name, resumable."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import seedbed
from seedbed.acquisition import Bansa, resolve
from seedbed.adaptation.findings import COLUMNS, Study
from seedbed.files import read_text, write_bytes_atomically
from seedbed.pipelines.loading import load, locate
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.statistics import bootstrap, within
from seedbed.verifiers import judged, judged_text
from seedbed.verifiers import resolve as verifier_named
from seedbed.verifiers.appearance import look
from seedbed.worlds.shapes import captions

HERE = Path(__file__).parent
PROMPTS, SEED, NOISES, STEPS = 16, 16, 8, 20
# Effects whose size counts, whichever way they go.
SIZES = ("sharpness", "flicker", "movement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"), help="what is kept on the way")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--prompts", type=Path, help="a prompt on each line (else captions of two objects)")
    parser.add_argument("--count", type=int, default=PROMPTS, help="of the captions")
    parser.add_argument("--noises", type=int, default=NOISES, help="of each prompt, for ANSE")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--verifier", default="shapes")
    asked = parser.parse_args()
    if asked.prompts:
        prompts = [line for line in read_text(asked.prompts, "the prompts").splitlines() if line.strip()]
    else:
        prompts = captions(asked.count, objects=2, seed=SEED, held=True)
    asked.results.mkdir(parents=True, exist_ok=True)
    for model in asked.models:
        name = Path(model).name
        (asked.out / name).mkdir(parents=True, exist_ok=True)
        pipe, studies, noises = load(locate(model)), [], []
        for number, prompt in enumerate(prompts):
            path = asked.out / name / f"{number:02}.json"
            if path.is_file():
                studies.append(Study.load(path))
            else:
                call = {"num_inference_steps": asked.steps}
                one = seedbed.study(pipe, prompt, seed=number, verifier=asked.verifier, call=call)
                one.save(path)
                studies.append(one)
            print(f"{name}: {number + 1} of {len(prompts)} prompts studied", flush=True)
        study = joined(studies)
        for number, prompt in enumerate(prompts):
            path = asked.out / name / f"{number:02}-noises.json"
            if not path.is_file():
                found = measure_noises(pipe, prompt, number, asked)
                write_bytes_atomically(path, json.dumps(found).encode())
            noises.append(json.loads(path.read_text()))
        study.report(asked.out / f"{name}.html")
        try:
            study.save(asked.out / f"{name}.parquet")
        except seedbed.NotSupported:
            study.save(asked.out / f"{name}.json")
        results = json.dumps({**summary(study), "anse": anse(study, noises)}, indent=1, allow_nan=False)
        print(write_bytes_atomically(asked.results / f"{name}.json", results.encode()))


def joined(studies: list[Study]) -> Study:
    """Studies of other prompts with the same model and arguments as one; frames and maps of the first."""
    ledger = Counter[str]()
    for each in studies:
        ledger.update(each.ledger)
    return dataclasses.replace(
        studies[0],
        prompts=tuple(prompt for each in studies for prompt in each.prompts),
        columns={name: [v for each in studies for v in each.columns[name]] for name in COLUMNS},
        ledger=dict(ledger),
        seconds=sum(each.seconds for each in studies),
    )


def measure_noises(pipe: Any, prompt: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Of each noise of a prompt: BANSA, entropies at t = T, score and sharpness of its video."""
    session, judge = Session(pipe, prompt, num_inference_steps=asked.steps), verifier_named(asked.verifier)
    pool = draw_pool(session, asked.noises, seed)
    bansa = Bansa(depth=None).score(session, pool).totals
    entropy = resolve("entropy:depth=null").score(session, pool)
    videos = [session.generate(noise) for noise in pool.noises]
    return {
        "bansa": bansa.tolist(),
        "entropy": {layer: entropy.table[:, i].tolist() for i, layer in enumerate(entropy.layers)},
        "score": judged(judge, videos, judged_text(judge, session))["score"].tolist(),
        "sharpness": look(videos)["sharpness"].tolist(),
    }


def summary(study: Study) -> dict[str, Any]:
    """Correlations as the plan has them, the halves compared, and the layers in numbers."""
    names = [layer.name for layer in study.layers]
    orders = [
        ("normalised_entropy", "all"),
        ("normalised_entropy", "video->video"),
        ("energy_proportion", "all"),
    ]
    rows = []
    for (perturb, effect), (by, part), kind in itertools.product(
        study.effects, orders, dict.fromkeys(layer.kind for layer in study.layers)
    ):
        order, values = study.means.get((by, part, ""), {}), study.means[effect, "all", perturb]
        own = [each.name for each in study.layers if each.kind == kind]
        own = [name for name in own if (study.prompts[0], name) in values]
        if len(own) < 3 or (study.prompts[0], own[0]) not in order:
            continue
        x = np.array([[order[prompt, name] for name in own] for prompt in study.prompts])
        y = np.array([[values[prompt, name] for name in own] for prompt in study.prompts])
        y = np.abs(y) if effect in SIZES else y
        top = np.array([study.halves[name] == "high" for name in own])
        rows.append(
            {
                "perturb": perturb,
                "effect": f"|{effect}|" if effect in SIZES else effect,
                "kind": kind,
                "by": by,
                "part": part,
                "layers": len(own),
                "spearman": interval(within(x, y)),
                "top": interval(y[:, top].mean(1)),
                "bottom": interval(y[:, ~top].mean(1)),
                "difference": interval(y[:, top].mean(1) - y[:, ~top].mean(1)),
            }
        )
    energy = study.means["energy_proportion", "all", ""]
    entropy = study.means["normalised_entropy", "all", ""]
    own = [each.name for each in study.layers if each.kind != "cross"]
    both = [[[each[p, name] for name in own] for p in study.prompts] for each in (entropy, energy)]
    measures = ("normalised_entropy", "entropy_proportion", "energy_proportion")
    layers = {
        name: {"half": study.halves[name], **{m: study.by_layer(m)[name] for m in measures}} for name in names
    }
    about = {"model": study.model, "prompts": study.prompts, "steps": study.steps, "seconds": study.seconds}
    about |= {"ledger": study.ledger, "entropy with energy": interval(within(*both))}
    return {**about, "layers": layers, "effects": rows}


def anse(study: Study, noises: list[dict[str, Any]]) -> dict[str, Any]:
    """Spearman within prompts of BANSA, of the entropy of either half, and of what comes out."""
    columns: dict[str, list[Any]] = {
        key: [each[key] for each in noises] for key in ("bansa", "score", "sharpness")
    }
    for half in ("high", "low"):
        columns[half] = [
            np.mean([v for name, v in each["entropy"].items() if study.halves.get(name) == half], axis=0)
            for each in noises
        ]
    pairs = [("bansa", "high"), ("bansa", "low")]
    pairs += itertools.product(("bansa", "high", "low"), ("score", "sharpness"))
    return {f"{one}, {other}": interval(within(columns[one], columns[other])) for one, other in pairs}


def interval(values: Any) -> list[float | None]:
    """Mean, low and high; None in place of nan."""
    return [None if np.isnan(value) else float(value) for value in bootstrap(values)]


if __name__ == "__main__":
    main()
