"""Verifiers that are models of transformers, by folder: reward models, and models that answer questions."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, reason, shown, whole
from seedbed.verifiers import Frames

# Frames that a CLIP-like model sees together, and those that a model which reads all at once is shown.
_AT_ONCE, _SHOWN = 64, 8
_YES, _NO = (tuple(space + word for word in (w, w.title()) for space in ("", " ")) for w in ("yes", "no"))


class Reward:
    """What a reward model thinks of a video and its prompt, by the model's own scale.

    By the class that the folder's config names, all that transformers' Auto classes load without code of the
    folder's own:

    - `...ForSequenceClassification` that take images: evenly spaced frames and the prompt go in together; the
      score is the mean of the labels' logits, each of which has a column of its name where there are several.
    - anything else that has `logits_per_image`, as CLIP and SigLIP do: the mean of it over frames. PickScore
      and HPS are such models.

    Args:
        folder: of the model with its processor, as `save_pretrained` writes them. Nothing is downloaded.
        device: that it runs on.
        frames: shown to the first kind, at most.

    Attributes:
        text: what records and caches call it: the folder, and the frames where they are not as usual.

    Raises:
        BadInput: no such model, weights that are missing, or a model of neither kind.
    """

    def __init__(
        self, folder: str | os.PathLike[str], device: str | torch.device = "cpu", frames: int = _SHOWN
    ) -> None:
        from transformers import AutoModel, AutoModelForSequenceClassification

        kind = (_config(folder, "reward model").architectures or [""])[0]
        self.classifies = kind.endswith("ForSequenceClassification")
        self.frames = whole("frames", frames)
        self.text = _text("reward", folder, self.frames)
        loader = AutoModelForSequenceClassification if self.classifies else AutoModel
        self.model, self.processor = _load(loader, folder, "reward model", device)
        if not self.classifies and not hasattr(self.model, "get_text_features"):
            raise BadInput(
                f"{folder} holds a {shown(kind or type(self.model).__name__)}, which gives no logits of an "
                "image and a text: a reward model is like CLIP, or classifies sequences"
            )

    @plain_arithmetic()
    @torch.no_grad()
    def __call__(self, frames: Frames, prompts: list[str]) -> dict[str, Tensor]:
        """uint8 (videos, frames, height, width, 3) and prompts -> "score" and labels, (videos,) each."""
        judge = self._labels if self.classifies else self._likeness
        table = [judge(video, prompt) for video, prompt in zip(frames, prompts, strict=True)]
        return {name: torch.tensor([row[name] for row in table], dtype=torch.float64) for name in table[0]}

    def _likeness(self, video: Frames, prompt: str) -> dict[str, float]:
        # As SigLIP was trained; to CLIP, which looks at no token after the last word, it is all the same.
        # Of models like RoBERTa some positions are not for tokens, which their tokenizer knows.
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        length = length and min(length, self.processor.tokenizer.model_max_length)
        texts = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        logits = []
        for first in range(0, len(video), _AT_ONCE):
            images = [Image.fromarray(frame) for frame in video[first : first + _AT_ONCE]]
            inputs = self.processor(text=[prompt], images=images, **texts)
            logits.append(self.model(**_on(inputs, self.model)).logits_per_image[:, 0])
        return {"score": float(torch.cat(logits).double().mean())}

    def _labels(self, video: Frames, prompt: str) -> dict[str, float]:
        inputs = _inputs(self.processor, _some(video, self.frames), prompt, answering=False)
        logits = self.model(**_on(inputs, self.model)).logits[0].double()
        names = self.model.config.id2label
        labels = {str(names[i]): float(logits[i]) for i in range(len(logits))} if len(logits) > 1 else {}
        return {**labels, "score": float(logits.mean())}


class Answers:
    """How sure a vision-language model is that the answers to questions about a video are yes.

    The score is the mean over questions of p(yes) / (p(yes) + p(no)) at the first token of the answer, as
    VQAScore has it (Lin et al. 2024, arXiv 2404.01291), of evenly spaced frames.

    Args:
        folder: of what `AutoModelForImageTextToText` loads, with its processor; nothing is downloaded.
        questions: to be answered by yes of a good video, `{prompt}` in them is the prompt. None makes them of
            the prompt: whether the video shows it, and where "and" or commas join it, each part.
        device: that it runs on.
        frames: that are shown, at most.

    Attributes:
        text: what records and caches call it: the folder, frames and questions where they are not as usual.

    Raises:
        BadInput: no such model, weights that are missing, a tokenizer without yes and no, or no question.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        questions: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        frames: int = _SHOWN,
    ) -> None:
        from transformers import AutoModelForImageTextToText

        if questions is not None and (
            isinstance(questions, str)
            or not questions
            or not all(isinstance(q, str) and q for q in questions)
        ):
            raise BadInput(f"questions must be a list of texts, not {shown(questions)}")
        self.questions, self.frames = questions, whole("frames", frames)
        asked = f", questions {[*questions]}" if questions else ""
        self.text = _text("vlm", folder, self.frames) + asked
        _config(folder, "vision-language model")
        self.model, self.processor = _load(
            AutoModelForImageTextToText, folder, "vision-language model", device
        )
        tokenizer = self.processor.tokenizer
        yes, no = (
            {tokenizer(word, add_special_tokens=False).input_ids[0] for word in words}
            for words in (_YES, _NO)
        )
        # What is a space in both, or a word that the tokenizer does not know, tells nothing.
        self.yes, self.no = (sorted(a - b - {tokenizer.unk_token_id}) for a, b in ((yes, no), (no, yes)))
        if not self.yes or not self.no:
            raise BadInput(f"the tokenizer in {folder} does not tell yes from no")

    def asked(self, prompt: str) -> list[str]:
        """The questions for a prompt."""
        if self.questions is not None:
            return [question.replace("{prompt}", prompt) for question in self.questions]
        parts = [part.strip() for part in re.split(r",| and ", prompt) if part.strip()]
        return [
            f'Does this video show "{part}"? Answer yes or no.'
            for part in dict.fromkeys([prompt, *(parts if len(parts) > 1 else [])])
        ]

    @plain_arithmetic()
    @torch.no_grad()
    def __call__(self, frames: Frames, prompts: list[str]) -> Tensor:
        """uint8 (videos, frames, height, width, 3) and a prompt each -> (videos,) float64 in [0, 1]."""
        return torch.tensor(
            [
                np.mean([self._sure(_some(video, self.frames), question) for question in self.asked(prompt)])
                for video, prompt in zip(frames, prompts, strict=True)
            ],
            dtype=torch.float64,
        )

    def _sure(self, images: list[Image.Image], question: str) -> float:
        inputs = _inputs(self.processor, images, question, answering=True)
        logits = self.model(**_on(inputs, self.model)).logits[0, -1].double()
        yes, no = (logits[ids].logsumexp(0) for ids in (self.yes, self.no))
        return float(torch.sigmoid(yes - no))


def _text(name: str, folder: str | os.PathLike[str], frames: int) -> str:
    return f"{name}:{os.fspath(folder)}" + (f", {frames} frames" if frames != _SHOWN else "")


def _config(folder: str | os.PathLike[str], what: str) -> Any:
    from transformers import AutoConfig

    if not (Path(folder) / "config.json").is_file():
        raise BadInput(f"there is no {what} in {folder}: it has no config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} does not load as a {what}: {reason(error)}") from error


def _load(loader: Any, folder: str | os.PathLike[str], what: str, device: str | torch.device) -> Any:
    """The model and its processor."""
    from transformers import AutoProcessor

    model, processor = loaded(loader, AutoProcessor, folder, what, device)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise BadInput(f"{folder} has no processor of images and texts: save the model's own beside it")
    return model, processor


def loaded(
    loader: Any, reader: Any, folder: str | os.PathLike[str], what: str, device: str | torch.device
) -> Any:
    """A model of transformers, and its tokenizer or processor, by the classes that load them.

    Raises:
        BadInput: they do not load, or a weight is not in the folder: it would be drawn at random.
    """
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        model, info = loader.from_pretrained(folder, **options)
        beside = reader.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise BadInput(f"{folder} does not load as a {what}: {reason(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise BadInput(
            f"{folder} does not load as a {what}: {len(missing)} weights of {type(model).__name__} are not "
            f"there, {missing[0]} the first"
        )
    return model.eval().requires_grad_(False).to(device), beside


def _some(video: Frames, count: int) -> list[Image.Image]:
    """So many frames, evenly spaced from the first to the last; all where there are fewer."""
    at = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int)
    return [Image.fromarray(video[i]) for i in at]


def _inputs(processor: Any, images: list[Image.Image], text: str, *, answering: bool) -> Any:
    """Images and a text as a model expects them: in its chat template, where it has one."""
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    if getattr(processor, "chat_template", None):
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=answering, tokenize=False
        )
    else:
        text = getattr(processor, "image_token", "<image>") * len(images) + text
    return processor(text=[text], images=[images], return_tensors="pt")


def _on(inputs: Any, model: Any) -> dict[str, Any]:
    """The inputs on the model's device, pixels in its precision."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
