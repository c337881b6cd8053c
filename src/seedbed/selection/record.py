"""The outcome of a selection, and the record from which it can be rebuilt."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from seedbed import __version__
from seedbed.errors import BadRecord, shown
from seedbed.files import write_bytes_atomically, write_json
from seedbed.halving import Prefer, Rung
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.loading import dtype_named
from seedbed.report.video import read_record
from seedbed.selection.provenance import STRICT, Model
from seedbed.selection.values import Arguments

SCHEMA = "seedbed.selection/3"
# Those before: /1 of version 0.1; neither has switches, nor tells tuples from lists.
_READ = ("seedbed.selection/1", "seedbed.selection/2", SCHEMA)


def recipe_of(entry: Any) -> NoiseRecipe | GivenNoise:
    """The recipe that a record holds; ValueError or KeyError where it is none."""
    if isinstance(entry, dict) and entry.get("given"):
        refinements = entry.get("refinements", ())
        known = NoiseRecipe(
            0, entry["candidate"], entry["shape"], sha256=entry["sha256"], refinements=refinements
        )
        return GivenNoise(known.candidate, known.shape, str(known.sha256), refinements=known.refinements)
    return NoiseRecipe.from_dict(entry)


# What a record holds in another form than the selection. Annotated, so that one declaration reads, checks and
# writes it; a check raises ValueError.
Numbers: TypeAlias = Annotated[
    Tensor,
    # Of None, which JSON has for nan, too.
    PlainValidator(lambda values: torch.from_numpy(np.array(values, dtype=np.float64))),
    PlainSerializer(Tensor.tolist),
]
Dtype: TypeAlias = Annotated[
    torch.dtype,
    PlainValidator(dtype_named),
    PlainSerializer(lambda dtype: str(dtype).removeprefix("torch.")),
]
Recipe: TypeAlias = Annotated[
    NoiseRecipe | GivenNoise, PlainValidator(recipe_of), PlainSerializer(lambda recipe: recipe.to_dict())
]
Spent: TypeAlias = Annotated[
    Ledger,
    BeforeValidator(lambda entries: {"entries": entries}),
    PlainSerializer(lambda ledger: ledger.entries),
]


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """A pool of noises, what an acquisition function thought of them, and which one it chose.

    Attributes:
        recipes: one per candidate, sealed with the noise's sha256 (or `GivenNoise`, from `score`).
        scores: (candidates, layers) float64; no columns if the function needs no layer, nan where a
            candidate had been dropped.
        totals: (candidates,) float64, the mean over the layers seen; nan where nothing was evaluated.
        order: candidates, best first; those that stayed longer in a race come first.
        layers: the names of the scored layers.
        race: pairs of scored layers seen, and how many candidates then stayed; empty for no race.
        ledger: what it cost, in full forwards of the denoiser for one candidate.
        seconds: wall time by what was done.
        confidence: that all rows would have chosen the same in the race's last heat (union bound, normal
            approximation); 1.0 where all were seen, None for functions that tell no rows apart and older
            records.
        acquisition, options, prefer: what was asked of the pool; `unit`: of its scores.
        reason: why this acquisition function.
        prompt, call, missing: what the pipeline was called with; `missing` names the kind of each argument
            that JSON cannot hold.
        noise_dtype: of the latents this pipeline takes.
        rungs: the pauses of a selection by previews, in their order; empty for other selections.
        adaptations: what acts while the pipeline denoises, as texts, their layers by name.
        kept: how many of the best noises `noise` holds.
        pool: all noises, (candidates, *shape) float32; None after loading, when they are drawn again.
        previews: one decoded video (frames, height, width, 3) uint8 per candidate, where there are any; not
            saved.
        versions: of the packages at work.
    """

    __pydantic_config__ = STRICT

    prompt: str | None
    model: Model
    call: Arguments
    missing: dict[str, str]
    noise_dtype: Dtype
    recipes: tuple[Recipe, ...]
    scores: Numbers
    totals: Numbers
    order: tuple[int, ...]
    layers: tuple[str, ...]
    acquisition: str
    options: dict[str, Any]
    prefer: Prefer
    unit: str
    reason: str
    ledger: Spent
    seconds: dict[str, float]
    versions: dict[str, str]
    previews: Annotated[Any, Field(exclude=True)] = field(default=None, repr=False, compare=False)
    rungs: tuple[Rung, ...] = ()
    kept: int = 1
    race: tuple[tuple[int, int], ...] = ()
    confidence: float | None = None
    adaptations: tuple[str, ...] = ()
    pool: Annotated[Tensor | None, Field(exclude=True)] = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        count, shape = len(self.recipes), (len(self.recipes), len(self.layers))
        agree = self.totals.shape == shape[:1] and self.scores.shape == shape
        if not agree or sorted(self.order) != [*range(count)] or not 1 <= self.kept <= count:
            raise ValueError("order, totals, scores and recipes disagree")

    def __repr__(self) -> str:
        return (
            f"<Selection: candidate {self.best} of {len(self.recipes)} by {self.acquisition}, "
            f"{self.prefer} is better, {self.ledger.total:g} evaluations>"
        )

    @property
    def best(self) -> int:
        """The chosen candidate."""
        return self.order[0]

    @property
    def dropped(self) -> tuple[int | None, ...]:
        """After how many scored layers each candidate left the race; None for those in its last heat."""
        depths = (~self.scores.isnan()).sum(1).tolist()
        return tuple(depth if depth < max(depths) else None for depth in depths)

    @property
    def recipe(self) -> NoiseRecipe | GivenNoise:
        """The recipe of the chosen noise."""
        return self.recipes[self.best]

    @property
    def noise(self) -> Tensor:
        """The `kept` best noises, best first, as the pipeline's `latents=`: (kept, *shape), on the CPU.

        Those of a loaded selection are drawn again; BadRecord where the model was needed to refine them.
        """
        best = self.order[: self.kept]
        if self.pool is not None:
            return self.pool[list(best)].to(self.noise_dtype)
        from seedbed.refinement import rebuilt  # loads diffusers, without which a record is read

        drawn = [rebuilt(self.recipes[index]) for index in best]
        for change in filter(None, (change for _, change in drawn)):
            warnings.warn(change, stacklevel=2)
        return torch.stack([noise for noise, _ in drawn]).to(self.noise_dtype)

    def to_dict(self) -> dict[str, Any]:
        """The record, in plain JSON types, with a `digest` that shows whether it was altered."""
        content = json.loads(_SELECTIONS.dump_json(self, exclude_defaults=True))
        about = {"schema": SCHEMA, "seedbed": __version__, **content.pop("model")}
        about |= {"seed": self.recipe.seed, "best": self.best}
        if (number := getattr(self.recipe, "torch_seed", None)) is not None:
            about["torch_seed"] = number
        return sealed({**about, **content})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Selection:
        """Read what `to_dict` wrote; the noises are checked when they are drawn.

        Raises:
            BadRecord: foreign, altered, damaged, or of a newer schema.
        """
        check(record)
        content = {**record, "model": record, "previews": None, "pool": None}
        try:
            _BESIDE.validate_python({**record}, strict=True)
            return _SELECTIONS.validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(part for part in map(str, first["loc"]) if part != "model") or "the whole"
            raise BadRecord(f"the selection record is damaged: {where}: {first['msg']}") from error
        except (KeyError, TypeError, AttributeError) as error:  # of a check that met another type
            raise BadRecord(f"the selection record is damaged: {type(error).__name__} {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON, whole or not at all.

        Raises:
            BadInput: the folder does not exist, or the system refuses to write there.
        """
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read a record: a .json from `save`, or a video or image from `Generation.save`.

        Raises:
            BadInput: there is no such file.
            BadRecord: truncated, altered, foreign, or of a newer schema.
        """
        try:
            return cls.from_dict(read_record(path))
        except BadRecord as error:
            raise BadRecord(error.args[0] if str(path) in str(error) else f"{path}: {error}") from error

    def report(self, path: str | os.PathLike[str], **extra: Any) -> Path:
        """Write a self-contained HTML page: the ranking, the scores by layer, the cost, the recipe.

        It costs no evaluation: previews are shown where the choice was made by them.

        Args:
            extra: what else `seedbed.report.page.selection_page` shows, such as the command to `replay` it.

        Raises:
            BadInput: the folder does not exist, or the system refuses to write there.
        """
        from seedbed.report.page import selection_page  # a record is read without it

        page = selection_page({**self.to_dict(), "previews": self.previews, **extra})
        return write_bytes_atomically(path, page.encode())


_SELECTIONS = TypeAdapter(Selection)


class Sheet(TypedDict):
    steps: int
    of: int
    memory_sha256: str


class _Beside(TypedDict, total=False):
    """What a generation or a contact sheet adds to the record of its selection."""

    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    frames_shape: Annotated[list[int], Field(min_length=4, max_length=4)]
    frames_sha256: str
    sheet: Sheet


_BESIDE = TypeAdapter(_Beside)


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the digest of everything else in it."""
    body = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**body, "digest": hashlib.sha256(text.encode()).hexdigest()}


def check(record: Mapping[str, Any], read: Sequence[str] = _READ) -> None:
    """Raise BadRecord unless this is a record of one of these schemas, oldest first, as it was written."""
    schema = record.get("schema") if isinstance(record, Mapping) else None
    kind = read[-1].partition("/")[0]
    what = kind.partition(".")[2]
    if not isinstance(schema, str) or not schema.startswith(kind + "/"):
        raise BadRecord(f"not a {what} record: its schema is {shown(schema)}, not {read[-1]!r}")
    if schema not in read:
        raise BadRecord(
            f"the record has schema {shown(schema)}, this seedbed reads {read[-1]!r}: update seedbed"
        )
    with suppress(TypeError, ValueError):
        if sealed(dict(record))["digest"] == record.get("digest"):
            return
    raise BadRecord(f"the {what} record was altered or damaged: its digest does not fit its content")
