"""The training that a config asks for: a diffusion model on clips, under a prior, and what it leaves."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from seedbed.errors import BadInput, NotSupported
from seedbed.files import read_text, write_bytes_atomically, written_whole
from seedbed.noise import prior_named
from seedbed.pipelines.call import SCHEMA, settings_beside
from seedbed.pipelines.loading import changed, load, silence
from seedbed.progress import Progress, reporting
from seedbed.training.config import Config, Lora
from seedbed.training.data import Latents, Rows, clips_of
from seedbed.training.denoisers import Model, Objective, inflated, motion_modules
from seedbed.training.stages import Stage, stage_scheduler
from seedbed.training.trainer import CHECKPOINT, METRICS, fit

INDEX = "clips.json"
MODEL = "model"  # the finished model's folder, in that of the training


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        model: the folder of the pipeline, averaged weights in it; `diffusers` and `seedbed` load it.
        complaint: files that could not be used, "" for none.
    """

    model: Path
    complaint: str


class Diffusion:
    """Denoising clips under a prior, as `seedbed.training.trainer.fit` takes it; attributes as of `Task`."""

    def __init__(self, model: Model, config: Config, rows: Rows) -> None:
        self.model, self.config, self.rows = model, config, rows
        self.module: nn.Module = model.denoiser
        self.objective = Objective.of(model.scheduler, config.shift)
        self.objective.weights(torch.zeros(1, dtype=torch.long), config.min_snr)  # a mistake is one at once
        if model.kind in ("image", "motion"):
            for layer in self.module.modules():
                if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
                    # Weights that lie so are read faster: a step of recipes/pyoco takes 40 % less on a CPU.
                    # Not those that stay as they are: their backward ends torch 2.13 there (test_kinds.py,
                    # where only motion modules are trained).
                    lying = layer.weight.data.contiguous(memory_format=torch.channels_last)
                    layer.weight.data = lying
        trained = [each for each in self.module.parameters() if each.requires_grad]
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            trained, config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.broken: dict[str, None] = {}

    def loss(self, forward: Callable[..., Any], batch: dict[str, Any]) -> Tensor:
        """The weighted squared error of a batch, over all its elements."""
        self.broken.update(dict.fromkeys("\n".join(batch["broken"]).splitlines()))
        device, half = self.model.denoiser.device, self.config.precision == "bfloat16"
        clip = batch["clip"].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            said = self.model.embed(batch["caption"])
            clean = clip if self.rows.latents is not None else self.model.encode(clip)
        noise, share = batch["noise"].to(device), batch["share"].to(device)
        noisy, target, timestep = self.objective.noised(clean, noise, share)
        given = self.model.given(noisy, clean, batch)
        prediction = self.model.predict(forward, given, timestep, said)
        error = (prediction.float() - target).square().flatten(1).mean(1)
        return (self.objective.weights(timestep, self.config.min_snr) * error).mean()


def train(config: Config, folder: str | os.PathLike[str], progress: Progress = True) -> Trained:
    """Train the model of a config in a folder, or go on where it was interrupted there.

    The folder holds config.json, checkpoint.safetensors, metrics.jsonl, samples/ and in the end model/, a
    pipeline's folder with a card and the prior in its seedbed.json. Started on several processes (torchrun,
    accelerate launch), each has a share of every step's rows.

    Raises:
        BadInput: a config, model or data that do not fit one another, a folder of another training, a disk
            that is full.
        BadOutput: a loss that is not finite.
        NotSupported: a pipeline that cannot be trained.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    out = Path(folder)
    precision = {"float32": "no", "bfloat16": "bf16"}[config.precision]
    # Several processes without a device of theirs are told to be on the CPU, or each would be alone.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=precision)
    gpu = [accelerator.device] if accelerator.device.type == "cuda" else []
    try:
        with (
            _claimed(config, out) if accelerator.is_main_process else nullcontext(),
            silence(),
            torch.random.fork_rng(gpu),
            reporting(accelerator.is_main_process and progress) as show,
        ):
            return _train(config, out, accelerator, show)
    finally:
        AcceleratorState._reset_state(False)  # or another precision would be refused in this process


def _train(config: Config, out: Path, accelerator: Any, show: Any) -> Trained:
    from accelerate.utils import gather_object

    main = accelerator.is_main_process
    accelerator.wait_for_everyone()
    model = _prepared(config)
    model.to(accelerator.device)
    with accelerator.main_process_first():
        clips = clips_of(config.data, config.frames, out / INDEX)
    model.require(config.frames, *clips.size)
    black = torch.zeros(1, config.frames, *clips.size, 3, dtype=torch.uint8)
    latents = None
    if config.cache:
        latents = Latents(out / "latents", clips)
        with accelerator.autocast():
            process = accelerator.process_index, accelerator.num_processes
            latents.fill(config.frames, model, process, show)
        accelerator.wait_for_everyone()
    rows = Rows(
        clips,
        config.frames,
        config.seed,
        config.batch * config.accumulate * accelerator.num_processes,
        tuple(model.encode(black).shape[1:]),
        model.frame_axis,
        prior_named(config.prior),
        stills=config.stills.share if config.stills else 0.0,
        dropout=config.caption_dropout,
        latents=latents,
        causal=model.temporal > 1,
        augmentation=getattr(config.stage, "augmentation", 0.0),
    )
    task, samples = Diffusion(model, config, rows), config.samples
    sample = partial(_sample, model, config, clips.size, out / "samples") if samples else None
    every = samples.every if samples else 1
    fit(accelerator, task, config, out, [config.content(), accelerator.num_processes], show, sample, every)
    said = [clips.complaint(), *gather_object([*task.broken])]
    complaint = "; ".join(dict.fromkeys(filter(None, said)))
    if main:
        if isinstance(config.train, Lora):
            _merge(model, config.train, out)
        with written_whole(out / MODEL) as partly:
            model.pipe.save_pretrained(partly)
            forget_places(partly)
            settings = _settings(model, config, clips.size)
            (partly / "seedbed.json").write_text(json.dumps(settings, indent=2) + "\n")
            (partly / "README.md").write_text(_card(config, out, complaint))
    accelerator.wait_for_everyone()
    return Trained(out / MODEL, complaint)


def forget_places(folder: Path) -> None:
    """Leave out of a saved pipeline's configs from where on this machine its parts were read."""
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        content = json.loads(path.read_text())
        if content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def _claimed(config: Config, out: Path) -> Iterator[None]:
    """The folder as this training's own, to whom alone it belongs meanwhile.

    Raises BadInput where it is another's, naming what differs, or another process trains there.
    """
    lock = FileLock(out / "lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BadInput(f"another process trains in {out}: wait for it, or name another --out") from None
    except OSError as error:
        raise BadInput(f"cannot write in {out}: {error.strerror or error}") from error
    try:
        _claim(config, out)
        yield
    finally:
        lock.release()


def _claim(config: Config, out: Path) -> None:
    for left in out.glob(".*.tmp"):  # by a process that was killed while it wrote
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    path = out / "config.json"
    if path.is_file():
        there = Config.load(path)
        differs = changed(there.content(), config.content())
        if differs and not (out / CHECKPOINT).is_file():  # it has not begun
            (out / INDEX).unlink(missing_ok=True)
            shutil.rmtree(out / "latents", ignore_errors=True)
        elif differs:
            raise BadInput(
                f"{out} holds the training of another config ({', '.join(differs)}): name another --out"
            )
    write_bytes_atomically(path, config.to_json().encode())


def _prepared(config: Config) -> Model:
    """The model to start from, on the CPU in float32; what is trained has gradients, nothing else."""
    pipe = load(config.model, dtype="float32", device="cpu")
    beside = settings_beside(pipe)
    call = {**beside.get("call", {}), **(config.samples.call if config.samples else {})}
    if config.inflate:
        pipe = inflated(pipe, **config.inflate.model_dump(), seed=config.seed)
    if config.stage:
        scheduler = _rescheduled(stage_scheduler(), config)
        model: Model = Stage(pipe, call, beside.get("prior"), config, scheduler)
    else:
        pipe.scheduler = _rescheduled(pipe.scheduler, config)
        model = Model(pipe, call)
    denoiser = model.denoiser
    denoiser.requires_grad_(config.train == "all")
    if config.train == "motion":
        modules = motion_modules(denoiser)
        if not modules:
            raise BadInput("train: there are no motion modules in this model; write all, or give inflate")
        for module in modules:
            module.requires_grad_(True)
    elif isinstance(config.train, Lora):
        _adapt(denoiser, config.train, config.seed)
    if config.checkpointing:
        denoiser.enable_gradient_checkpointing()
    return model


def _adapt(denoiser: Any, lora: Lora, seed: int) -> None:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise NotSupported("adapters need more packages: pip install 'seedbed[train]'") from error
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=[*lora.targets])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            denoiser.add_adapter(settings)
        except ValueError as error:  # of names that no layer has
            raise BadInput(f"train.targets: no layer is called {', '.join(lora.targets)}") from error


def _rescheduled(scheduler: Any, config: Config) -> Any:
    """The scheduler that samples what is to be predicted: the given one, or one that is made of it."""
    from diffusers import DDIMScheduler, UniPCMultistepScheduler

    now = Objective.of(scheduler)
    kind, shift = config.prediction or now.kind, config.shift
    if kind == "epsilon" and len(now.powers) and not now.powers[-1]:
        raise BadInput(
            "prediction: the schedule begins without signal, of which epsilon says nothing: "
            "write v_prediction"
        )
    if kind == "flow_prediction" and (now.kind != kind or shift):
        # One that every pipeline takes: flow matching's own has no `init_noise_sigma` (AnimateDiffPipeline).
        return UniPCMultistepScheduler(
            prediction_type=kind, use_flow_sigmas=True, flow_shift=shift or now.shift
        )
    if kind == now.kind:
        return scheduler
    if now.kind == "flow_prediction":
        return DDIMScheduler(prediction_type=kind, clip_sample=False)
    return type(scheduler).from_config(scheduler.config, prediction_type=kind)


def _sample(model: Model, config: Config, size: tuple[int, int], folder: Path, step: int) -> None:
    """Generate from the weights as they are, each prompt from a noise of its own, the same every time."""
    from seedbed.report.video import write_video
    from seedbed.selection.generation import generate

    assert config.samples is not None
    folder.mkdir(exist_ok=True)
    settings = _settings(model, config, size)
    for number, prompt in enumerate(config.samples.prompts):
        made = generate(
            model.pipe,
            prompt,
            candidates=1,
            seed=config.seed + number,
            acquisition="random",
            prior=settings.get("prior"),
            progress=False,
            call=settings["call"],
        )
        suffix = ".png" if len(made.frames) == 1 else ".mp4"
        fps = getattr(config.data, "fps", 8)
        write_video(folder / f"{step:07d}-{number}{suffix}", made.frames, fps)


def _settings(model: Model, config: Config, size: tuple[int, int]) -> dict[str, Any]:
    """The seedbed.json beside the finished model: how it is called, and the prior of its noise."""
    known = inspect.signature(type(model.pipe).__call__).parameters
    settings: dict[str, Any] = {"schema": SCHEMA}
    if isinstance(model, Stage):  # the base's own: what was trained here follows it
        return settings | {"call": dict(model.call)} | ({"prior": model.prior} if model.prior else {})
    fitting = {"num_frames": config.frames, "height": size[0], "width": size[1]}
    trained = {name: value for name, value in fitting.items() if name in known}
    settings["call"] = {**model.call, **trained, **(config.samples.call if config.samples else {})}
    return settings | ({"prior": config.prior} if config.frames > 1 else {})


def _merge(model: Model, lora: Lora, out: Path) -> None:
    """Write the adapters by themselves, as `load_lora_weights` reads them, and add them to the weights."""
    from peft.utils import get_peft_model_state_dict

    part = "unet" if hasattr(model.pipe, "unet") else "transformer"
    # Whoever reads such a file without further notice takes alpha to be the rank, so it is multiplied in.
    scale = lora.alpha / lora.rank
    found = get_peft_model_state_dict(model.denoiser).items()
    layers = {name: (value * scale if "lora_B" in name else value).contiguous() for name, value in found}
    state = {f"{part}_lora_layers": layers}
    with written_whole(out / "pytorch_lora_weights.safetensors") as file:
        model.pipe.save_lora_weights(file.parent, weight_name=file.name, **state)
    model.denoiser.fuse_lora()
    model.denoiser.unload_lora()


def _card(config: Config, out: Path, complaint: str) -> str:
    """The model card: what was trained on what, how, and how to use it."""
    from seedbed.selection.provenance import package_versions

    lines = read_text(out / METRICS, "the metrics").splitlines()
    last = json.loads(lines[-1]) if lines else {}
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    what = "single frames" if config.frames == 1 else f"clips of {config.frames} frames"
    if config.stage:
        what = f"{what}, its {config.stage.kind} alone,"
    kept = json.dumps(config.content(), indent=1)
    parts: Sequence[str] = (
        f"# {config.name}",
        f"Trained from `{config.model}` on {what} for {config.steps} steps, under the prior `{config.prior}`."
        f" The weights are their average over the steps (decay {config.ema:g}).",
        f'```\nseedbed generate "..." --model {MODEL}\n```',
        "Noise of another prior is off the distribution that it was trained on: `seedbed` draws the right "
        "one by itself; in other tools pass `latents`.",
        f"Loss at the end: {last.get('loss', float('nan')):.4g}." if last else "",
        f"Not used, or not readable: {complaint}." if complaint else "",
        f"Made with {versions}.",
        f"## Config\n\n```json\n{kept}\n```",
    )
    return "\n\n".join(part for part in parts if part) + "\n"
