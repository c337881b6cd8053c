"""What a training depends on: one JSON file, checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from seedbed.errors import BadInput
from seedbed.files import read_settings
from seedbed.noise import Torch, prior_named
from seedbed.texts import text_of


def _drawable(text: str) -> str:
    prior = prior_named(text)
    if isinstance(prior, Torch):
        raise BadInput("noise for training is drawn by numpy: write gaussian, the same distribution")
    return text_of(prior)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class World(_Part):
    """So many different clips of a synthetic world, rendered as they are needed.

    Attributes:
        side: of the frames, in pixels.
        every: one frame of so many is kept, as in clips for the base of a cascade.
        pairs: share of clips with two objects, of the shapes world, instead of its own 0.62.
    """

    world: Literal["shapes", "digits"]
    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    side: int = Field(default=32, ge=8)
    every: int = Field(default=1, ge=1)
    pairs: float | None = Field(default=None, ge=0, le=1, strict=False)

    @model_validator(mode="after")
    def _has_pairs(self) -> World:
        if self.pairs is not None and self.world != "shapes":
            raise ValueError(f"the {self.world} world has one object in a clip: leave pairs out")
        return self


class Videos(_Part):
    """Video files, cut into clips that follow one another.

    Attributes:
        videos: a folder, with a caption NAME.txt beside each video NAME.mp4, or a .jsonl file of lines
            {"video": path, "caption": text}, paths relative to it. Relative to the working directory itself.
        fps: frames per second of the clips, whatever the files have.
        height, width: of the clips, in pixels: the middle of the frame in these proportions, resized.
        captions: false trains without captions.
    """

    videos: str = Field(min_length=1)
    fps: float = Field(gt=0, le=1000, strict=False)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    captions: bool = True


def _kind(given: Any) -> str | None:
    """The kind of data, read or to be written, so that an error speaks of that kind alone."""
    if not isinstance(given, (dict, BaseModel)):
        return None
    return "world" if "world" in dict(given) else "videos"


Data = Annotated[
    Annotated[World, Tag("world")] | Annotated[Videos, Tag("videos")],
    Discriminator(
        _kind,
        custom_error_type="data",
        custom_error_message='write {"world": "shapes", ...} or {"videos": "FOLDER", ...}',
    ),
]


class Inflate(_Part):
    """How a text-to-image U-Net gets temporal attention, see `seedbed.training.denoisers.inflate`."""

    positions: int = Field(default=32, ge=1)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=1, ge=1)


class Lora(_Part):
    """Low-rank adapters of linear layers, by peft, in place of the weights themselves.

    Attributes:
        targets: names of layers, or their ends.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1, strict=False)


class Stills(_Part):
    """Joint training: a share of the steps is on single frames of the clips, each from a clip of its own."""

    share: float = Field(gt=0, lt=1)


class Samples(_Part):
    """What is generated on the way from the averaged weights, and how the finished model is to be called.

    Attributes:
        every: so many steps, and after the last.
        call: arguments of the pipeline's call.
    """

    prompts: tuple[str, ...] = Field(min_length=1, strict=False)
    every: int = Field(ge=1)
    call: dict[str, Any] = Field(default_factory=dict)


class Network(_Part):
    """A new `UNetMotionModel`, with random weights.

    Attributes:
        widths: channels of each level.
        attention: so many of the lowest levels attend within a frame and to the text.
        layers: of each level.
        heads: of every attention; divides every width.
        positions: greatest number of frames.
        groups: of its norms; divides every width.
    """

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, strict=False)
    attention: int = Field(default=1, ge=1)
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=8, ge=1)
    positions: int = Field(default=32, ge=1)
    groups: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Network:
        if self.attention > len(self.widths):
            raise ValueError(f"attention: there are {len(self.widths)} levels, not {self.attention}")
        if any(width % self.heads or width % self.groups for width in self.widths):
            raise ValueError("heads and groups must divide every one of the widths")
        return self


class Interpolation(_Part):
    """Training a cascade's interpolation: every `factor`-th frame of a clip is given, the others are made."""

    kind: Literal["interpolation"]
    factor: int = Field(ge=2)
    network: Network


class SuperResolution(_Part):
    """Training a cascade's (next) super-resolution: clips are given smaller, as the autoencoder shows them.

    Attributes:
        factor: by which a side is made larger.
        augmentation: greatest noise in what is given, see `seedbed.pipelines.cascade.augmented`.
    """

    kind: Literal["super-resolution"]
    factor: int = Field(ge=2)
    augmentation: float = Field(default=0.2, ge=0, lt=1, strict=False)
    network: Network


class Plan(_Part):
    """How long a training is, and how fast.

    Attributes:
        batch: clips of one forward in one process; `accumulate` such forwards make a step.
        warmup, cooldown: steps over which the learning rate rises first, and falls to 0 last, both linearly.
        clip: greatest norm of the gradient.
        ema: decay of the average of the weights, which is what is kept in the end.
        workers: processes that read and decode clips, for each training process.
        save_every, log_every: in steps.
    """

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    warmup: int = Field(default=0, ge=0)
    cooldown: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0, strict=False)
    ema: float = Field(default=0.999, ge=0, lt=1, strict=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    workers: int = Field(default=0, ge=0)
    save_every: int = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)

    def rate(self, step: int) -> float:
        """Share of the greatest learning rate in a step, from 0."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return min(1.0, rise, fall)

    def forwards(self, first: int, size: int, process: int) -> Iterator[list[int]]:
        """Row numbers of each forward of one process, from step `first` on; a step has `size` rows."""
        own = self.batch * self.accumulate
        for start in range(first * size + process * own, self.steps * size, size):
            for part in range(start, start + own, self.batch):
                yield [*range(part, part + self.batch)]


class Config(Plan):
    """All that a training depends on.

    Attributes:
        name: of the training, letters, digits, dots, dashes and underscores.
        model: folder of the diffusers pipeline to start from, an embedded model's name, or one on the Hub.
        inflate: make a video model of a text-to-image pipeline first.
        train: the whole denoiser, its motion modules, or adapters.
        frames: of a clip; 1 trains a text-to-image pipeline.
        prior: of the noise, as `seedbed.noise.prior_named` reads it.
        prediction: what the denoiser is taught to predict; None keeps the scheduler's.
        shift: s, timesteps as dense as `s u/(1 + (s − 1) u)` of a uniform u: above 1 more of them are noisy.
            None keeps that of the scheduler for flow matching, and is 1 for ε and v.
        min_snr: γ of the weighting of arXiv 2303.09556; None weighs all timesteps alike.
        caption_dropout: share of clips whose caption is left out, for guidance.
        checkpointing: recompute activations in the backward pass, to save memory.
        cache: encode all clips once, before the first step.
    """

    schema_: Literal["seedbed.training/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    model: str = Field(min_length=1)
    inflate: Inflate | None = None
    train: Literal["all", "motion"] | Lora = "all"
    stage: Annotated[Interpolation | SuperResolution, Field(discriminator="kind")] | None = None
    data: Data
    frames: int = Field(ge=1)
    stills: Stills | None = None
    prior: Annotated[str, AfterValidator(_drawable)] = "gaussian"
    prediction: Literal["epsilon", "v_prediction", "flow_prediction"] | None = None
    shift: float | None = Field(default=None, gt=0, strict=False)
    min_snr: float | None = Field(default=None, gt=0, strict=False)
    caption_dropout: float = Field(default=0.1, ge=0, le=1, strict=False)
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0, strict=False)
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    cache: bool = False
    samples: Samples | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if isinstance(self.train, Lora) and self.inflate:
            raise ValueError("adapters leave the new motion modules as they are: train motion or all")
        if self.frames == 1 and (self.stills or self.inflate):
            raise ValueError("frames: a video model is trained on more than 1 frame")
        if self.stage and (self.inflate or self.train != "all"):
            raise ValueError("stage: a stage is a new network, trained whole: leave inflate and train out")
        if self.stage and self.stage.kind == "interpolation" and self.stills:
            raise ValueError("stills: there is nothing to interpolate in single frames")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """Read a config; BadInput as `seedbed.files.read_settings`."""
        return read_settings(cls, path, "a training")

    def to_json(self) -> str:
        """The config as `load` reads it, with its defaults filled in."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def content(self) -> dict[str, Any]:
        """What decides the weights, in plain JSON types: another content is another training."""
        without = {"name", "workers", "save_every", "log_every", "samples"}
        return self.model_dump(mode="json", by_alias=True, exclude=without)
