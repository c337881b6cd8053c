"""Which prior suits an image model: the noise that it sees in the frames of a video, by DDIM inversion.

PYoCo (arXiv 2305.10474, section 3.1) inverts the frames of videos through an image model, and finds that the
noise maps of one video are alike. Here that is measured: cosines within and between videos, the correlation
of frames by their lag, and the α of its two priors that come closest, with intervals over videos. Two
controls are measured in the same way: independent noise, and the frames under independent noise at the level
where the inversion ends. The latter shows what is left of the frames themselves: that level is not all noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput, NotSupported, whole
from seedbed.lab.presentation import Table
from seedbed.lab.similarity import LEAST_FRAMES, Array, Similarity, similarity
from seedbed.progress import Progress, reporting
from seedbed.training.config import Videos, World
from seedbed.training.data import FileClips, clips_of
from seedbed.training.denoisers import Model
from seedbed.training.objective import Objective

STEPS, PASSES = 50, 3
LEAST_VIDEOS = 4


@dataclass(frozen=True)
class Analysis:
    """What the noise maps of an image model say of its prior.

    Attributes:
        maps: of the inverted frames.
        independent: of drawn noise of the same shapes, the control.
        leak: of the same frames under independent noise at the last level.
        error: of inversion and denoising, over the first video: the root of the mean squared difference of
            the latents, in units of their own.
        complaint: videos that could not be used, "" for none.
    """

    videos: int
    frames: int
    maps: Similarity
    independent: Similarity
    leak: Similarity
    error: float
    complaint: str = ""

    @property
    def prior(self) -> str:
        """The closer prior, as `seedbed.noise.prior_named` reads it.

        `gaussian` where the frames of a video are not surely more alike than what leaks of them makes them.
        """
        if self.maps.mixed.alpha.low <= self.leak.mixed.alpha.high:
            return "gaussian"
        name = "mixed" if self.maps.difference.mean <= 0 else "progressive"
        return f"{name}:{getattr(self.maps, name).alpha.mean:.3g}"

    @property
    def table(self) -> Table:
        """All numbers, a row for each."""
        columns = {"inverted": self.maps, "independent": self.independent, "leak": self.leak}
        rows: list[list[Any]] = [
            ["cosine, same video", *(each.same for each in columns.values())],
            ["cosine, two videos", *(each.cross for each in columns.values())],
            ["same - two", *(each.excess for each in columns.values())],
        ]
        for lag in range(1, self.frames):
            rows.append([f"correlation, lag {lag}", *(each.lags[lag - 1] for each in columns.values())])
        for name in ("mixed", "progressive"):
            fits = [getattr(each, name) for each in columns.values()]
            rows.append([f"{name}, alpha", *(fit.alpha for fit in fits)])
            rows.append([f"{name}, residual", *(fit.residual for fit in fits)])
        rows.append(["mixed - progressive", *(each.difference for each in columns.values())])
        note = (
            "95 % intervals over videos. independent: drawn noise; leak: the frames under independent noise "
            f"at the level where the inversion ends. Inverted and denoised, latents are {self.error:.2g} off."
        )
        title = f"noise maps of {self.videos} videos of {self.frames} frames"
        return Table(title, ["", *columns], rows, note)


def analyse(
    pipe: Any,
    data: World | Videos,
    frames: int = 16,
    videos: int = 50,
    *,
    steps: int = STEPS,
    passes: int = PASSES,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = True,
) -> Analysis:
    """Invert frames of videos through an image model, unguided, and find the prior nearest to their noise.

    Args:
        pipe: a `StableDiffusionPipeline` that predicts ε or v.
        data: videos with captions, as a training is given them: of each file its first clip, of a world all.
        frames: of each clip, at least 3.
        videos: at most so many, in the order of their names; at least 4, better 50.
        steps, passes: of `invert`.
        batch_size: frames of a forward.
        seed: of the controls and of the bootstrap.

    Raises:
        BadInput: data or numbers that cannot be used.
        BadOutput: the model's output is not finite.
        NotSupported: another kind of pipeline or prediction.
    """
    frames, videos = whole("frames", frames, LEAST_FRAMES), whole("videos", videos, LEAST_VIDEOS)
    steps, passes = whole("steps", steps, 2), whole("passes", passes)
    batch_size, seed = whole("batch_size", batch_size), whole("seed", seed, least=0)
    model = Model(pipe, {})
    if model.kind != "image":
        raise NotSupported(f"frames are inverted through an image model, which {type(pipe).__name__} is not")
    last = _Schedule.of(pipe, steps).powers[-1]
    clips = clips_of(data, frames)
    model.require(1, *clips.size)
    numbers = list(range(len(clips)))
    if isinstance(clips, FileClips):  # two clips of a file are not two videos
        numbers = sorted({file: n for n, (file, _) in reversed([*enumerate(clips.clips)])}.values())
    found, clean, error, broken = list[Array](), list[Array](), 0.0, list[str]()
    with reporting(progress) as show:
        for number in numbers:
            if len(found) == videos:
                break
            show("videos", len(found), min(videos, len(numbers)))
            try:
                pixels = clips.read(number, frames, 0.0)
            except BadInput as problem:
                broken.append(str(problem))
                continue
            latents = model.encode(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0].transpose(0, 1)
            said = model.embed([clips.caption(number)])
            maps = []
            for rows in latents.split(batch_size):
                maps.append(invert(model, rows, said, steps, passes))
                if not found:
                    back = denoise(model, maps[-1], said, steps)
                    error += float((back - rows.cpu().double()).square().sum())
            found.append(torch.cat(maps).flatten(1).numpy())
            clean.append(latents.cpu().double().flatten(1).numpy())
    if len(found) < LEAST_VIDEOS:
        raise BadInput(f"{len(found)} videos are too few for an interval: give at least {LEAST_VIDEOS}")
    complaint = clips.complaint() if isinstance(clips, FileClips) else ""
    drawn = np.random.default_rng(seed).standard_normal((len(found), frames, found[0].shape[1]))
    noisy = last**0.5 * np.stack(clean) + (1 - last) ** 0.5 * drawn
    size = float(np.square(clean[0]).sum())
    inverted, control, leak = (similarity(each, seed=seed) for each in (np.stack(found), drawn, noisy))
    error = math.sqrt(error / size) if size else math.nan
    complaint = "; ".join([*[complaint] * bool(complaint), *broken])
    return Analysis(len(found), frames, inverted, control, leak, error, complaint)


def invert(model: Model, latents: Tensor, said: Tensor, steps: int = STEPS, passes: int = PASSES) -> Tensor:
    """The noise of which DDIM makes these latents, unguided, by turning each of its steps round.

    A step from a level to the one below is linear in the sample and in the output at it. The sample is found
    by iterating from the one below. `seedbed.adaptation.trajectory.inverted` does so for one video of any
    pipeline in its own schedule; this takes frames together, and goes up to the last timestep of training
    whatever the pipeline samples with.

    Args:
        latents: (n, channels, height, width), as `Model.encode` makes them.
        said: (1, tokens, width), the caption's embedding.
        steps: levels of noise, evenly apart.
        passes: evaluations at each level.

    Returns:
        Of the latents' shape, float64 on the CPU.

    Raises:
        BadInput: more steps than the model has timesteps.
        BadOutput: the model's output is not finite.
        NotSupported: the model predicts neither ε nor v.
    """
    schedule, x = _Schedule.of(model.pipe, steps), latents.cpu().double()
    for step in range(steps):
        known, (scale, weight) = x, schedule.down(step)
        for _ in range(passes):
            x = (known - weight * _output(model, x, schedule.timesteps[step], said)) / scale
    return x


def denoise(model: Model, noise: Tensor, said: Tensor, steps: int = STEPS) -> Tensor:
    """The latents that DDIM makes of a noise; arguments and errors as of `invert`."""
    schedule, x = _Schedule.of(model.pipe, steps), noise
    for step in reversed(range(steps)):
        scale, weight = schedule.down(step)
        x = scale * x + weight * _output(model, x, schedule.timesteps[step], said)
    return x


class _Schedule(NamedTuple):
    """Timesteps and ᾱ of levels evenly apart, from the least noise to the most."""

    kind: str
    timesteps: list[int]
    powers: list[float]

    @classmethod
    def of(cls, pipe: Any, steps: int) -> _Schedule:
        objective = Objective.of(pipe.scheduler)
        count = objective.timesteps
        if objective.kind == "flow_prediction":
            raise NotSupported("frames are inverted through a model that predicts ε or v: this one does not")
        if steps > count:
            raise BadInput(f"steps must be at most {count}, the timesteps of the model, not {steps}")
        timesteps = [round(count * (step + 1) / steps) - 1 for step in range(steps)]
        # Of ε alone, without any signal, nothing follows about the step below.
        least = 1e-8 if objective.kind == "epsilon" else 0.0
        powers = [max(least, float(objective.powers[at])) for at in timesteps]
        return cls(objective.kind, timesteps, powers)

    def down(self, step: int) -> tuple[float, float]:
        """DDIM's step from a level (arXiv 2010.02502, eq. 12): factors of the sample and of the output."""
        power, below = self.powers[step], self.powers[step - 1] if step else 1.0
        alpha, sigma, high, low = (math.sqrt(each) for each in (power, 1 - power, below, 1 - below))
        if self.kind == "epsilon":
            return high / alpha, low - high * sigma / alpha
        return alpha * high + sigma * low, alpha * low - sigma * high


@torch.no_grad()
def _output(model: Model, sample: Tensor, timestep: int, said: Tensor) -> Tensor:
    """The denoiser's output, float64 on the CPU."""
    unet = model.denoiser
    given = sample.to(unet.device, unet.dtype)
    at = torch.full((len(given),), timestep, device=unet.device)
    words = said.expand(len(given), -1, -1)
    found: Tensor = unet(given, at, words, return_dict=False)[0].cpu().double()
    if not found.isfinite().all():
        raise BadOutput(f"the model's output at timestep {timestep} is not finite: nothing can be inverted")
    return found
