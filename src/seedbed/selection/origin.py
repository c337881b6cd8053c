"""Where a selection comes from: the pipeline, its arguments, and the packages at work."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.pipelines.loading import recorded_name


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
