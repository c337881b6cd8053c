"""Which prior suits an image model: the noise that it sees in the frames of a video, by DDIM inversion.

PYoCo (arXiv 2305.10474, section 3.1) inverts the frames of videos through an image model, and finds that the
noise maps of one video are alike. Here that is measured: cosines within and between videos, the correlation
of frames by their lag, and the α of its two priors that come closest, with intervals over videos. Two
controls are measured in the same way: independent noise, and the frames under independent noise at the level
where the inversion ends. The latter shows what is left of the frames themselves: that level is not all noise.

Statistics are float64, and intervals are 95 %, by a percentile bootstrap over videos.
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
from seedbed.noise import Mixed, Progressive
from seedbed.progress import Progress, reporting
from seedbed.statistics import LEVEL, Array, Interval
from seedbed.training.config import Videos, World
from seedbed.training.data import FileClips, clips_of
from seedbed.training.denoisers import Model, Objective

STEPS, PASSES = 50, 3
LEAST_VIDEOS, LEAST_FRAMES = 4, 3  # at two frames both priors are the same
_MOST = 1 - 1e-9  # of a correlation: at 1 α is infinite


@dataclass(frozen=True)
class Fit:
    """The least-squares α of a prior: every pair of frames counts alike.

    Attributes:
        alpha: as of `seedbed.noise.Mixed` and `Progressive`.
        residual: root of the mean squared difference of the correlations, over pairs of frames.
    """

    alpha: Interval
    residual: Interval


@dataclass(frozen=True)
class Similarity:
    """How alike noise maps are.

    Attributes:
        same: mean cosine of two frames of a video; cross: of two videos; excess: same - cross.
        lags: correlation, over the elements of a map, of frames 1, 2, ... apart, beyond what videos share:
            (r - c)/(1 - c) with c that of two videos. A model's own bias, the same for every video, makes a c
            above 0; it is a mean of the noise, which no prior has, and not a correlation.
        mixed, progressive: the priors closest to `lags`.
        difference: residual of `mixed` minus that of `progressive`: above 0, `progressive` fits better.
    """

    same: Interval
    cross: Interval
    excess: Interval
    lags: tuple[Interval, ...]
    mixed: Fit
    progressive: Fit
    difference: Interval


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
    batch_size, seed = whole("batch_size", batch_size), whole("seed", seed, 0)
    model = Model(pipe, {})
    if model.kind != "image":
        raise NotSupported(f"frames are inverted through an image model, which {type(pipe).__name__} is not")
    last = _Schedule.of(pipe, steps).powers[-1]
    clips = clips_of(data, frames)
    model.require(1, *clips.size)
    numbers = clips.firsts() if isinstance(clips, FileClips) else [*range(len(clips))]
    found, clean, error, unused = list[Array](), list[Array](), 0.0, [clips.complaint()]
    with reporting(progress) as show:
        for number in numbers:
            if len(found) == videos:
                break
            show("videos", len(found), min(videos, len(numbers)))
            try:
                pixels = clips.read(number, frames, 0.0)
            except BadInput as problem:
                unused.append(str(problem))
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
    drawn = np.random.default_rng(seed).standard_normal((len(found), frames, found[0].shape[1]))
    noisy = last**0.5 * np.stack(clean) + (1 - last) ** 0.5 * drawn
    size = float(np.square(clean[0]).sum())
    inverted, control, leak = (similarity(each, seed=seed) for each in (np.stack(found), drawn, noisy))
    error = math.sqrt(error / size) if size else math.nan
    return Analysis(len(found), frames, inverted, control, leak, error, "; ".join(filter(None, unused)))


def invert(model: Model, latents: Tensor, said: Tensor, steps: int = STEPS, passes: int = PASSES) -> Tensor:
    """The noise of which DDIM makes these latents, unguided, by turning each of its steps round.

    The sample at a level is found by iterating from the one below. `seedbed.adaptation.trajectory.inverted`
    does so for one video of any pipeline in its own schedule; this takes frames together, and goes up to the
    last timestep of training whatever the pipeline samples with.

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


def similarity(maps: Array, draws: int = 1000, seed: int = 0) -> Similarity:
    """How alike the noise maps of frames are.

    Args:
        maps: (videos, frames, elements), none of them constant.
        draws: resamples of the videos.

    Raises:
        BadInput: fewer than 2 videos or 3 frames, or numbers that are not finite.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[0] < 2 or maps.shape[1] < LEAST_FRAMES or not np.isfinite(maps).all():
        raise BadInput(f"noise maps must be finite (videos, frames, elements), not {maps.shape}")
    count, frames = maps.shape[:2]
    unit = maps / np.linalg.norm(maps, axis=2, keepdims=True)
    centred = maps - maps.mean(2, keepdims=True)
    centred /= np.linalg.norm(centred, axis=2, keepdims=True)
    lags = np.stack(
        [(centred[:, lag:] * centred[:, :-lag]).sum(2).mean(1) for lag in range(1, frames)], axis=1
    )
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    # A resample of one video alone has no two.
    drawn = drawn[(drawn > 0).sum(1) > 1]
    times = np.concatenate([np.ones((1, count)), drawn])  # the data themselves come first
    # The sum over pairs of frames of products is the product of sums.
    sums, off = unit.sum(1), 1 - np.eye(count)
    within = (np.square(sums).sum(1) - frames) / (frames * (frames - 1))
    same = times @ within / count
    pairs = (count**2 - np.square(times).sum(1)) * frames**2
    cross, common = (
        ((times @ (each @ each.T * off)) * times).sum(1) / pairs for each in (sums, centred.sum(1))
    )
    curves = (times @ lags / count - common[:, None]) / (1 - common[:, None])
    (mixed, one), (progressive, other) = _fitted(curves, Mixed), _fitted(curves, Progressive)
    return Similarity(
        _interval(same),
        _interval(cross),
        _interval(same - cross),
        tuple(_interval(curve) for curve in curves.T),
        Fit(_interval(mixed), _interval(one)),
        Fit(_interval(progressive), _interval(other)),
        _interval(one - other),
    )


def _fitted(curves: Array, prior: type[Mixed] | type[Progressive]) -> tuple[Array, Array]:
    """α and residual of each curve of correlations, (curves, lags); frames without correlation have α = 0."""
    lags = np.arange(1, curves.shape[1] + 1)
    share = lags[::-1] / lags.sum()  # of the pairs of frames that are so far apart
    if prior is Mixed:
        ratio = np.clip(curves @ share, 0, _MOST)[:, None]
        alpha, fitted = np.sqrt(ratio / (1 - ratio)), np.broadcast_to(ratio, curves.shape)
    else:
        # α/√(1 + α²), on a grid that is made finer around its best value.
        ratio, width = np.full((len(curves), 1), 0.5), 0.5
        for _ in range(12):
            grid = np.clip(ratio + width * np.linspace(-1, 1, 33), 0, _MOST)
            losses = (share * (grid[..., None] ** lags - curves[:, None]) ** 2).sum(2)
            ratio = np.take_along_axis(grid, losses.argmin(1)[:, None], axis=1)
            width /= 8
        alpha, fitted = ratio / np.sqrt(1 - ratio**2), ratio**lags
    return alpha[:, 0], np.sqrt((share * (curves - fitted) ** 2).sum(1))


def _interval(values: Array) -> Interval:
    """The first value, with the percentile interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))
