"""Make a student of few steps: `python recipes/shapes/distill.py shapes-wan --out runs/wan-fast`.

The student begins as its teacher and learns to go in one step where the teacher takes several, guidance
included, so that it needs none. It is the regression of progressive distillation (Salimans and Ho,
2202.00512; on guided models Meng et al., 2210.03142) in one round, onto trajectories that are computed once.
Each step starts where the student's own previous step ended, as it does when the student generates, so that
it learns to undo its errors.

The trajectories are kept in pieces and the student in a checkpoint: the same command continues an interrupted
run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import FAST, Run, mixed, settings, shape_of
from denoiser import optimisers
from diffusers import UniPCMultistepScheduler, WanPipeline
from export import export
from families import TOKENS, Conditioned
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from seedbed.pipelines.loading import load, locate
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import model_sha256
from seedbed.selection.pools import draw_pool
from seedbed.worlds import shapes

PIECE = 64  # trajectories in a file


def student_scheduler(teacher: UniPCMultistepScheduler, steps: int) -> UniPCMultistepScheduler:
    """The teacher's times, fewer of them, and a plain Euler step from one to the next."""
    fewer = type(teacher).from_config(teacher.config, solver_order=1, disable_corrector=[*range(steps)])
    fewer.set_timesteps(steps)
    return fewer


def trajectories(
    pipe: WanPipeline, call: dict[str, Any], config: dict[str, Any], folder: Path
) -> tuple[Tensor, list[str]]:
    """The teacher's states at the student's times, (noises, steps + 1, *latents), and their captions."""
    own, seed = config["distillation"], config["seed"] + 1000
    every = call["num_inference_steps"] // own["call"]["num_inference_steps"]
    teacher = model_sha256(pipe)
    pieces, captions = [], []
    for piece, at in enumerate(range(0, own["noises"], PIECE)):
        path = folder / f"teacher-{piece:03}.safetensors"
        if not path.exists():
            count = min(PIECE, own["noises"] - at)
            scenes = shapes.scenes(seed + piece, pairs=config["latents"]["pairs"])
            said = [shapes.caption(scene) for scene in itertools.islice(scenes, count)]
            noises = draw_pool(Session(pipe, said[0], **call), count, seed=seed + piece).noises
            states = [noises.clone()]

            def keep(pipe: WanPipeline, step: int, t: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
                if (step + 1) % every == 0:
                    states.append(found["latents"].clone())  # noqa: B023 - called before the loop goes on
                return {}

            pipe(said, latents=noises, output_type="latent", callback_on_step_end=keep, **call)
            about = {"teacher": teacher, "captions": json.dumps(said)}
            save_file({"states": torch.stack(states, 1)}, path.with_suffix(".tmp"), metadata=about)
            os.replace(path.with_suffix(".tmp"), path)
            print(f"teacher: {at + count} of {own['noises']} trajectories", flush=True)
        with safe_open(path, "pt") as file:
            if file.metadata()["teacher"] != teacher:
                raise SystemExit(f"{path} is of another teacher: choose another folder, or remove it")
            pieces.append(file.get_tensor("states"))
            captions += json.loads(file.metadata()["captions"])
    return torch.cat(pieces), captions


def student_of(pipe: WanPipeline, config: dict[str, Any]) -> Conditioned:
    """A model as the recipe trains it, with the weights of an exported one; its text encoder is frozen."""
    shape = config["transformer"] | config["stages"][-1]["transformer"]
    model = Conditioned(config | {"transformer": shape})
    model.text.load_state_dict(pipe.text_encoder.state_dict())
    model.transformer.load_state_dict(pipe.transformer.state_dict())
    model.text.requires_grad_(False)
    return model


def train(
    pipe: WanPipeline, config: dict[str, Any], states: Tensor, captions: list[str], folder: Path
) -> Conditioned:
    """The student, its weights averaged over the last steps."""
    own, seed = config["distillation"], config["seed"] + 2000
    torch.manual_seed(seed)
    model = student_of(pipe, config)
    run = Run(folder, "distillation", model, optimisers(model, config | own), config["ema"])
    schedule = student_scheduler(pipe.scheduler, own["call"]["num_inference_steps"])
    ids = pipe.tokenizer(captions, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    batch, steps = own["batch"], own["steps"]
    while run.step < steps:
        rng = np.random.default_rng([seed, run.step])
        chosen = torch.from_numpy(rng.choice(len(states), size=batch, replace=False))
        x, losses = states[chosen, 0], []
        for n, t in enumerate(schedule.timesteps):
            length = schedule.sigmas[n] - schedule.sigmas[n + 1]
            with mixed():
                velocity = model(x, ids[chosen], t.float().expand(batch))
            losses.append((velocity.float() - (x - states[chosen, n + 1]) / length).square().mean())
            x = (x - length * velocity.float()).detach()
        facts = {f"step {n + 1}": loss.item() for n, loss in enumerate(losses)}
        facts["end"] = (x - states[chosen, -1]).square().mean().item()
        run.advance(
            torch.stack(losses).mean(), shape_of(run.step, steps, own["warmup"], own["cooldown"]), facts
        )
    run.save()
    model.load_state_dict(run.average)
    return model.eval()


def distil(model: str, whole: dict[str, Any], out: Path) -> Path:
    """Teach a student of an exported model; the folder to which it is exported."""
    teacher = Path(locate(model))
    config = settings(whole, teacher.name)
    own = config["distillation"]
    call = json.loads((teacher / "seedbed.json").read_text())["call"]
    many, few = call["num_inference_steps"], own["call"]["num_inference_steps"]
    if many % few:
        raise SystemExit(f"{many} steps of the teacher do not divide into {few} of the student")
    out.mkdir(parents=True, exist_ok=True)
    pipe = load(model, dtype="float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    states, captions = trajectories(pipe, call, config, out)
    student = train(pipe, config, states, captions, out)
    scheduler = student_scheduler(pipe.scheduler, few)
    folder = out / f"{teacher.name}{FAST}"
    export(student, pipe.vae, config | {"call": config["call"] | own["call"]}, folder, scheduler)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the exported teacher: its folder, or an embedded model's name")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.json"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    whole = json.loads(arguments.config.read_text())
    taught = [name for name, own in whole["models"].items() if "distillation" in own]
    if Path(arguments.model).name not in taught:
        parser.error(f"{arguments.model} has no settings for a student: there is {', '.join(taught)}")
    print(distil(arguments.model, whole, arguments.out))
