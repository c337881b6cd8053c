"""A flow in one dimension whose noises carry semantics: erasure and injection on it, as README.md plans.

`python recipes/minimal/minimal.py` writes recipes/minimal/results.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.files import write_bytes_atomically
from seedbed.refinement.formulas import erase, inject
from seedbed.statistics import bootstrap

RESULTS = Path(__file__).resolve().parent / "results.json"
CENTRES, WIDTH = (-2.0, 0.0, 2.0), 0.3
THIRD = 0.43072729929545744  # Φ(THIRD) = 2/3
THIRDS = ((-math.inf, -THIRD), (-THIRD, THIRD), (THIRD, math.inf))
EVERYWHERE = (-math.inf, math.inf)
STEPS, TIMES = 50, (0.9, 0.5, 0.1)
POOLS, NOISES, ERASED = 60, 256, 8
DELTAS = (0.05, 0.1, 0.2, 0.4, 0.8)
TARGETS = ("velocity", "x0", "epsilon", "guidance_gap")
MEASURES = ("hits", "w1", "start", "path", "whole")


@dataclass(frozen=True)
class Model:
    """The exact field of pairs whose noises are tied to targets, under captions that are loose."""

    tie: float = 0.5
    loose: float = 0.5
    guidance: float = 1.0

    def shares(self, prompt: int | None) -> list[float]:
        """How often each target comes with this caption; None for all captions."""
        if prompt is None:
            return [1 / 3] * 3
        return [self.loose / 3 + (1 - self.loose) * (target == prompt) for target in range(3)]

    def velocity(self, x: Tensor, t: float, prompt: int | None) -> Tensor:
        """`E[z − x0 | x_t = x, caption]`, of the shape of x, without guidance.

        A pair is of one of six kinds: a target, its noise from an interval. Without the interval, z, x0 and x
        are normal together, and so is z given x; within it, the mean of z is that of a truncated normal.
        """
        spread = math.sqrt((1 - t) ** 2 * WIDTH**2 + t**2)
        aside = max((1 - t) * WIDTH / spread, 1e-12)  # deviation of z given x; at t = 1 there is none
        likely, moved = [], []
        for target, share in enumerate(self.shares(prompt)):
            rest = x - (1 - t) * CENTRES[target]
            noise, data = t * rest / spread**2, CENTRES[target] + (1 - t) * WIDTH**2 * rest / spread**2
            density = -0.5 * (rest / spread) ** 2 + math.log(share)
            for (low, high), chance, weight in (
                (EVERYWHERE, 1.0, 1 - self.tie),
                (THIRDS[target], 1 / 3, self.tie),
            ):
                a, b = (low - noise) / aside, (high - noise) / aside
                inside = weight / chance * (torch.special.ndtr(b) - torch.special.ndtr(a))
                edge = weight / chance * (_normal(a) - _normal(b))
                # z rises by aside·edge/inside, x0 falls with it, as (1 − t) x0 + t z is given.
                likely.append((density, inside))
                moved.append(inside * (noise - data) + edge * (aside + t * WIDTH / spread))
        highest = torch.stack([density for density, _ in likely]).amax(0)
        weights = [(density - highest).exp() for density, _ in likely]
        total = sum(w * inside for w, (_, inside) in zip(weights, likely, strict=True))
        found: Tensor = sum(w * each for w, each in zip(weights, moved, strict=True)) / total
        return found

    def predict(self, x: Tensor, t: float, prompt: int, target: str) -> Tensor:
        """What the field with the caption says, without guidance, in the terms that injection knows."""
        velocity = self.velocity(x, t, prompt)
        match target:
            case "velocity":
                return velocity
            case "x0":
                return x - t * velocity
            case "epsilon":
                return x + (1 - t) * velocity
            case "guidance_gap":
                return (1 - t) * (velocity - self.velocity(x, t, None))
        raise ValueError(target)

    def sample(self, x: Tensor, prompt: int, steps: int = STEPS, since: float = 1.0) -> tuple[Tensor, Tensor]:
        """The ends of Euler's steps from t = `since` to 0, and the length of the way there."""
        times = np.linspace(since, 0, steps + 1)
        length = torch.zeros_like(x)
        for t, then in itertools.pairwise(times.tolist()):
            velocity = self.velocity(x, t, prompt)
            if self.guidance != 1:
                free = self.velocity(x, t, None)
                velocity = free + self.guidance * (velocity - free)
            step = (then - t) * velocity
            x, length = x + step, length + step.abs()
        return x, length


def _normal(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def third(noise: Tensor) -> Tensor:
    """0, 1 or 2: the target to which a noise is tied."""
    return (noise > -THIRD).long() + (noise > THIRD).long()


def distance(ends: Tensor, prompt: int) -> float:
    """Wasserstein-1 between some ends (n,) and the prompt's target, by quantiles."""
    places = (torch.arange(len(ends), dtype=torch.float64) + 0.5) / len(ends)
    wanted = CENTRES[prompt] + WIDTH * torch.special.ndtri(places)
    return float((ends.sort().values - wanted).abs().mean())


class Bench:
    """The pools, and what becomes of them: (pools,) for each group and measure."""

    def __init__(self, pools: int = POOLS, noises: int = NOISES):
        rng = np.random.default_rng(0)
        self.noise = torch.from_numpy(rng.standard_normal((pools, noises)))
        self.others = torch.from_numpy(rng.standard_normal((ERASED - 1, pools, noises)))
        self.sampled = torch.from_numpy(rng.standard_normal((pools, noises)))

    def injected(self, model: Model, prompt: int, target: str, times: Any = TIMES, **options: Any) -> Tensor:
        return torch.stack(
            [
                inject(pool, lambda z, t: model.predict(z, t, prompt, target), times, **options)
                for pool in self.noise
            ]
        )

    def erased(self) -> Tensor:
        return erase(torch.cat([self.noise[None], self.others]))

    def look(self, model: Model, starts: Any, steps: int = STEPS, since: float = 1.0) -> dict[str, Any]:
        """Measures by group. `starts(prompt)` are the refined noises, or the states at t = `since`."""
        found: dict[str, Any] = {}
        belongs = third(self.noise)
        for prompt, centre in enumerate(CENTRES):
            start = starts(prompt)
            ends, path = model.sample(start, prompt, steps, since)
            nearest = (ends[..., None] - torch.tensor(CENTRES)).abs().argmin(-1)
            each = {
                "hits": (nearest == prompt).double(),
                "start": (start - centre).abs(),
                "path": path,
                "whole": (start - self.noise).abs() + path,
            }
            matched = belongs == prompt
            for group, mask in (
                ("all", torch.ones_like(matched)),
                ("matched", matched),
                ("mismatched", ~matched),
            ):
                for name, values in each.items():
                    mean = (values * mask).sum(1) / mask.sum(1)
                    found.setdefault((group, name), []).append(mean.numpy())
                far = [distance(e[m], prompt) for e, m in zip(ends, mask, strict=True)]
                found.setdefault((group, "w1"), []).append(far)
        return {key: np.mean(values, axis=0) for key, values in found.items()}


def against(
    found: dict[Any, Any], plain: dict[Any, Any], groups: tuple[str, ...] = ("all",)
) -> dict[str, Any]:
    """Paired differences with their intervals."""
    return {
        group: {
            measure: rounded(bootstrap(found[group, measure] - plain[group, measure])) for measure in MEASURES
        }
        for group in groups
    }


def rounded(interval: Any) -> list[float]:
    return [round(float(value), 5) for value in interval]


def main_arms(bench: Bench, model: Model, deltas: tuple[float, ...]) -> dict[str, Any]:
    arms: dict[str, Any] = {"erased": lambda prompt: bench.erased()}
    for delta, sign in itertools.product(deltas, (1, -1)):
        arms[f"injected {'+' if sign == 1 else '-'}{delta}"] = lambda prompt, delta=delta, sign=sign: (
            bench.injected(model, prompt, "velocity", delta=delta, sign=sign)
        )
    return arms


def mean_shares(bench: Bench, model: Model) -> list[float]:
    """For each prompt, the share of the pool's mean, which standardising undoes, in what is injected."""
    shares = []
    for prompt in range(3):
        total = sum(model.predict(bench.noise, t, prompt, "velocity") for t in TIMES)
        shares.append(round(float((total.mean(1).square() / total.square().mean(1)).mean()), 3))
    return shares


def measure(bench: Bench, log: Any = print) -> dict[str, Any]:
    groups = ("all", "matched", "mismatched")
    model = Model()
    plain = bench.look(model, lambda prompt: bench.noise)
    result: dict[str, Any] = {
        "pools": len(bench.noise),
        "noises": bench.noise.shape[1],
        "plain": {g: {m: rounded(bootstrap(plain[g, m])) for m in MEASURES} for g in groups},
        "w1 of a sample of the target": rounded(
            bootstrap(
                np.mean(
                    [[distance(c + WIDTH * p, k) for p in bench.sampled] for k, c in enumerate(CENTRES)],
                    axis=0,
                )
            )
        ),
    }
    result["main"] = {
        name: against(bench.look(model, starts), plain, groups)
        for name, starts in main_arms(bench, model, (0.1,)).items()
    }
    log("main", json.dumps(result["main"]))
    step = 0.1

    def once(prompt: int) -> Tensor:
        return bench.injected(model, prompt, "velocity", (1.0,), delta=step, sign=-1, rescale="none")

    result["controls"] = {
        "53 steps": against(bench.look(model, lambda prompt: bench.noise, STEPS + 3), plain, groups),
        "one step injected, from t = 1": against(bench.look(model, once), plain, groups),
        "one step, on from t = 0.9": against(
            bench.look(
                model, lambda p: once(p) * math.sqrt(1 + step**2), round(STEPS * (1 - step)), 1 - step
            ),
            plain,
            groups,
        ),
    }
    log("controls", json.dumps(result["controls"]))
    result["sweep"] = []
    for rescale, target, sign in itertools.product(("standardise", "none", "spherical"), TARGETS, (1, -1)):
        for delta in DELTAS:
            found = bench.look(
                model,
                lambda p: bench.injected(model, p, target, delta=delta, sign=sign, rescale=rescale),  # noqa: B023
            )
            row = {"rescale": rescale, "target": target, "sign": sign, "delta": delta}
            result["sweep"].append(row | against(found, plain)["all"])
        log("sweep", rescale, target, sign)
    result["settings"] = []
    for tie, guidance in itertools.product((0.0, 0.5, 0.9), (1.0, 3.0)):
        other = Model(tie=tie, guidance=guidance)
        bare = bench.look(other, lambda prompt: bench.noise)
        arms = main_arms(bench, other, (0.1, 0.4)).items()
        result["settings"].append(
            {
                "tie": tie,
                "guidance": guidance,
                "plain": {g: {m: rounded(bootstrap(bare[g, m])) for m in MEASURES} for g in groups},
                "arms": {name: against(bench.look(other, starts), bare, groups) for name, starts in arms},
            }
        )
        log("settings", tie, guidance)
    return result


def explain(bench: Bench) -> dict[str, Any]:
    """Added after the planned results had been read, to say why they came out as they did."""
    model = Model()
    plain = bench.look(model, lambda prompt: bench.noise)
    scaled, other = [], []
    for target, sign in itertools.product(TARGETS, (1, -1)):

        def shrunk(prompt: int, target: str = target, sign: Any = sign) -> Tensor:
            injected = bench.injected(model, prompt, target, delta=0.1, sign=sign, rescale="none")
            return bench.noise * (injected.std(1) / bench.noise.std(1))[:, None]

        row = {
            "target": target,
            "sign": sign,
            "deviation": round(float(torch.stack([shrunk(p) for p in range(3)]).std()), 3),
        }
        scaled.append(row | against(bench.look(model, shrunk), plain)["all"])
    for tie, guidance in itertools.product((0.0, 0.5, 0.9), (1.0, 3.0)):
        model = Model(tie=tie, guidance=guidance)
        bare = bench.look(model, lambda prompt: bench.noise)
        for sign in (1, -1):
            found = bench.look(
                model,
                lambda p: bench.injected(model, p, "velocity", delta=0.1, sign=sign, rescale="spherical"),  # noqa: B023
            )
            row = {"tie": tie, "guidance": guidance, "sign": sign}
            other.append(row | against(found, bare)["all"])
    return {
        "share of the mean in the injected direction": mean_shares(bench, Model()),
        "scaled alone": scaled,
        "settings, spherical": other,
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    bench = Bench()
    found = measure(bench, lambda *words: print(*words, flush=True)) | explain(bench)
    write_bytes_atomically(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
