"""Clips with captions, and the rows of steps that are made of them, each a function of its number alone."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.files import read_text, write_bytes_atomically
from seedbed.noise import Gaussian, Prior
from seedbed.progress import Show
from seedbed.report.footage import conformed, read_frames, seconds_of
from seedbed.training.config import Videos, World
from seedbed.worlds import WORLDS, shapes

SUFFIXES = tuple(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .wmv .flv .ogv .gif".split())

# Purposes of random numbers, so that no two share them.
_ORDER, _STILL, _LEVELS, _ROW = range(4)


class WorldClips:
    """Clips of a world, of its training part; clip n of a seed is always the same.

    Attributes:
        size: height and width, pixels.
    """

    def __init__(self, world: World, frames: int) -> None:
        if frames > (there := len(range(0, shapes.FRAMES, world.every))):
            raise BadInput(f"a clip of the {world.world} world has {there} frames, not {frames}")
        self.size = (world.side, world.side)
        self._world = world
        _scene(world, 0)  # without its package it is refused at once

    def __len__(self) -> int:
        return self._world.count

    def complaint(self) -> str:
        """What cannot be used: nothing."""
        return ""

    def caption(self, number: int) -> str:
        """What a clip shows."""
        return str(WORLDS[self._world.world].caption(_scene(self._world, number)))

    def read(self, number: int, frames: int, share: float) -> NDArray[np.uint8]:
        """Frames (frames, height, width, 3) that follow one another in a clip.

        Args:
            frames: the clip's own number, or fewer.
            share: in [0, 1), where in the clip they begin, if they are fewer.
        """
        world, scene = self._world, _scene(self._world, number)
        video: NDArray[np.uint8] = WORLDS[world.world].render(scene, world.side)[:: world.every]
        begin = int(share * (len(video) - frames + 1))
        return video[begin : begin + frames]


@functools.lru_cache(maxsize=1)  # a clip is read, and then its caption
def _scene(world: World, number: int) -> Any:
    pairs = {} if world.pairs is None else {"pairs": world.pairs}
    return next(WORLDS[world.world].scenes((world.seed << 32) + number, **pairs))


@dataclass
class FileClips:
    """Clips of video files, read as those of `WorldClips`.

    Attributes:
        clips: file and second at which it begins, in the order of the files' names.
        captions: of each file.
        broken: files without a clip, and why.
    """

    size: tuple[int, int]
    fps: float
    frames: int
    clips: list[tuple[str, float]]
    captions: dict[str, str]
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, videos: Videos, frames: int, index: Path | None = None) -> FileClips:
        """Look through all files; with `index`, write down what was found there, or read it from there.

        A training that is resumed sees the same clips, whatever was added to the folder.

        Raises:
            BadInput: no videos, none that can be used, or captions that are missing.
        """
        size = (videos.height, videos.width)
        if index is not None and index.is_file():
            found = json.loads(read_text(index, "the index of clips"))
            clips = [(file, begin) for file, begin in found["clips"]]
            return cls(size, videos.fps, frames, clips, found["captions"], found["broken"])
        captions = _captions(videos)
        made = cls(size, videos.fps, frames, [], captions)
        for file in captions:
            try:
                seconds = seconds_of(file)
                # The last frame is shown from (frames - 1)/fps on.
                count = int((seconds * videos.fps + 1e-3) // frames)
                if not count:
                    asked = f"{frames} frames at {videos.fps:g} per second"
                    raise BadInput(f"{Path(file).name} lasts {seconds:.3g} s, too short for {asked}")
                made.clips += [(file, n * frames / videos.fps) for n in range(count)]
            except BadInput as error:
                made.broken[file] = str(error)
        if not made.clips:
            raise BadInput(f"no video of {videos.videos} can be used: {made.complaint()}")
        if index is not None:
            content = {"clips": made.clips, "captions": captions, "broken": made.broken}
            write_bytes_atomically(index, json.dumps(content, indent=1).encode())
        return made

    def firsts(self) -> list[int]:
        """The number of each file's first clip, where two clips of a file are not two videos."""
        return sorted({file: n for n, (file, _) in reversed([*enumerate(self.clips)])}.values())

    def complaint(self) -> str:
        """The files that cannot be used, counted and named, "" where there are none."""
        if not self.broken:
            return ""
        why = [*self.broken.values()]
        more = f" and {len(why) - 5} more" if len(why) > 5 else ""
        return f"{len(why)} of {len(self.captions)} files: {'; '.join(why[:5])}{more}"

    def __len__(self) -> int:
        return len(self.clips)

    def caption(self, number: int) -> str:
        """What a clip shows."""
        return self.captions[self.clips[number][0]]

    def read(self, number: int, frames: int, share: float) -> NDArray[np.uint8]:
        """See `WorldClips.read`; BadInput where the file cannot be read any more."""
        file, begin = self.clips[number]
        since = begin + int(share * (self.frames - frames + 1)) / self.fps
        return conformed(read_frames(file, frames, self.fps, since)[0], *self.size)[0]


Clips = WorldClips | FileClips


def _captions(videos: Videos) -> dict[str, str]:
    """The caption of each file, in the order of their names; "" for all where none are wanted."""
    place = Path(videos.videos)
    if place.suffix == ".jsonl":
        listed: dict[str, str | None] = {}
        for number, line in enumerate(read_text(place, "the list of videos").splitlines(), 1):
            try:
                entry = json.loads(line) if line.strip() else None
                if entry is not None:
                    listed[str(place.parent / entry["video"])] = entry.get("caption")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f'{place}, line {number}: write {{"video": path, "caption": text}}') from error
    elif place.is_dir():
        files = sorted(str(path) for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        beside = {file: Path(file).with_suffix(".txt") for file in files}
        listed = {
            file: read_text(text, "the caption").strip() if videos.captions and text.is_file() else None
            for file, text in beside.items()
        }
    else:
        raise BadInput(f"cannot read the videos {place}: neither a folder nor a .jsonl file is there")
    if not listed:
        raise BadInput(f"there are no videos in {place}: their names end in {', '.join(SUFFIXES)}")
    if not videos.captions:
        return dict.fromkeys(listed, "")
    missing = [file for file, caption in listed.items() if not isinstance(caption, str) or not caption]
    if missing:
        where = "the list" if place.suffix == ".jsonl" else f"{Path(missing[0]).stem}.txt beside it"
        raise BadInput(
            f"{len(missing)} of {len(listed)} videos have no caption, {Path(missing[0]).name} the first: "
            f'write it into {where}, or train without captions ("captions": false)'
        )
    return {file: str(caption) for file, caption in listed.items()}


def clips_of(data: World | Videos, frames: int, index: Path | None = None) -> Clips:
    """The clips that a config names; arguments and errors as `FileClips.of`."""
    if isinstance(data, World):
        return WorldClips(data, frames)
    return FileClips.of(data, frames, index)


class Latents:
    """Clips that are encoded once, in files of `EACH` clips that are written whole or not at all."""

    EACH = 64

    def __init__(self, folder: Path, clips: Clips) -> None:
        self.folder, self.clips = folder, clips

    def fill(self, frames: int, model: Any, process: tuple[int, int], show: Show) -> None:
        """Encode what is missing.

        Args:
            model: whose `encode` makes latents of clips (1, frames, height, width, 3).
            process: its number and how many there are; file n is made by process n modulo that many.
        """
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        for file, first in enumerate(range(0, len(self.clips), self.EACH)):
            numbers = range(first, min(first + self.EACH, len(self.clips)))
            if file % process[1] == process[0] and not self._path(file).is_file():
                latents, found, broken = [], list[int](), list[str]()
                for number in numbers:
                    pixels, which, also = readable(self.clips, number, frames, 0.0)
                    # One by one: a batch would round otherwise, and depend on who else is in it.
                    latents.append(model.encode(torch.from_numpy(pixels)[None]))
                    found, broken = [*found, which], [*broken, *also]
                tensors = {"latents": torch.cat(latents).cpu().contiguous()}
                metadata = {"clips": json.dumps(found), "broken": json.dumps(broken)}
                write_bytes_atomically(self._path(file), save(tensors, metadata))
            show("clips encoded", numbers.stop, len(self.clips))

    def read(self, number: int, frames: int, share: float, axis: int) -> tuple[Tensor, int, list[str]]:
        """Latent frames of a clip, (*shape), its number, and what is wrong with those that are not there."""
        from safetensors import safe_open

        with safe_open(self._path(number // self.EACH), "pt") as file:
            latents = file.get_slice("latents")[number % self.EACH]
            clips, broken = (json.loads(file.metadata()[name]) for name in ("clips", "broken"))
        begin = int(share * (latents.shape[axis] - frames + 1))
        return latents.narrow(axis, begin, frames).contiguous(), clips[number % self.EACH], broken

    def _path(self, file: int) -> Path:
        return self.folder / f"{file:06d}.safetensors"


def readable(
    clips: Clips, number: int, frames: int, share: float
) -> tuple[NDArray[np.uint8], int, list[str]]:
    """Frames of a clip or the next that can be read, its number, and what is wrong with those before it."""
    broken: list[str] = []
    for step in range(min(len(clips), 100)):
        try:
            found = (number + step) % len(clips)
            return clips.read(found, frames, share), found, broken
        except BadInput as error:
            broken.append(str(error))
    raise BadInput(f"{len(broken)} clips in a row cannot be read, the last one: {broken[-1]}")


@dataclass
class Rows:
    """Row i of a training: clip, caption, noise and noise level of row `i % size` of step `i // size`.

    Everything is a function of the seed and i. So a step depends neither on what ran before it nor on which
    process has which of its rows, and a training that is resumed draws what it would have drawn.

    Attributes:
        size: rows of a step, over all processes and accumulated forwards.
        shape: of a clip's latents, without a batch axis; `axis`: that of its frames.
        prior: of the noise.
        stills: share of the steps on single frames.
        dropout: share of rows without a caption.
        latents: encoded clips, in place of pixels.
        causal: whether a first latent frame alone is a still, as of autoencoders that join frames.
        augmentation: greatest level of another noise, for what a cascade's super-resolution is given; each
            row then has a "level" up to it, and independent noise "speckle" (*shape).
    """

    clips: Clips
    frames: int
    seed: int
    size: int
    shape: tuple[int, ...]
    axis: int
    prior: Prior
    stills: float = 0.0
    dropout: float = 0.0
    latents: Latents | None = None
    causal: bool = False
    augmentation: float = 0.0

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, row = divmod(int(index), self.size)
        epoch, place = divmod(int(index), len(self.clips))
        number = int(_order(self.seed, epoch, len(self.clips))[place])
        still = self.stills > 0 and self._numbers(_STILL, step).random() < self.stills
        numbers = self._numbers(_ROW, step, row)
        share, dropped, within = numbers.random(), numbers.random() < self.dropout, numbers.random()
        frames, shape, prior = self.frames, self.shape, self.prior
        if still:
            # Of a single frame, every prior is N(0, 1).
            frames, prior = 1, Gaussian()
            shape = tuple(1 if axis == self.axis else length for axis, length in enumerate(shape))
        noise = prior.draw(shape, self.axis, numbers)
        if self.latents is None:
            pixels, number, broken = readable(self.clips, number, frames, within)
            clip = torch.from_numpy(np.ascontiguousarray(pixels))
        else:
            begin = 0.0 if self.causal else within
            clip, number, broken = self.latents.read(number, shape[self.axis], begin, self.axis)
        # Stratified: the rows of a step see the whole schedule, so that gradients vary less.
        level = (self._numbers(_LEVELS, step).permutation(self.size)[row] + share) / self.size
        caption = "" if dropped else self.clips.caption(number)
        made = {"clip": clip, "caption": caption, "noise": noise, "share": level, "broken": "\n".join(broken)}
        if self.augmentation:
            speckle = Gaussian().draw(shape, self.axis, numbers)
            made |= {"level": self.augmentation * numbers.random(), "speckle": speckle}
        return made

    def _numbers(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of the clips in an epoch: each of them once."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
