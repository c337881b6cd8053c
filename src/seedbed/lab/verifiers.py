"""What judges a finished video: the world's exact verifier, a CLIP model, your own callable, or people."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.selection.judging import Frames, Verifier

# Frames that go through a neural judge together.
_AT_ONCE = 64


def resolve(verifier: str | os.PathLike[str] | Verifier | Ratings) -> Verifier | Ratings:
    """The judge that is meant.

    Args:
        verifier: "shapes", the exact verifier of the shapes world; "clip:FOLDER" or "aesthetic:FOLDER", with
            weights of your own (see `Clip` and `Aesthetic`); the path of a CSV file of `Ratings`; or any
            callable from frames, uint8 (videos, frames, height, width, 3), and one prompt per video to
            (videos,), or to a dict of such tensors with the key "score". Higher is better.

    Raises:
        BadInput: none of these, or weights or ratings that cannot be read.
    """
    if isinstance(verifier, Ratings) or callable(verifier):
        return verifier
    if not isinstance(verifier, (str, os.PathLike)):
        raise BadInput(f"a verifier is a name, a file of ratings or a callable, not {verifier!r}")
    text = os.fspath(verifier)
    name, _, folder = text.partition(":")
    if text == "shapes":
        from seedbed.worlds.verifier import attributes

        return attributes
    if name in ("clip", "aesthetic"):
        if not folder:
            raise BadInput(
                f"the verifier {name} needs weights of your own: write {name}:FOLDER, the folder of a CLIP "
                "model"
            )
        return Clip(folder) if name == "clip" else Aesthetic(folder)
    if text.lower().endswith(".csv"):
        return Ratings.load(text)
    raise BadInput(
        f"there is no verifier {text!r}: use shapes, clip:FOLDER, aesthetic:FOLDER, a .csv file of ratings, "
        "or a callable"
    )


class Ratings:
    """Ratings by people, of videos that were generated before: a table, so it judges no other video.

    It can say what a signal at the start was worth, since the noise of a rated video can be drawn again. It
    cannot judge previews, or a video that nobody rated.

    Args:
        ratings: (prompt, seed, candidate) to the rating, higher is better. Several ratings of a video are
            averaged by `load`.
        source: what messages call the table.
    """

    COLUMNS = ("prompt", "seed", "candidate", "rating")

    def __init__(self, ratings: Mapping[tuple[str, int, int], float], source: str = "the ratings") -> None:
        self.ratings = dict(ratings)
        self.source = source

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ratings:
        """Read a CSV file with the columns prompt, seed, candidate and rating; others are left alone.

        Raises:
            BadInput: no such file, a column that is missing, or a value that is no number; names the line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise BadInput(f"cannot read the ratings {path}: {reason}") from error
        reader = csv.DictReader(text.splitlines())
        missing = [name for name in cls.COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(f"{path} has no column {missing[0]!r}: it needs {', '.join(cls.COLUMNS)}")
        found: dict[tuple[str, int, int], list[float]] = {}
        for row in reader:
            try:
                key = (row["prompt"], int(row["seed"]), int(row["candidate"]))
                rating = float(row["rating"])
            except (TypeError, ValueError):
                rating = math.nan
            if not math.isfinite(rating):
                raise BadInput(
                    f"{path}, line {reader.line_num}: seed and candidate must be whole numbers, and the "
                    "rating a number"
                )
            found.setdefault(key, []).append(rating)
        return cls({key: sum(values) / len(values) for key, values in found.items()}, str(path))

    def of(self, prompt: str, recipes: Sequence[NoiseRecipe]) -> Tensor:
        """The rating of each noise's video, (noises,) float64.

        Raises:
            BadInput: a video was not rated; names it.
        """
        keys = [(prompt, recipe.seed, recipe.candidate) for recipe in recipes]
        for key in keys:
            if key not in self.ratings:
                raise BadInput(
                    f"{self.source} has no rating of {prompt!r}, seed {key[1]}, candidate {key[2]}: rate "
                    "that video, or calibrate on fewer prompts or noises"
                )
        return torch.tensor([self.ratings[key] for key in keys], dtype=torch.float64)


class Clip:
    """Likeness of a video and its prompt: the cosine of CLIP's embeddings, the mean over frames.

    Args:
        folder: of a CLIP model with its tokenizer, as `CLIPModel.save_pretrained` writes it. Nothing is
            downloaded.
        device: that it runs on.

    Raises:
        BadInput: there is no such model.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        if not (Path(folder) / "config.json").is_file():
            raise BadInput(f"there is no CLIP model in {folder}: it has no config.json")
        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{folder} does not load as a CLIP model: {str(error).splitlines()[0]}") from error
        self.model.eval().requires_grad_(False).to(device)
        # CLIP's own, where the folder does not say.
        self.mean, self.std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        processor = Path(folder) / "preprocessor_config.json"
        if processor.is_file():
            given = json.loads(processor.read_text(encoding="utf-8"))
            self.mean, self.std = given.get("image_mean", self.mean), given.get("image_std", self.std)

    def __call__(self, frames: Frames, prompts: list[str]) -> Tensor:
        """uint8 (videos, frames, height, width, 3) and a prompt each -> (videos,) float64 in [-1, 1]."""
        return torch.tensor(
            [
                (self._images(video) @ self._text(prompt)).double().mean().item()
                for video, prompt in zip(frames, prompts, strict=True)
            ],
            dtype=torch.float64,
        )

    def _text(self, prompt: str) -> Tensor:
        """(width,), of length 1."""
        tokens = self.tokenizer(prompt, truncation=True, return_tensors="pt").to(self.model.device)
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        embedded = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
        return torch.nn.functional.normalize(embedded[0], dim=0)

    def _images(self, video: Frames) -> Tensor:
        """uint8 (frames, height, width, 3) -> (frames, width), of length 1."""
        device, side = self.model.device, self.model.config.vision_config.image_size
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (self.mean, self.std))
        parts = []
        for chunk in torch.from_numpy(np.ascontiguousarray(video)).split(_AT_ONCE):
            pixels = chunk.to(device).permute(0, 3, 1, 2).float() / 255
            height, width = (max(side, round(side * n / min(pixels.shape[2:]))) for n in pixels.shape[2:])
            pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
            top, left = (height - side) // 2, (width - side) // 2
            pixels = (pixels[..., top : top + side, left : left + side].clamp(0, 1) - mean) / std
            pooled = self.model.vision_model(pixel_values=pixels.to(self.model.dtype)).pooler_output
            parts.append(torch.nn.functional.normalize(self.model.visual_projection(pooled), dim=1))
        return torch.cat(parts)


class Aesthetic(Clip):
    """A linear aesthetic score of frames, the mean over a video, as LAION's predictors give it.

    Those are linear layers on the CLIP embedding of length 1, one after another with nothing in between.

    Args:
        folder: of the CLIP model, as for `Clip`, with the layers beside it in `aesthetic.safetensors`: their
            weights and biases, in the order of the numbers in their names ("layers.0.weight", ...).
        device: that it runs on.

    Raises:
        BadInput: there is no such model, or its layers do not fit.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        super().__init__(folder, device)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder) / "aesthetic.safetensors"
        try:
            tensors = load_file(path, device=str(device))
        except (OSError, SafetensorError) as error:
            raise BadInput(
                f"cannot read {path}: the aesthetic verifier needs its linear layers there"
            ) from error
        names = sorted(
            {name.rpartition(".")[0] for name in tensors},
            key=lambda name: [int(part) for part in name.split(".") if part.isdigit()],
        )
        width = self.model.config.projection_dim
        self.layers = []
        for name in names:
            weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
            if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != width:
                raise BadInput(f"{path}: {name} is no linear layer of {width} inputs")
            width = weight.shape[0]
            self.layers.append((weight.float(), bias.float()))
        if width != 1 or not names:
            raise BadInput(f"{path}: the last layer must have 1 output, not {width}")

    def __call__(self, frames: Frames, prompts: list[str]) -> Tensor:
        """uint8 (videos, frames, height, width, 3) -> (videos,) float64; the prompts do not count."""
        scores = []
        for video in frames:
            values = self._images(video).float()
            for weight, bias in self.layers:
                values = torch.nn.functional.linear(values, weight, bias)
            scores.append(values.double().mean().item())
        return torch.tensor(scores, dtype=torch.float64)
