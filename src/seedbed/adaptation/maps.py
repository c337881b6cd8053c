"""Where a word of the prompt looks, or a place of the video, while it is denoised; never a whole map."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed.acquisition.signals import call_of_rows
from seedbed.adaptation.layout import Layout, layers_named, layout_of, steps_looked_at
from seedbed.adaptation.parts import blocks_of, logits_of
from seedbed.attention import AttentionCall
from seedbed.errors import BadInput, NotSupported, finite, shown, whole
from seedbed.files import write_bytes_atomically
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.loading import recorded_name
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement import rebuilt
from seedbed.verifiers import Frames

Place = tuple[float, float, float]
"""Frame, row and column of a place in a video, each as a share from 0, the first, to 1, the last."""

_STEPS = 3
# Tokens that a word may be written with.
_PIECES = 8


@dataclass(frozen=True)
class Map:
    """Where is looked in one layer at one step.

    Attributes:
        part: who looks where: "video -> word", "word -> video" or "place -> video".
        values: probabilities, (heads, frames, height, width) in the layer's own grid: for "video -> word" of
            each place's row on the word's tokens together, else of one row on each place, the mean over a
            word's tokens.
    """

    layer: str
    kind: str
    step: int
    part: str
    values: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Maps:
    """What `maps` found.

    Attributes:
        target: what was asked for, in words.
        frames: the finished video, uint8 (frames, height, width, 3).
        place: as asked, or None.
    """

    model: str
    prompt: str
    target: str
    frames: Frames = field(repr=False)
    maps: tuple[Map, ...] = field(repr=False)
    place: Place | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a page to choose layer, step and head on (.html), or means over both as a picture (.png).

        Raises BadInput for another ending.
        """
        from seedbed.report.attention_page import maps_image, maps_page
        from seedbed.report.video import encode_image

        suffix, data = Path(path).suffix.lower(), {**vars(self), "maps": [vars(each) for each in self.maps]}
        if suffix not in (".html", ".png"):
            raise BadInput(f"cannot write {path}: the name must end in .html or .png")
        written = maps_page(data).encode() if suffix == ".html" else encode_image(maps_image(data))
        return write_bytes_atomically(path, written)


def maps(
    pipe: Any,
    prompt: str,
    *,
    word: str | None = None,
    place: Place | None = None,
    layers: str | Sequence[str] = "all",
    steps: Sequence[int] | None = None,
    seed: int = 0,
    noise: NoiseRecipe | GivenNoise | None = None,
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Maps:
    """Where a word of the prompt, or a place of the video, looks and is looked at.

    A word: in cross and joint attention, the probability that each place of the video gives to the word's
    tokens and, in joint attention, where the word's own rows look. A place: in self, joint and temporal
    attention, where its row looks. Only these rows and columns are formed.

    Args:
        pipe: any diffusers pipeline; as before afterwards.
        word: one of the prompt, in any case.
        place: see `Place`; give this or a word.
        layers: "all", or kinds and globs on names; those in which there is nothing to see are left out.
        steps: numbers of denoising steps, from 0; three, spread over the schedule.
        seed: the video is that of its first noise.
        noise: the video is that of this one instead, as `Selection.recipe` has it.
        call, arguments: of the pipeline's own call.

    Raises:
        BadInput: a word that the prompt has not, a place outside of the video, steps or layers that are not,
            a noise of another shape.
        NotSupported: the tokens of the word cannot be told among the keys, or no such layer is there.
    """
    if (word is None) == (place is None):
        raise BadInput("maps needs a word of the prompt or a place of the video, one of the two")
    if word is not None:
        words = list(dict.fromkeys(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prompt)))
        if not isinstance(word, str) or word.casefold() not in map(str.casefold, words):
            raise BadInput(f"the prompt has no word {shown(word)}: it has {', '.join(words)}")
    if place is not None:
        if not isinstance(place, (tuple, list)) or len(place) != 3:
            raise BadInput(f"a place is (frame, row, column), each a share from 0 to 1, not {shown(place)}")
        frame, row, column = (finite("a place's frame, row and column", part, 0, 1) for part in place)
        place = frame, row, column
    if noise is not None and not isinstance(noise, (NoiseRecipe, GivenNoise)):
        raise BadInput(f"noise must be a recipe, as a selection's, not {shown(noise)}")
    asked = {**(call or {}), **arguments}
    session = Session(pipe, prompt, **asked)
    total = session.facts.steps
    looked = steps_looked_at("maps' steps", steps, _STEPS, total)
    names = set(layers_named(session, "*" if layers == "all" else layers))
    tokens = [] if word is None else _tokens_of(pipe, prompt, word, asked)
    layout = layout_of(session)
    beside = any(layer.kind == "cross" for layer in session.layers)
    shape, recipe = tuple(session.spec.shape), noise or session.recipe(whole("seed", seed, 0))
    if tuple(recipe.shape) != shape:
        raise BadInput(f"the noise has shape {tuple(recipe.shape)}, but the pipeline's latents have {shape}")
    values, _ = rebuilt(recipe, session)
    found: list[Map] = []

    def look(seen: AttentionCall, candidates: list[int], rows: list[int]) -> None:
        # What stands beside the video in self attention is its text only where no cross attention has that.
        if word is not None and seen.kind == "self" and beside:
            return
        if seen.step in looked and seen.layer in names:
            own = call_of_rows(seen, rows)
            each = _of_place(own, layout, place) if place is not None else _of_word(own, layout, tokens)
            about = seen.layer, seen.kind, seen.step
            found.extend(Map(*about, part, values.float().cpu().numpy()) for part, values in each.items())

    with reporting(progress) as show:
        made = count(1)
        rollout = Rollout(
            session, values[None], what="maps", progress=lambda _: show("maps", next(made), total)
        )
        (frames,) = rollout.advance(total, handler=look)
    if not found:
        kinds = ", ".join(sorted({layer.kind for layer in session.layers}))
        what = f"the tokens of {word!r} cannot be told among the keys" if word else "the place cannot be told"
        raise NotSupported(f"{what} of any of these layers of {session.asked.name} ({kinds}): no map")
    target = f"Where “{word}” looks and is looked at"
    if place is not None:
        target = "Where a place looks: frame, row and column {:g}, {:g}, {:g}".format(*place)
    model = recorded_name(str(getattr(pipe, "name_or_path", None) or ""))
    return Maps(model, prompt, target, frames, tuple(found), place)


@dataclass(frozen=True)
class _Tokens:
    """Of a text encoder: how many tokens it is given, which are no padding, and where the word is."""

    total: int
    valid: tuple[int, ...]
    places: tuple[int, ...]

    def among(self, keys: int) -> list[int]:
        """The word's places among so many keys: all of the tokens, or those but padding; else none."""
        if keys == self.total:
            return list(self.places)
        if keys == len(self.valid):
            return [self.valid.index(place) for place in self.places if place in self.valid]
        return []


def _tokens_of(pipe: Any, prompt: str, word: str, asked: Mapping[str, Any]) -> list[_Tokens]:
    """What each text encoder is given for a prompt, seen while the pipeline itself encodes it."""
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}

    def see(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if isinstance(ids, Tensor) and ids.ndim == 2:
                mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
                seen[name] = ids.cpu(), mask.cpu() if isinstance(mask, Tensor) else None

        return hook

    with ExitStack() as undo:
        for name, part in pipe.components.items():
            if name.startswith("text_encoder") and isinstance(part, torch.nn.Module):
                undo.callback(part.register_forward_pre_hook(see(name), with_kwargs=True).remove)
        _ = Session(pipe, prompt, **asked).alone  # with nothing encoded before
    found = []
    for name, (ids, mask) in seen.items():
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"), None)
        if tokenizer is None:
            continue
        for number, row in enumerate(ids.tolist()):
            places = _places(tokenizer, row, word.casefold())
            if places:
                valid = range(len(row)) if mask is None else mask[number].nonzero().flatten().tolist()
                found.append(_Tokens(len(row), tuple(valid), tuple(places)))
                break
    if not found:
        raise NotSupported(f"the tokens of {word!r} cannot be told: no tokenizer of this pipeline shows them")
    return found


def _places(tokenizer: Any, ids: list[int], word: str) -> list[int]:
    """The places of the tokens that a word is written with, wherever it stands."""

    def written(first: int, last: int) -> str:
        text: str = tokenizer.decode(ids[first:last]).strip(" .,;:!?\"'").casefold()
        return text

    found: list[int] = []
    for first in range(len(ids)):
        if first in found or not written(first, first + 1):  # no space before the word
            continue
        for last in range(first + 1, min(first + _PIECES, len(ids)) + 1):
            if written(first, last) == word:
                found += range(first, last)
                break
    return found


def _of_word(call: AttentionCall, layout: Layout, tokens: Sequence[_Tokens]) -> dict[str, Tensor]:
    """Part -> (heads, frames, height, width) for a call of one candidate; nothing where there is no text."""
    video, grid = layout.of(call) or (None, None)
    blocks = {} if video is None else blocks_of(call, video)
    text = blocks.get("text", torch.arange(call.key.shape[2]))
    places = next((p for each in tokens if (p := each.among(len(text)))), [])
    fold = call.query.shape[0]
    told = grid is not None and (
        fold == 1 or (grid[0] == 1 and layout.sizes is not None and fold == layout.sizes[0])
    )
    if video is None or grid is None or not told or not places or (not blocks and call.kind != "cross"):
        return {}
    shape, keys = (call.query.shape[1], fold * grid[0], *grid[1:]), text[places]
    indicator = torch.zeros_like(call.value, dtype=torch.float32)
    indicator[:, :, keys] = 1
    seen = call.output(call.query.float(), call.key.float(), indicator)[..., 0]
    found = {"video -> word": seen[:, :, video].transpose(0, 1).reshape(shape)}
    if blocks:
        found["word -> video"] = _rows(call, 0, keys)[:, :, video].mean(1).reshape(shape)
    return found


def _of_place(call: AttentionCall, layout: Layout, place: Place) -> dict[str, Tensor]:
    """The same for a place of the video; nothing where the call does not attend from places to places."""
    video, grid = layout.of(call) or (None, None)
    fold, rows = call.query.shape[0], call.query.shape[2]
    if call.kind == "temporal":  # a sequence for each position
        grid = layout.grid(fold * rows)
    if video is None or grid is None or call.kind == "cross" or rows != call.key.shape[2]:
        return {}
    if fold > 1 and grid[0] == 1:  # a sequence for each frame
        grid = fold, *grid[1:]
    frame, row, column = (round(share * (size - 1)) for share, size in zip(place, grid, strict=True))
    position = row * grid[2] + column
    found = torch.zeros(call.query.shape[1], *grid)
    if call.kind == "temporal":
        found[:, :, row, column] = _rows(call, position, torch.tensor([frame]))[:, 0].cpu()
    elif fold > 1:
        found[:, frame] = _rows(call, frame, torch.tensor([position]))[:, 0].cpu().unflatten(1, grid[1:])
    else:
        index = (video.start or 0) + frame * grid[1] * grid[2] + position
        found = _rows(call, 0, torch.tensor([index]))[:, 0, video].cpu().unflatten(1, grid)
    return {"place -> video": found}


def _rows(call: AttentionCall, entry: int, rows: Tensor) -> Tensor:
    """Some rows of the map of a batch entry, (heads, rows, keys)."""
    logits = logits_of(call, entry, rows)
    return logits.block(slice(0, 1), slice(0, call.key.shape[1]), slice(0, len(rows)))[0].softmax(-1)
