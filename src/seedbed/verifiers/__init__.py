"""What judges videos: readers of the worlds, faults that no prompt asks for, models, callables, people."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput, shown
from seedbed.pipelines.session import Session

Frames = np.ndarray[Any, Any]

Verifier = Callable[[Frames, list[str]], "Tensor | Mapping[str, Tensor]"]
"""From videos, uint8 (n, frames, height, width, 3), and a prompt for each to (n,), higher is better, or to a
dict of such tensors with the key "score". Its attribute `text`, if it has one, is what records call it."""


@dataclass(frozen=True)
class Combined:
    """The sum of the scores of several verifiers, each times its weight; scales are the verifiers' own.

    Attributes:
        text: that `resolve` made it of.
        parts: name, verifier and weight of each. Each one's numbers are columns `NAME.KEY`; of two of one
            name, the second is `NAME2`.
    """

    text: str
    parts: tuple[tuple[str, Verifier, float], ...]

    def __call__(self, frames: Frames, prompts: list[str]) -> dict[str, Tensor]:
        """See `Verifier`; BadInput for a part that gives no score."""
        total = torch.zeros(len(frames), dtype=torch.float64)
        columns: dict[str, Tensor] = {}
        for place, (name, verifier, weight) in enumerate(self.parts):
            verdict = verifier(frames, prompts)
            own = {"score": verdict} if isinstance(verdict, Tensor) else dict(verdict)
            if "score" not in own:
                raise BadInput(f"the verifier {name} of {self.text} gave no score")
            total += weight * own["score"].double().cpu()
            before = sum(name == other for other, _, _ in self.parts[:place])
            known = f"{name}{before + 1}" if before else name
            columns |= {f"{known}.{key}": values for key, values in own.items()}
        return {"score": total, **columns}


# Those that are functions, by their dotted names.
_FUNCTIONS = {
    "shapes": "seedbed.worlds.verifier.attributes",
    "digits": "seedbed.worlds.digits.attributes",
    "artifacts": "seedbed.verifiers.artifacts.marks",
}
# Those that are models, each in a folder.
_MODELS = ("clip", "aesthetic", "reward", "vlm")
_NAMES = (*_FUNCTIONS, *_MODELS)
# A folder's name may have a + or * too: what is a folder as it stands is taken for one.
_PLUS = re.compile(rf"\+(?=(?:{'|'.join(_NAMES)})(?:[:+*]|$))")
_WEIGHT = re.compile(r"(.+)\*([^*/]+)", re.DOTALL)


def resolve(verifier: str | os.PathLike[str] | Verifier) -> Verifier:
    """The verifier that is meant.

    Args:
        verifier: "shapes", the exact verifier of the shapes world; "digits", the reader of the digits world;
            "artifacts", faults that no prompt asks for (see `artifacts.marks`); with weights of your own,
            "clip:FOLDER" and "aesthetic:FOLDER" (see `clip`), "reward:FOLDER" and "vlm:FOLDER" (see
            `models.Reward` and `models.Answers`); several of them with weights, 1 where none is written,
            "artifacts+clip:FOLDER*0.5" (see `Combined`); or any `Verifier`, returned as it is.

    Raises:
        BadInput: none of these, a callable of other arguments, a file of ratings, a weight that is no number
            other than 0, or weights of a model that cannot be read.
    """
    if callable(verifier) and not isinstance(verifier, type):
        try:
            inspect.signature(verifier).bind([], [])
        except TypeError as error:
            raise BadInput(f"a verifier is called as verifier(frames, prompts): {error}") from error
        except ValueError:  # of a function written in C, which tells nothing
            pass
        return verifier
    if not isinstance(verifier, (str, os.PathLike)):
        raise BadInput(f"a verifier is a name or a callable that is no class, not {shown(verifier)}")
    text = os.fspath(verifier)
    parts = []
    for part in [text] if _of_folder(text) else _PLUS.split(text):
        weighted = None if _of_folder(part) else _WEIGHT.fullmatch(part)
        weight = 1.0
        if weighted:
            try:
                weight = float(weighted[2])
            except ValueError:
                weight = math.nan
            if not math.isfinite(weight) or not weight:
                raise BadInput(f"{text}: the weight {shown(weighted[2])} is no number other than 0")
        parts.append((weighted[1] if weighted else part, weight))
    if parts == [(text, 1.0)]:
        return _named(text)
    return Combined(text, tuple((name.partition(":")[0], _named(name), weight) for name, weight in parts))


def _of_folder(text: str) -> bool:
    """Whether a text names a model by a folder that is there."""
    name, _, folder = text.partition(":")
    return name in _MODELS and os.path.isdir(folder)


def _named(text: str) -> Verifier:
    """One verifier by its name."""
    name, _, folder = text.partition(":")
    if name in _FUNCTIONS and not folder:
        module, _, function = _FUNCTIONS[name].rpartition(".")
        if name == "digits":
            from seedbed.worlds import digits

            digits.pictures()  # without its package it is refused at once
        found: Verifier = getattr(importlib.import_module(module), function)
        return found
    if name in ("clip", "aesthetic") and folder:
        from seedbed.verifiers.clip import Aesthetic, Clip

        return Clip(folder) if name == "clip" else Aesthetic(folder)
    if name in ("reward", "vlm") and folder:
        from seedbed.verifiers.models import Answers, Reward

        return Reward(folder) if name == "reward" else Answers(folder)
    if name.lower().endswith(".csv"):
        raise BadInput(f"{text}: ratings judge no new videos and no previews, use another verifier")
    raise BadInput(
        f"there is no verifier {shown(text)}: use shapes, digits, artifacts, clip:FOLDER, aesthetic:FOLDER, "
        "reward:FOLDER or vlm:FOLDER with the folder of a model, several as artifacts+clip:FOLDER*0.5, or a "
        "callable"
    )


def judged_text(verifier: Verifier, session: Session, prompt: str | None = None) -> str:
    """The text by which a verifier will judge the videos of a call, checked before anything is denoised.

    Args:
        prompt: such a text; None for the call's own prompt. Of a pipeline that takes none it is "".

    Raises:
        BadInput: a call by `prompt_embeds` without a text for them; for the verifier of a world, a
            sentence of another world, or frames that are not square.
    """
    from seedbed.worlds import WORLDS, digits
    from seedbed.worlds.verifier import attributes

    prompt = session.prompt if prompt is None else prompt
    if prompt is None and session.call.get("prompt_embeds") is not None:
        raise BadInput(
            "the verifier judges videos by a text, which prompt_embeds are not: add verifier_prompt="
        )
    parts: Any = [part for _, part, _ in verifier.parts] if isinstance(verifier, Combined) else [verifier]
    readers = {"shapes": attributes, "digits": digits.attributes}
    for name, module in WORLDS.items():
        if readers[name] not in parts:
            continue
        module.parse(prompt or "")
        axes = dict(zip(session.spec.layout.split()[1:], session.spec.shape, strict=True))
        sides = [axes.get(side[0], session.call.get(side)) for side in ("height", "width")]
        if None not in sides and sides[0] != sides[1]:
            asked = " x ".join(str(session.call.get(side, "the model's")) for side in ("height", "width"))
            raise BadInput(f"the {name} verifier reads square videos, not {asked}: ask for equal sides")
    return prompt or ""


def judged(
    verifier: Verifier, frames: Sequence[Frames], prompt: str, candidates: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """What a verifier says of videos of one prompt: "score" and its other keys, each (n,) float64.

    Args:
        candidates: their numbers, for messages; None counts from 0.

    Raises:
        BadInput: it returns something else.
        BadOutput: a number that is not finite; names the candidate.
    """
    verdict = verifier(np.stack(frames), [prompt] * len(frames))
    columns = dict(verdict) if isinstance(verdict, Mapping) else {"score": verdict}
    if "score" not in columns:
        raise BadInput(f"the verifier returned {', '.join(map(str, columns)) or 'nothing'}, but no 'score'")
    names = range(len(frames)) if candidates is None else candidates
    result: dict[str, Tensor] = {}
    for key, values in columns.items():
        try:
            numbers = torch.as_tensor(values).detach().double().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(f"the verifier's {key} is no tensor of numbers, but {shown(values)}") from error
        if tuple(numbers.shape) != (len(frames),):
            raise BadInput(
                f"the verifier's {key} has shape {tuple(numbers.shape)} for {len(frames)} videos: return one "
                "number for each"
            )
        for index in (~numbers.isfinite()).nonzero().flatten().tolist():
            raise BadOutput(
                f"the verifier's {key} of candidate {names[index]} for {shown(prompt)} is "
                f"{numbers[index].item()}"
            )
        result[str(key)] = numbers
    return result


def name_of(verifier: object) -> str:
    """What records and caches call a verifier: its name of `resolve`, else the dotted name in Python."""
    if isinstance(text := getattr(verifier, "text", None), str):
        return text
    kind = verifier if hasattr(verifier, "__qualname__") else type(verifier)
    dotted = f"{kind.__module__}.{kind.__qualname__}"
    return next((name for name, function in _FUNCTIONS.items() if function == dotted), dotted)
