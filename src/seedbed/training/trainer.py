"""The loop of a training: steps, averages, checkpoints that are whole, and exactly on from the last one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, BadOutput
from seedbed.files import write_bytes_atomically
from seedbed.progress import Show

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class Task(Protocol):
    """What is trained, on what.

    Attributes:
        module: has the parameters; those that require gradients are trained, averaged and checkpointed.
        optimisers: of them; a group's `lr` is the greatest.
        rows: row `i` of step `i // size` at index i, a function of i alone; `collate` makes a batch of rows.
        size: rows of a step, over all processes and accumulated forwards.
    """

    module: nn.Module
    optimisers: Sequence[torch.optim.Optimizer]
    rows: Any
    size: int
    collate: Callable[..., Any]

    def loss(self, forward: Callable[..., Any], batch: Any) -> Tensor:
        """The mean loss of a batch; `forward` is to be called in place of the module."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast; see `seedbed.training.config.Config`."""

    steps: int
    batch: int
    accumulate: int = 1
    warmup: int = 0
    cooldown: int = 0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    workers: int = 0
    save_every: int = 500
    log_every: int = 10

    def rate(self, step: int) -> float:
        """Share of the greatest learning rate in a step, from 0."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return min(1.0, rise, fall)

    def forwards(self, first: int, size: int, process: int) -> Iterator[list[int]]:
        """Row numbers of each forward of one process, from step `first` on."""
        own = self.batch * self.accumulate
        for step in range(first, self.steps):
            start = step * size + process * own
            for part in range(self.accumulate):
                yield [*range(start + part * self.batch, start + (part + 1) * self.batch)]


class State:
    """All that a training has come to: weights, their average, the optimisers' moments, the step.

    Args:
        content: what the training depends on, in plain JSON types; a checkpoint of another one is refused.
    """

    def __init__(self, task: Task, plan: Plan, folder: Path, content: Any) -> None:
        from diffusers.training_utils import EMAModel

        trained = [(name, each) for name, each in task.module.named_parameters() if each.requires_grad]
        self.names = [name for name, _ in trained]
        self.parameters = [each for _, each in trained]
        self.average = EMAModel(self.parameters, decay=plan.ema, foreach=True)
        self.optimisers = task.optimisers
        self.path = folder / CHECKPOINT
        self.content = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.step = 0
        self.loss = 0.0  # the sum since the last line of the metrics

    def save(self) -> None:
        """Write the checkpoint under another name, then rename it: the one before it survives whatever fails.

        Raises:
            BadInput: the system refuses, as where the disk is full.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {f"weight/{n}": p.detach() for n, p in zip(self.names, self.parameters, strict=True)}
        shadows = zip(self.names, self.average.shadow_params, strict=True)
        tensors |= {f"average/{name}": shadow for name, shadow in shadows}
        for number, optimiser in enumerate(self.optimisers):
            for index, moments in optimiser.state_dict()["state"].items():
                known = {k: v for k, v in moments.items() if torch.is_tensor(v)}
                tensors |= {f"optimiser/{number}/{index}/{key}": value for key, value in known.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"step": str(self.step), "loss": self.loss.hex(), "content": self.content}
        temporary = self.path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            save_file(tensors, temporary, metadata)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except (OSError, SafetensorError) as error:
            kept = " (the last checkpoint is there still)" if self.path.is_file() else ""
            raise BadInput(
                f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}{kept}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def load(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            BadInput: it is of another training, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{self.path} is no checkpoint: {error}; remove it to begin anew") from error
        if metadata.get("content") != self.content:
            raise BadInput(f"{self.path} is of another config or number of processes: name another folder")
        self.step, self.loss = int(metadata["step"]), float.fromhex(metadata["loss"])
        self.average.optimization_step = self.step
        with torch.no_grad():
            for name, parameter, shadow in zip(
                self.names, self.parameters, self.average.shadow_params, strict=True
            ):
                parameter.copy_(tensors[f"weight/{name}"])
                shadow.copy_(tensors[f"average/{name}"])
        for number, optimiser in enumerate(self.optimisers):
            state = optimiser.state_dict()
            for key, value in tensors.items():
                kind, _, rest = key.partition("/")
                if kind == "optimiser" and rest.startswith(f"{number}/"):
                    _, index, name = rest.split("/")
                    state["state"].setdefault(int(index), {})[name] = value
            optimiser.load_state_dict(state)


def fit(
    accelerator: Any,
    task: Task,
    plan: Plan,
    folder: Path,
    content: Any,
    show: Show,
    sample: Callable[[int], None] | None = None,
    sample_every: int = 1,
) -> State:
    """Train, or go on training, until the plan's last step; the weights are then those of the average.

    Args:
        accelerator: accelerate's, which says on how many processes and devices.
        folder: of checkpoint and metrics.
        content: see `State`.
        show: called with ("steps", done, all).
        sample: called in the main process with the step, the averaged weights in the module, after every
            `sample_every` steps and the last.

    Raises:
        BadInput: a checkpoint of another training, or one that cannot be written.
        BadOutput: a loss that is not finite.
        KeyboardInterrupt: says what is kept.
    """
    if task.size != plan.batch * plan.accumulate * accelerator.num_processes:
        raise BadInput(
            f"a step has {task.size} rows, not as many as {accelerator.num_processes} processes make"
        )
    forward = accelerator.prepare_model(task.module)
    state = State(task, plan, folder, content)
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in task.optimisers]
    state.load()
    main, first = accelerator.is_main_process, state.step
    metrics = Metrics(folder / METRICS, first) if main else None
    loader = torch.utils.data.DataLoader(
        task.rows,
        batch_sampler=plan.forwards(first, task.size, accelerator.process_index),
        collate_fn=task.collate,
        num_workers=plan.workers,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=2 if plan.workers else None,
    )
    batches = iter(loader) if first < plan.steps else iter(())
    task.module.train()
    since, logged, saved = perf_counter(), first, first
    show("steps", first, plan.steps)
    losses = torch.zeros((), device=accelerator.device)
    try:
        while state.step < plan.steps:
            step = state.step
            # What a module draws itself, as for dropout, is a function of the step too.
            torch.manual_seed(_number(plan.seed, step, accelerator.process_index))
            for part in range(plan.accumulate):
                more = part + 1 < plan.accumulate
                with accelerator.no_sync(forward) if more else nullcontext():
                    loss = task.loss(forward, next(batches)) / plan.accumulate
                    accelerator.backward(loss)
                losses += loss.detach()
            norm = nn.utils.clip_grad_norm_(state.parameters, plan.clip)
            for optimiser, own in zip(task.optimisers, rates, strict=True):
                for group, rate in zip(optimiser.param_groups, own, strict=True):
                    group["lr"] = rate * plan.rate(step)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            state.average.step(state.parameters)
            state.step = step = step + 1
            log, save = (
                step % every == 0 or step == plan.steps for every in (plan.log_every, plan.save_every)
            )
            if log or save:
                # Read from the device as rarely as that, since it waits for all that is under way there.
                state.loss += float(accelerator.reduce(losses, "mean"))
                losses.zero_()
                if not torch.isfinite(torch.tensor(state.loss)):
                    raise BadOutput(f"the loss is not finite at step {step}: lower the learning rate")
            if log:
                if metrics is not None:
                    took, since = perf_counter() - since, perf_counter()
                    count = step - (step - 1) // plan.log_every * plan.log_every
                    metrics.write(
                        step=step,
                        loss=state.loss / count,
                        lr=task.optimisers[0].param_groups[0]["lr"],
                        gradient=float(norm),
                        seconds=round(took, 3),
                        rows_per_second=round((step - logged) * task.size / took, 2),
                    )
                state.loss, logged = 0.0, step
            if save:
                if main:
                    state.save()
                accelerator.wait_for_everyone()
                saved = step
            if sample and (step % sample_every == 0 or step == plan.steps):
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
            show("steps", step, plan.steps)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{saved} of {plan.steps} steps are kept in {folder}; run again to go on"
        ) from None
    accelerator.wait_for_everyone()
    state.average.copy_to(state.parameters)
    accelerator.unwrap_model(task.module, keep_fp32_wrapper=False)
    task.module.eval()
    return state


class Metrics:
    """A line of JSON for every so many steps; those after the checkpoint are made again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a kill
        write_bytes_atomically(path, "".join(kept).encode())

    def write(self, **values: float) -> None:
        """One more line. Raises BadInput if the system refuses."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error.strerror or error}") from error


def _number(*key: int) -> int:
    digest = hashlib.sha256(" ".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
