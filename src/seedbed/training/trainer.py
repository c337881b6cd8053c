"""The loop of a training: steps, averages, checkpoints that are whole, and exactly on from the last one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, BadOutput
from seedbed.files import write_bytes_atomically, written_whole
from seedbed.progress import Show
from seedbed.training.config import Plan

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class Task(Protocol):
    """What is trained, on what.

    Attributes:
        module: has the parameters; those that require gradients are trained, averaged and checkpointed.
        optimiser: of them; a group's `lr` is the greatest.
        rows: row `i` of step `i // size` at index i, a function of i alone; its `size` are the rows of a
            step, over all processes and accumulated forwards.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    rows: Any

    def loss(self, forward: Callable[..., Any], batch: Any) -> Tensor:
        """The mean loss of a batch; `forward` is to be called in place of the module."""


class State:
    """All that a training has come to: weights, their average, the optimiser's moments, the step.

    Args:
        content: what the training depends on, in plain JSON types; a checkpoint of another one is refused.
    """

    def __init__(self, task: Task, plan: Plan, folder: Path, content: Any) -> None:
        from diffusers.training_utils import EMAModel

        trained = {name: each for name, each in task.module.named_parameters() if each.requires_grad}
        self.parameters = [*trained.values()]
        self.average = EMAModel(self.parameters, decay=plan.ema, foreach=True)
        shadows = zip(trained, self.average.shadow_params, strict=True)
        self.tensors = {f"weight/{name}": each.detach() for name, each in trained.items()}
        self.tensors |= {f"average/{name}": shadow for name, shadow in shadows}
        self.optimiser = task.optimiser
        self.path = folder / CHECKPOINT
        self.content = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.step = 0
        self.loss = 0.0  # the sum since the last line of the metrics

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; BadInput where the system refuses."""
        from safetensors.torch import save_file

        tensors = {**self.tensors}
        for index, moments in self.optimiser.state_dict()["state"].items():
            known = {name: value for name, value in moments.items() if torch.is_tensor(value)}
            tensors |= {f"optimiser/{index}/{name}": value for name, value in known.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"step": str(self.step), "loss": self.loss.hex(), "content": self.content}
        with written_whole(self.path) as temporary:
            save_file(tensors, temporary, metadata)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one; BadInput if it is of another training, or damaged."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{self.path} is no checkpoint: {error}; remove it to begin anew") from error
        if metadata.get("content") != self.content:
            raise BadInput(f"{self.path} is of another config or number of processes: name another folder")
        self.step, self.loss = int(metadata["step"]), float.fromhex(metadata["loss"])
        self.average.optimization_step = self.step
        for name, tensor in self.tensors.items():
            tensor.copy_(kept.pop(name))
        state = self.optimiser.state_dict()
        owners = [each for group in self.optimiser.param_groups for each in group["params"]]
        for key, value in kept.items():
            *_, index, name = key.split("/")
            like = owners[int(index)]
            # In the weights' own layout, as moments that were not loaded have it.
            moment = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state["state"].setdefault(int(index), {})[name] = moment
        self.optimiser.load_state_dict(state)


def fit(
    accelerator: Any,
    task: Task,
    plan: Plan,
    folder: Path,
    content: Any,
    show: Show,
    sample: Callable[[int], None] | None = None,
    sample_every: int = 1,
) -> None:
    """Train, or go on training, until the plan's last step; the weights are then those of the average.

    Args:
        accelerator: accelerate's, which says on how many processes and devices.
        folder: of checkpoint and metrics.
        content: see `State`.
        show: called with ("steps", done, all).
        sample: called in the main process with the step, the averaged weights in the module, after every
            `sample_every` steps and the last; for a step that a training goes on from once more, as a kill
            may have come in the middle of it.

    Raises:
        BadInput: a checkpoint of another training, or one that cannot be written.
        BadOutput: a loss that is not finite.
        KeyboardInterrupt: says what is kept.
    """
    size, main, process = task.rows.size, accelerator.is_main_process, accelerator.process_index
    if size != plan.batch * plan.accumulate * accelerator.num_processes:
        raise BadInput(f"a step has {size} rows, not as many as {accelerator.num_processes} processes make")
    forward = accelerator.prepare_model(task.module)
    state = State(task, plan, folder, content)
    state.load()
    groups, first = task.optimiser.param_groups, state.step
    rates = [group["lr"] for group in groups]
    if main:
        _go_on(folder / METRICS, first)
    loader = torch.utils.data.DataLoader(
        task.rows,
        batch_sampler=plan.forwards(first, size, process),
        num_workers=plan.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    batches = iter(loader)
    task.module.train()
    since, logged, saved = perf_counter(), first, first
    show("steps", first, plan.steps)
    losses = torch.zeros((), device=accelerator.device)
    try:
        while True:
            step = state.step
            if sample and step and (step % sample_every == 0 or step == plan.steps):
                paused = perf_counter()
                if main:
                    state.average.store(state.parameters)
                    state.average.copy_to(state.parameters)
                    task.module.eval()
                    sample(step)
                    task.module.train()
                    state.average.restore(state.parameters)
                accelerator.wait_for_everyone()
                since += perf_counter() - paused
            if step == plan.steps:
                break
            # What a module draws itself, as for dropout, is a function of the step too.
            torch.manual_seed(int(np.random.default_rng([plan.seed, step, process]).integers(2**63)))
            for part in range(plan.accumulate):
                more = part + 1 < plan.accumulate
                with accelerator.no_sync(forward) if more else nullcontext():
                    loss = task.loss(forward, next(batches)) / plan.accumulate
                    accelerator.backward(loss)
                losses += loss.detach()
            norm = nn.utils.clip_grad_norm_(state.parameters, plan.clip)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * plan.rate(step)
            task.optimiser.step()
            task.optimiser.zero_grad(set_to_none=True)
            state.average.step(state.parameters)
            state.step = step = step + 1
            log, save = (
                step % every == 0 or step == plan.steps for every in (plan.log_every, plan.save_every)
            )
            if log or save:
                # Read from the device as rarely as that, since it waits for all that is under way there.
                state.loss += float(accelerator.reduce(losses, "mean"))
                losses.zero_()
                if not np.isfinite(state.loss):
                    raise BadOutput(f"the loss is not finite at step {step}: lower the learning rate")
            if log:
                if main:
                    took, since = perf_counter() - since, perf_counter()
                    line = {
                        "step": step,
                        "loss": state.loss / (step - (step - 1) // plan.log_every * plan.log_every),
                        "lr": groups[0]["lr"],
                        "gradient": float(norm),
                        "seconds": round(took, 3),
                        "rows_per_second": round((step - logged) * size / took, 2),
                    }
                    _append(folder / METRICS, line)
                state.loss, logged = 0.0, step
            if save:
                if main:
                    state.save()
                accelerator.wait_for_everyone()
                saved = step
            show("steps", step, plan.steps)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{saved} of {plan.steps} steps are kept in {folder}; run again to go on"
        ) from None
    accelerator.wait_for_everyone()
    state.average.copy_to(state.parameters)
    accelerator.unwrap_model(task.module, keep_fp32_wrapper=False)
    task.module.eval()


def _go_on(path: Path, step: int) -> None:
    """Leave the metrics of the steps that are kept; those after the checkpoint are made again."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        # A kill may have cut the last one short, and after a power cut some may be null characters.
        with suppress(ValueError, TypeError, KeyError):
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
    write_bytes_atomically(path, b"".join(kept))


def _append(path: Path, line: dict[str, float]) -> None:
    try:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from error
