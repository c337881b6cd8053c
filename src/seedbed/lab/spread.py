"""How much of what differs between finished videos the noise explains, on any model.

Every noise is given to every prompt. Of a coarse look at the videos, the variance is split into what the
prompt decides, what the noise decides whatever the prompt, and what both decide together: a crossed analysis
of variance with one video in each cell, whose last part holds all that is left. Seeds look alike where the
prompt decides nearly all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from seedbed.errors import BadInput, whole
from seedbed.lab.measurement import check_prompts
from seedbed.lab.work import kept
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement.refiner import correlate_steps, model_sha256
from seedbed.selection.pools import draw_pool
from seedbed.selection.provenance import Model
from seedbed.selection.values import jsonable, recordable
from seedbed.statistics import LEVEL, Array, Interval
from seedbed.verifiers import Frames

FRAMES, SIDE = 8, 16  # of the look at a video
LEAST_PROMPTS, LEAST_NOISES = 3, 2


@dataclass(frozen=True)
class Spread:
    """Shares of the variance between videos, which add up to 1.

    Attributes:
        prompt: what the prompt decides, whatever the noise.
        noise: what the noise decides, whatever the prompt.
        both: what is left: a prompt and a noise together.
        within: `noise` and `both`, all that differs between the noises of one prompt.
        variance: of a value (0 to 1) of the look at a video, on average.
        prompts, noises: how many were crossed.
    """

    prompt: Interval
    noise: Interval
    both: Interval
    within: Interval
    variance: Interval
    prompts: int
    noises: int


def spread(
    pipe: Any,
    prompts: Sequence[str],
    noises: int = 8,
    *,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = True,
    **call: Any,
) -> Spread:
    """Generate a video from every noise for every prompt, and split the variance between them.

    Args:
        pipe: any diffusers pipeline that `select` takes.
        prompts: at least 3, all different.
        noises: candidates 0, 1, ... of `seed`, the same ones for every prompt; at least 2.
        cache: a folder for what is made so far, so that a run that was ended goes on; None is nowhere.
        progress: True for a bar on stderr, or a callable (what, done, total).
        call: further arguments of the pipeline's call.

    Raises:
        BadInput: too few prompts or noises, a prompt given twice, or a cache of another measurement.
    """
    noises, seed = whole("noises", noises, LEAST_NOISES), whole("seed", seed, least=0)
    check_prompts(prompts, LEAST_PROMPTS, "to tell a spread")
    sessions = [Session(pipe, prompt, **call) for prompt in prompts]
    pool = draw_pool(sessions[0], noises, seed)
    about = {
        "schema": "seedbed.spread/1",
        "model": Model.of(pipe).model,
        "weights": model_sha256(pipe, autoencoder=True),
        "scheduler": Model.of(pipe).scheduler,
        "call": jsonable(recordable(sessions[0].call)[0]),
    }
    looks: list[list[Array]] = []
    with reporting(progress) as show, kept(cache, about, "spread") as (store, known):
        for p, (prompt, session) in enumerate(zip(prompts, sessions, strict=True)):
            looks.append([])
            for n, noise in enumerate(pool.noises):
                show("videos", p * noises + n, len(prompts) * noises)
                key = hashlib.sha256(json.dumps([prompt, pool.recipes[n].sha256]).encode()).hexdigest()
                if key not in known:
                    correlate_steps(session, pool.recipes[n], noise)
                    packed = base64.b64encode(coarse_look(session.generate(noise)).tobytes()).decode()
                    known[key] = {"key": key, "prompt": prompt, "seed": seed, "candidate": n, "look": packed}
                    store.append([known[key]])
                seen = np.frombuffer(base64.b64decode(known[key]["look"]), np.uint8)
                looks[-1].append(seen.astype(np.float64) / 255)
        show("videos", len(prompts) * noises, len(prompts) * noises)
    return split(np.array(looks))


def coarse_look(frames: Frames) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A coarse look at a video, (at most FRAMES, SIDE, SIDE, 3) uint8: composition, colour and motion.

    Args:
        frames: uint8 (frames, height, width, 3).
    """
    some = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    pixels = torch.from_numpy(frames[some]).permute(0, 3, 1, 2).double()
    coarse = torch.nn.functional.adaptive_avg_pool2d(pixels, SIDE)
    return coarse.permute(0, 2, 3, 1).round().byte().numpy()


def split(values: Array) -> Spread:
    """Components of variance of a crossed design, with 95 % jackknife intervals over prompts.

    Each component is estimated without bias from the mean squares (Searle, Casella and McCulloch, Variance
    Components, 1992, section 4.2), and counts as 0 where that is below 0.

    Args:
        values: (prompts, noises, numbers), one video in each cell, at least 3 prompts and 2 noises.
    """
    count, found = len(values), _shares(values)
    left_out = np.array([_shares(np.delete(values, p, 0)) for p in range(count)])
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean(0)) ** 2).sum(0))
    width = student.ppf((1 + LEVEL) / 2, count - 1) * error
    tops = np.array([1, 1, 1, 1, np.inf])
    lows, highs = np.clip(found - width, 0, None), np.minimum(found + width, tops)
    prompt, noise, both, within, variance = (
        Interval(*map(float, ends)) for ends in zip(found, lows, highs, strict=True)
    )
    return Spread(prompt, noise, both, within, variance, count, values.shape[1])


def _shares(values: Array) -> Array:
    """Shares of prompt, noise, both, and noise or both; and the variance of a number."""
    prompts, noises, numbers = values.shape
    mean = values.mean((0, 1))
    of_prompt, of_noise = values.mean(1) - mean, values.mean(0) - mean
    left = values - mean - of_prompt[:, None] - of_noise[None]
    square_left = (left**2).sum() / ((prompts - 1) * (noises - 1))
    prompt = max(((of_prompt**2).sum() * noises / (prompts - 1) - square_left) / noises, 0.0)
    noise = max(((of_noise**2).sum() * prompts / (noises - 1) - square_left) / prompts, 0.0)
    total = prompt + noise + square_left
    if not total:
        raise BadInput("all videos look alike: there is no spread to explain")
    shares = [part / total for part in (prompt, noise, square_left, noise + square_left)]
    return np.array([*shares, total / numbers])
