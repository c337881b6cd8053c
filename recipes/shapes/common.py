"""What the stages share: a state that survives interruption, learning-rate shape, log, settings, captions."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from seedbed.worlds import shapes

FAST = "-fast"  # the name of a student ends with it, after its teacher's


class Run:
    """Model, moving average and optimisers of one stage; saved whole to one file or not at all."""

    def __init__(
        self, folder: Path, name: str, model: nn.Module, optimisers: list[torch.optim.Optimizer], ema: float
    ):
        self.path = folder / f"{name}.checkpoint.safetensors"
        self.log_path = folder / f"{name}.log.jsonl"
        self.model, self.optimisers, self.decay = model, optimisers, ema
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.step = 0
        self.started = time.monotonic()
        self.saved = time.monotonic()
        if self.path.exists():
            self._load()

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        for n, optimiser in enumerate(self.optimisers):
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser/{n}/{i}/{k}": v for k, v in state.items() if torch.is_tensor(v)}
        return {k: v.detach().contiguous().clone() for k, v in tensors.items()}

    def save(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        save_file(self._tensors(), temporary, metadata={"step": str(self.step)})
        os.replace(temporary, self.path)
        self.saved = time.monotonic()

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        self.average = {k[8:]: v for k, v in tensors.items() if k.startswith("average/")}
        for n, optimiser in enumerate(self.optimisers):
            whole = optimiser.state_dict()
            for key, value in tensors.items():
                if key.startswith(f"optimiser/{n}/"):
                    _, _, i, name = key.split("/")
                    whole["state"].setdefault(int(i), {})[name] = value
            optimiser.load_state_dict(whole)
        print(f"resumed {self.path.name} at step {self.step}", flush=True)

    def advance(self, loss: torch.Tensor, shape: float, facts: dict[str, float], every: int = 50) -> None:
        """One optimiser step at `shape` times every group's `base_lr`; logs, averages, now and then saves."""
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not norm.isfinite():
            raise SystemExit(f"{self.path.stem}: the gradient of step {self.step} is not finite")
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * shape
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
        if self.step % every == 0:
            row = {"step": self.step, "seconds": round(time.monotonic() - self.started, 1), **facts}
            with self.log_path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if time.monotonic() - self.saved > 120:
            self.save()


def mixed() -> torch.autocast:
    """bfloat16 where the processor multiplies it in hardware; elsewhere it is a hundred times slower."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def shape_of(step: int, steps: int, warmup: int, cooldown: int) -> float:
    """Share of the peak rate: linear warm-up, plateau, linear fall to zero over the last `cooldown` steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / cooldown)


def settings(config: dict[str, Any], name: str) -> dict[str, Any]:
    """What a model is trained with: what all have in common, and its own over it."""
    return {key: value for key, value in config.items() if key != "models"} | config["models"][name]


def exchanged(caption: str, attribute: str) -> str:
    """The caption with one attribute exchanged between its two objects."""
    one, two = shapes.parse(caption)
    mine, other = getattr(one, attribute), getattr(two, attribute)
    return shapes.caption([replace(one, **{attribute: other}), replace(two, **{attribute: mine})])
