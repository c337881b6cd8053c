"""One arm of the comparison of priors, and its learning curve:

    python recipes/pyoco/arms.py --prior mixed:1 --seed 2 --out runs/pyoco/mixed-1-2

trains what `video.json` says, under another prior, with another seed, with noisier timesteps, from another
model, or with temporal convolutions in place of temporal attention. Run again, it goes on. `curve.jsonl` in
its folder has the verifier's score of the averaged weights every 300 steps: 16 captions, one noise each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.resnet import TemporalConvLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seedbed.files import write_bytes_atomically, written_whole
from seedbed.noise import NoiseRecipe, prior_named
from seedbed.pipelines.call import SCHEMA
from seedbed.pipelines.loading import load
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.progress import reporting
from seedbed.training.config import Config
from seedbed.training.data import Rows, clips_of
from seedbed.training.denoisers import Model, inflated, motion_modules
from seedbed.training.diffusion import Diffusion, forget_places
from seedbed.training.trainer import fit
from seedbed.verifiers import Frames
from seedbed.worlds import digits, shapes, verifier

VIDEO = Path(__file__).with_name("video.json")
IMAGES = {"shapes": json.loads(VIDEO.read_text())["model"], "digits": "runs/pyoco-digits-image/model"}
CONVOLUTIONS = "convolutions.safetensors"
EVERY = 300
JUDGES = {"shapes": verifier.attributes, "digits": digits.attributes}


class Convolutions(nn.Module):
    """diffusers' `TemporalConvLayer` where a motion module was: at first the identity, too."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.layer = TemporalConvLayer(width, width, norm_num_groups=groups)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        num_frames: int = 1,
        cross_attention_kwargs: Any = None,
    ) -> Tensor:
        made: Tensor = self.layer(hidden_states, num_frames)
        return made


def convolve(unet: nn.Module, seed: int) -> None:
    """Temporal convolutions in place of all temporal attention."""
    for name, module in [*unet.named_modules()]:
        if module in motion_modules(unet):
            parent = unet.get_submodule(name.rpartition(".")[0])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                made = Convolutions(module.proj_in.in_features, module.norm.num_groups)
            # A list of modules is set by number, everything else by its name.
            setattr(parent, name.rpartition(".")[2], made)


def pipeline(folder: Path, positions: int = 32) -> Any:
    """The video pipeline that an arm left; of an image model, its frames side by side."""
    pipe = load(str(folder))
    if not hasattr(pipe, "motion_adapter"):
        pipe = inflated(pipe, positions=positions)
    if (folder / CONVOLUTIONS).is_file():
        convolve(pipe.unet, 0)
        pipe.unet.load_state_dict(load_file(folder / CONVOLUTIONS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(
    pipe: Any, caption: str, prior: str, seed: int, count: int, call: dict[str, Any], batch: int = 8
) -> list[Frames]:
    """Videos of a caption from `count` noises of a prior."""
    session = Session(pipe, caption, height=32, width=32, **call)
    shape, generator = tuple(session.spec.shape), torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**31, (count,), generator=generator).tolist()
    drawn = [NoiseRecipe(each, 0, shape, prior, session.spec.frame_axis).draw() for each in seeds]
    return Rollout(session, torch.stack(drawn), batch_size=min(batch, count)).finish()


def captions_of(world: str, count: int) -> list[str]:
    """Of one object each, of the training part."""
    if world == "digits":
        return digits.captions(count, seed=0)
    return shapes.captions(count, objects=1, seed=0, held=False)


def prepared(config: Config, convolutions: bool) -> tuple[Any, Diffusion]:
    """The pipeline that an arm begins with, and its training."""
    pipe = load(config.model, dtype="float32", device="cpu")
    if config.inflate:
        pipe = inflated(pipe, **config.inflate.model_dump(), seed=config.seed)
    if convolutions:
        convolve(pipe.unet, config.seed)
    model = Model(pipe, {})
    model.to(torch.device("cpu"))
    model.denoiser.requires_grad_(True)
    clips = clips_of(config.data, config.frames)
    shape = tuple(model.encode(torch.zeros(1, config.frames, 32, 32, 3, dtype=torch.uint8)).shape[1:])
    rows = Rows(
        clips, config.frames, config.seed, config.batch, shape, model.frame_axis, prior_named(config.prior),
        stills=config.stills.share if config.stills else 0.0, dropout=config.caption_dropout,
    )  # fmt: skip
    return pipe, Diffusion(model, config, rows)


def train(config: Config, out: Path, convolutions: bool) -> None:
    pipe, task = prepared(config, convolutions)
    assert config.samples is not None
    call = {**config.samples.call, "num_frames": config.frames}
    world = getattr(config.data, "world", "shapes")
    asked = captions_of(world, 16)

    def sample(step: int) -> None:
        score = []
        for number, caption in enumerate(asked):
            frames = make(pipe, caption, config.prior, number, 1, call)
            score.append(float(JUDGES[world](frames[0][None], [caption])["score"]))
        path = out / "curve.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        there = [line for line in lines if json.loads(line)["step"] < step]
        there.append(json.dumps({"step": step, "score": score}))
        write_bytes_atomically(path, ("\n".join(there) + "\n").encode())

    with reporting(True) as show:
        content = [config.content(), convolutions]
        fit(Accelerator(cpu=True), task, config, out, content, show, sample, EVERY)
    settings = {"schema": SCHEMA, "call": {**call, "height": 32, "width": 32}, "prior": config.prior}
    with written_whole(out / "model") as partly:
        if convolutions:  # no pipeline's class has them: beside the parts that one can read
            weights = {name: each.contiguous() for name, each in pipe.unet.state_dict().items()}
            load(config.model).save_pretrained(partly)
            save_file(weights, partly / CONVOLUTIONS)
        else:
            pipe.save_pretrained(partly)
        forget_places(partly)
        (partly / "seedbed.json").write_text(json.dumps(settings, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", required=True)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="to start from, instead of the image model")
    parser.add_argument("--world", choices=["shapes", "digits"], default="shapes")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--shift", type=float, help="timesteps as dense as those of this shift")
    parser.add_argument("--convolutions", action="store_true", help="in place of temporal attention")
    given = parser.parse_args(argv)
    content = {**json.loads(VIDEO.read_text()), "prior": given.prior, "seed": given.seed}
    if given.world == "digits":
        content |= {"data": {"world": "digits", "count": 40000}, "model": IMAGES["digits"]}
    content |= {"model": given.model} if given.model else {}
    content |= {"shift": given.shift} if given.shift else {}
    if given.steps:
        content |= {"steps": given.steps, "cooldown": given.steps // 2}
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "arm.json"
    if path.is_file() and json.loads(path.read_text()) != content:
        raise SystemExit(f"{given.out} holds another arm: name another --out")
    write_bytes_atomically(path, json.dumps(content).encode())
    train(Config.load(path), given.out, given.convolutions)


if __name__ == "__main__":
    main()
