"""The outcome of a selection, where it comes from, and the record from which it can be rebuilt."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import __version__
from seedbed.acquisition.halving import Prefer, Rung
from seedbed.errors import BadRecord, shown
from seedbed.files import write_bytes_atomically
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.loading import dtype_named, recorded_name
from seedbed.report.video import read_record

SCHEMA = "seedbed.selection/2"
# Version 0.1 wrote the first; it lacks nothing that is read today.
_READ = ("seedbed.selection/1", SCHEMA)


def model_name(pipe: Any) -> str:
    """Where a pipeline was loaded from: a folder, a hub name, or "" if it was built in memory."""
    return str(getattr(pipe, "name_or_path", None) or "")


@dataclass(frozen=True)
class Model:
    """What a record says about the pipeline.

    Attributes:
        model: the folder or hub name it was loaded from, "" if it was built in memory; an embedded
            model is named as `seedbed.pipelines.loading.recorded_name` says.
        pipeline: its class.
        dtypes: of each component with weights.
        device: the type of device it was on.
        scheduler: class and configuration, None for a pipeline without one.
    """

    model: str
    pipeline: str
    dtypes: dict[str, str]
    device: str
    scheduler: dict[str, Any] | None

    @classmethod
    def of(cls, pipe: Any) -> Model:
        """Describe a pipeline."""
        dtypes = {
            key: str(component.dtype).removeprefix("torch.")
            for key, component in pipe.components.items()
            if isinstance(component, torch.nn.Module) and hasattr(component, "dtype")
        }
        scheduler = getattr(pipe, "scheduler", None)
        if scheduler is not None:
            # Of a copy, as diffusers adds its own entries to a configuration that it writes. Bounds that are
            # infinite, of which JSON has none, as text.
            config = json.loads(copy.deepcopy(scheduler).to_json_string(), parse_constant=str)
            scheduler = {"class": type(scheduler).__name__, "config": config}
        name = recorded_name(model_name(pipe))
        return cls(name, type(pipe).__name__, dtypes, pipe.device.type, scheduler)


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
            approximation); 1.0 where all were seen, None for functions without `by_row` and older records.
        acquisition, options, prefer: what was asked of the pool; `unit`: of its scores.
        reason: why this acquisition function.
        prompt, call, missing: what the pipeline was called with; `missing` names the kind of each argument
            that JSON cannot hold.
        noise_dtype: of the latents this pipeline takes.
        rungs: the pauses of a selection by previews, in their order; empty for other selections.
        kept: how many of the best noises `noise` holds.
        pool: all noises, (candidates, *shape) float32; None after loading, when they are drawn again.
        previews: one decoded video (frames, height, width, 3) uint8 per candidate, where there are any; not
            saved.
        versions: of the packages at work.
    """

    prompt: str | None
    model: Model
    call: dict[str, Any]
    missing: dict[str, str]
    noise_dtype: torch.dtype
    recipes: tuple[NoiseRecipe | GivenNoise, ...]
    scores: Tensor
    totals: Tensor
    order: tuple[int, ...]
    layers: tuple[str, ...]
    acquisition: str
    options: dict[str, Any]
    prefer: Prefer
    unit: str
    reason: str
    ledger: Ledger
    seconds: dict[str, float]
    versions: dict[str, str]
    previews: list[np.ndarray[Any, Any]] | None = field(default=None, repr=False, compare=False)
    rungs: tuple[Rung, ...] = ()
    kept: int = 1
    race: tuple[tuple[int, int], ...] = ()
    confidence: float | None = None
    pool: Tensor | None = field(default=None, repr=False, compare=False)

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
        """The `kept` best noises, best first, as the pipeline's `latents=`: (kept, *shape), on the CPU."""
        best = self.order[: self.kept]
        drawn = self.pool[list(best)] if self.pool is not None else [self.recipes[i].draw() for i in best]
        return torch.stack([*drawn]).to(self.noise_dtype)

    def to_dict(self) -> dict[str, Any]:
        """The record, in plain JSON types, with a `digest` that shows whether it was altered."""
        return sealed(
            {
                "schema": SCHEMA,
                "seedbed": __version__,
                "prompt": self.prompt,
                "model": self.model.model,
                "pipeline": self.model.pipeline,
                "dtypes": self.model.dtypes,
                "device": self.model.device,
                "scheduler": self.model.scheduler,
                "call": self.call,
                "missing": self.missing,
                "noise_dtype": str(self.noise_dtype).removeprefix("torch."),
                "seed": self.recipe.seed if isinstance(self.recipe, NoiseRecipe) else None,
                "best": self.best,
                "order": list(self.order),
                "totals": _without_nan(self.totals.tolist()),
                "scores": [_without_nan(row) for row in self.scores.tolist()],
                "layers": list(self.layers),
                "acquisition": self.acquisition,
                "options": self.options,
                "prefer": self.prefer,
                "unit": self.unit,
                "reason": self.reason,
                "recipes": [recipe.to_dict() for recipe in self.recipes],
                "ledger": dict(self.ledger.entries),
                "seconds": self.seconds,
                "versions": self.versions,
                **({"rungs": [asdict(rung) for rung in self.rungs]} if self.rungs else {}),
                **({"kept": self.kept} if self.kept > 1 else {}),
                **({"race": [list(rung) for rung in self.race]} if self.race else {}),
                **({"confidence": self.confidence} if self.confidence is not None else {}),
            }
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Selection:
        """Read what `to_dict` wrote; the noises are checked when they are drawn.

        Raises:
            BadRecord: foreign, altered, damaged, or of a newer schema.
        """
        check(record)
        try:
            ledger = Ledger()
            for what, evaluations in record["ledger"].items():
                ledger.add(what, float(evaluations))
            selection = cls(
                prompt=record["prompt"],
                model=Model(*(record[k] for k in ("model", "pipeline", "dtypes", "device", "scheduler"))),
                call=dict(record["call"]),
                missing=dict(record["missing"]),
                noise_dtype=dtype_named(record["noise_dtype"]),
                recipes=tuple(_recipe(entry) for entry in record["recipes"]),
                scores=torch.tensor(list(map(_with_nan, record["scores"])), dtype=torch.float64).reshape(
                    len(record["recipes"]), len(record["layers"])
                ),
                totals=torch.tensor(_with_nan(record["totals"]), dtype=torch.float64),
                order=tuple(record["order"]),
                layers=tuple(record["layers"]),
                acquisition=record["acquisition"],
                options=dict(record["options"]),
                prefer=record["prefer"],
                unit=record["unit"],
                reason=record["reason"],
                ledger=ledger,
                seconds=dict(record["seconds"]),
                versions=dict(record["versions"]),
                rungs=tuple(Rung.from_dict(entry) for entry in record.get("rungs", ())),
                kept=int(record.get("kept", 1)),
                race=tuple((int(after), int(left)) for after, left in record.get("race", ())),
                confidence=record.get("confidence"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BadRecord(f"the selection record is damaged: {type(error).__name__} {error}") from error
        count = len(selection.recipes)
        agree = sorted(selection.order) == list(range(count)) and len(selection.totals) == count
        if not agree or not 1 <= selection.kept <= count:
            raise BadRecord("the selection record is damaged: its order, totals and recipes do not agree")
        return selection

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON, whole or not at all.

        Raises:
            BadInput: the folder does not exist, or the system refuses to write there.
        """
        return write_bytes_atomically(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

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


def recordable(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split a pipeline's arguments into those that JSON can hold, and the kind of each other one."""
    plain: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, value in call.items():
        if _is_plain(value):
            plain[name] = json.loads(json.dumps(value))
        elif isinstance(value, Tensor):
            missing[name] = f"tensor {tuple(value.shape)}"
        else:
            missing[name] = type(value).__name__
    return plain, missing


def package_versions() -> dict[str, str]:
    """The versions that decide whether a video can be rebuilt bit by bit."""
    packages = ("torch", "diffusers", "transformers", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, str))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the digest of everything else in it."""
    body = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**body, "digest": hashlib.sha256(text.encode()).hexdigest()}


def check(record: Mapping[str, Any]) -> None:
    """Raise BadRecord unless this is a record of this schema, as it was written."""
    schema = record.get("schema") if isinstance(record, Mapping) else None
    kind = SCHEMA.partition("/")[0]
    if not isinstance(schema, str) or not schema.startswith(kind + "/"):
        raise BadRecord(f"not a selection record: its schema is {shown(schema)}, not {SCHEMA!r}")
    if schema not in _READ:
        raise BadRecord(
            f"the record has schema {shown(schema)}, this seedbed reads {SCHEMA!r}: update seedbed"
        )
    try:
        intact = sealed(dict(record))["digest"] == record.get("digest")
    except (TypeError, ValueError):
        intact = False
    if not intact:
        raise BadRecord("the selection record was altered or damaged: its digest does not fit its content")


def _without_nan(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _with_nan(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _recipe(entry: Mapping[str, Any]) -> NoiseRecipe | GivenNoise:
    if entry.get("given"):
        return GivenNoise(entry["candidate"], tuple(entry["shape"]), entry["sha256"])
    return NoiseRecipe.from_dict(entry)
