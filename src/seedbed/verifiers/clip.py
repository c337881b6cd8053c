"""Verifiers that are CLIP models: likeness to the prompt, and aesthetics."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, reason
from seedbed.verifiers import Frames
from seedbed.verifiers.models import loaded

# Frames that go through the model together.
_AT_ONCE = 64


class Clip:
    """Likeness of a video and its prompt: the cosine of CLIP's embeddings, the mean over frames.

    Args:
        folder: of a CLIP model with its tokenizer, as `CLIPModel.save_pretrained` writes it. Nothing is
            downloaded.
        device: that it runs on.

    Raises:
        BadInput: there is no such model, or not all of its weights.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        self.text = f"{type(self).__name__.lower()}:{os.fspath(folder)}"  # in records and caches
        if not (Path(folder) / "config.json").is_file():
            raise BadInput(f"there is no CLIP model in {folder}: it has no config.json")
        self.model, self.tokenizer = loaded(CLIPModel, AutoTokenizer, folder, "CLIP model", device)
        processor = Path(folder) / "preprocessor_config.json"
        try:
            given = dict(json.loads(processor.read_bytes())) if processor.is_file() else {}
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"cannot read {processor}: {reason(error)}") from error
        # CLIP's own, where the folder does not say.
        self.mean = given.get("image_mean", OPENAI_CLIP_MEAN)
        self.std = given.get("image_std", OPENAI_CLIP_STD)

    @plain_arithmetic()
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
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (self.mean, self.std)
        )
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

    @plain_arithmetic()
    def __call__(self, frames: Frames, prompts: list[str]) -> Tensor:
        """uint8 (videos, frames, height, width, 3) -> (videos,) float64; the prompts do not count."""
        scores = []
        for video in frames:
            values = self._images(video).float()
            for weight, bias in self.layers:
                values = torch.nn.functional.linear(values, weight, bias)
            scores.append(values.double().mean().item())
        return torch.tensor(scores, dtype=torch.float64)
