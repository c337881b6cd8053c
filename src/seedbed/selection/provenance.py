"""Where a record comes from: the pipeline, its device and the packages, and how it is loaded again."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from seedbed.errors import BadInput, BadRecord
from seedbed.pipelines.loading import ADDED, changed, has_device, recorded_name, switches

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
Scheduler = TypedDict("Scheduler", {"class": str, "config": dict[str, Any]})


@dataclass(frozen=True)
class Model:
    """What a record says about the pipeline.

    Attributes:
        model: the folder or hub name it was loaded from, "" if it was built in memory; an embedded
            model is named as `seedbed.pipelines.loading.recorded_name` says.
        pipeline: its class.
        dtypes: of each component with weights.
        device: the type of device that it computed on.
        scheduler: class and configuration, None for a pipeline without one.
        switches: what else was on, see `seedbed.pipelines.loading.switches`; None in older records.
    """

    __pydantic_config__ = STRICT

    model: str
    pipeline: str
    dtypes: dict[str, str]
    device: str
    scheduler: Scheduler | None
    switches: dict[str, dict[str, Any]] | None = None

    @classmethod
    def of(cls, pipe: Any, device: str | None = None) -> Model:
        """Describe a pipeline; `device` is that of its noise, where it is known: diffusers looks for it."""
        dtypes = {
            key: str(dtype).removeprefix("torch.")
            for key, component in pipe.components.items()
            if isinstance(component, torch.nn.Module)
            and (dtype := getattr(component, "dtype", None)) is not None  # diffusers looks for it each time
        }
        scheduler: Any = getattr(pipe, "scheduler", None)
        if scheduler is not None:
            # Of a copy, as diffusers adds its own entries to a configuration that it writes. Bounds that are
            # infinite, of which JSON has none, as text.
            config = json.loads(copy.deepcopy(scheduler).to_json_string(), parse_constant=str)
            scheduler = {"class": type(scheduler).__name__, "config": config}
        name = recorded_name(model_name(pipe))
        return cls(name, type(pipe).__name__, dtypes, device or device_of(pipe), scheduler, switches(pipe))

    def loading(self) -> dict[str, Any]:
        """How `seedbed.pipelines.loading.load` makes it again, on what device there is."""
        return {
            "dtype": self.dtypes,
            "scheduler": self.scheduler,
            "switches": self.switches,
            "device": self.device if has_device(self.device) else None,
        }

    def moved(self, model: str | None, config: str | None, loras: Sequence[str]) -> dict[str, Any]:
        """How `seedbed.pipelines.loading.load` makes it again where its files lie elsewhere now.

        Args:
            model: the folder, or the checkpoint in a single file; None where the record says.
            config: the folder of a checkpoint's pipeline; None where the record says.
            loras: a file for each recorded LoRA, in their order; none where the record says.

        Raises:
            BadInput: a `config` without a checkpoint, or another number of LoRAs than the record's.
        """
        how = self.loading()
        added = dict((self.switches or {}).get("pipe", {}))
        recorded, checkpoint = added.get("loras", []), added.get("checkpoint")
        if loras:
            if len(loras) != len(recorded):
                names = ", ".join(Path(lora["file"]).name for lora in recorded) or "none"
                raise BadInput(f"the record's LoRAs are {names}: give --lora for each, in this order")
            added["loras"] = [
                {**lora, "file": str(Path(file).resolve())}
                for lora, file in zip(recorded, loras, strict=True)
            ]
        if config and not checkpoint:
            raise BadInput("the record has no checkpoint in a single file: leave --config out")
        if config and not model:  # the checkpoint lies where it was
            how |= {"model": config, "config": None}
        else:
            own = self.model if checkpoint and model and Path(model).is_file() else None
            how |= {"model": model or self.model, "config": config or own}
        if added:
            how["switches"] = {**(self.switches or {}), "pipe": added}
        return how

    def changes(self, pipe: Any, versions: dict[str, str], decoded: bool = True) -> list[str]:
        """In what a pipeline, its device and the packages are not as recorded, a few words each.

        Args:
            decoded: whether that counts by which latents are decoded alone (tiles), and where files lie and
                weights wait.
        """
        then, now = vars(self), vars(Model.of(pipe))
        names = ["device", "dtypes", "scheduler"] + ["switches"] * (self.switches is not None)
        if not decoded:
            then, now = ({**each, "switches": _of_steps(each["switches"] or {})} for each in (then, now))
        return changed(versions, package_versions()) + [
            line for name in names for line in changed(then[name], now[name], name)
        ]


def _of_steps(switches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The switches that a denoiser's output may depend on; LoRAs are among its weights."""
    found = {part: values for part, values in switches.items() if not part.startswith("vae")}
    own = {key: value for key, value in found.pop("pipe", {}).items() if key not in ADDED}
    return found | own


_MODELS = TypeAdapter(Model)


def recorded_model(record: Mapping[str, Any]) -> Model:
    """What a record says of its pipeline; BadRecord where it does not."""
    try:
        return _MODELS.validate_json(json.dumps({**record}))
    except ValidationError as error:
        raise BadRecord(f"the record is damaged: {error.errors()[0]['msg']}") from error


def model_name(pipe: Any) -> str:
    """Where a pipeline was loaded from: a folder, a hub name, or "" if it was built in memory."""
    return str(getattr(pipe, "name_or_path", None) or "")


def device_of(pipe: Any) -> str:
    """The type of device that a pipeline computes on, also where its models wait elsewhere (offloading)."""
    return torch.device(pipe._execution_device).type


def package_versions() -> dict[str, str]:
    """The versions that decide whether a video can be rebuilt bit by bit."""
    packages = ("torch", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


# Read once: finding them takes milliseconds, and imported code does not change.
_version = cache(importlib.metadata.version)
