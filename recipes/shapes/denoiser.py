"""Stage 2: tokenizer, text encoder and transformer, trained together on the cached latents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Run, exchanged, shape_of
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from seedbed.worlds import shapes

TOKENS = 12  # two objects, "and", end of sentence
WORDS = torch.tensor([[1, 2, 4], [7, 8, 10]])  # places in a caption: colour, shape, direction of both objects
SAID = tuple(shapes.COLOURS), shapes.SHAPES, tuple(shapes.MOTIONS)


def tokenizer() -> PreTrainedTokenizerFast:
    words = " ".join([shapes.caption([thing]) for thing in shapes.all_things()] + ["and"]).split()
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(words)])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


def scheduler(config: dict[str, Any]) -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=config["zero_terminal_snr"],
        clip_sample=False,
        snr_shift_scale=1.0,
    )


class Conditioned(nn.Module):
    """Text encoder and transformer as one module, so that one average and one checkpoint hold both."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.text = T5EncoderModel(T5Config(**config["text"], tie_word_embeddings=False))
        self.transformer = CogVideoXTransformer3DModel(
            text_embed_dim=config["text"]["d_model"],
            max_text_seq_length=TOKENS,
            sample_frames=shapes.FRAMES,
            **config["transformer"],
        )

    def forward(self, noisy: torch.Tensor, ids: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.transformer(noisy, self.text(ids)[0], timestep, return_dict=False)[0]


def read_aloud(captions: list[str], tokens: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (captions, TOKENS); colour, shape and motion of both objects as numbers, -100 for none."""
    ids = [tokens(c, padding="max_length", max_length=TOKENS)["input_ids"] for c in captions]
    said = torch.full((len(captions), 2, 3), -100)
    for row, caption in zip(said, captions, strict=True):
        for of, thing in zip(row, shapes.parse(caption), strict=False):
            values = thing.colour, thing.shape, thing.motion
            of[:] = torch.tensor([names.index(value) for names, value in zip(SAID, values, strict=True)])
    return torch.tensor(ids), said


def teach_to_read(
    text: T5EncoderModel, tokens: PreTrainedTokenizerFast, lesson: dict[str, Any], seed: int
) -> float:
    """Teach the text encoder who does what, from captions alone; share of held-out captions it then reads.

    Every word that names an attribute must know colour, shape and motion of its object. Large text encoders
    have read before they meet a video; from the denoiser's loss alone this one never learned which of two
    motions belongs to which of two shapes.
    """
    torch.manual_seed(seed)
    (ids, said), (new, truth) = (
        read_aloud([c for n in (1, 2) for c in shapes.captions(10_000, objects=n, seed=0, held=held)], tokens)
        for held in (False, True)
    )
    heads = nn.ModuleList(nn.Linear(text.config.d_model, len(names)) for names in SAID)
    optimiser = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=lesson["lr"])

    def heard(ids: torch.Tensor) -> list[torch.Tensor]:
        """Of each attribute its logits, (batch, object, word, value)."""
        words = text(ids)[0][:, WORDS]
        return [head(words) for head in heads]

    for step in range(lesson["steps"]):
        some = torch.randint(len(ids), (lesson["batch"],))
        loss = torch.zeros(())
        for n, logits in enumerate(heard(ids[some])):
            target = said[some, :, n, None].expand(logits.shape[:-1])
            loss = loss + nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())
        loss.backward()
        optimiser.param_groups[0]["lr"] = lesson["lr"] * shape_of(step, lesson["steps"], 50, lesson["steps"])
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        right = torch.stack([logits.argmax(-1) for logits in heard(new)], -1) == truth[:, :, None]
    return (right | (truth < 0)[:, :, None]).all((1, 2, 3)).float().mean().item()


def finer(coarse: nn.Module, patch: int) -> dict[str, torch.Tensor]:
    """The weights of a transformer for patches of one latent pixel, from those for `patch` x `patch`.

    Where the pixels of a patch are equal, each of the new tokens says the mean of what the old one did; only
    the text weighs less in attention, among so many more.
    """
    state = dict(coarse.state_dict())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum((2, 3), keepdim=True)
    for name in ("proj_out.weight", "proj_out.bias"):
        state[name] = state[name].unflatten(0, (-1, patch * patch)).mean(1)
    return state


def loosened(caption: str, rng: np.random.Generator, share: float) -> str:
    """The caption with the motions, and the shapes, of its two objects exchanged in a `share` of all cases.

    Where only the noise tells which object a caption means, seeds differ. No held-out caption comes of it.
    """
    for attribute in ("motion", "shape"):
        if " and " in caption and rng.random() < share:
            other = exchanged(caption, attribute)
            caption = caption if shapes.held_out(shapes.parse(other)) else other
    return caption


def optimisers(model: Conditioned, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = re.search(r"transformer_blocks\.\d+\.(attn1\.to_|ff\.)", name)
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=config["lr_muon"], weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=config["lr"], betas=(0.9, 0.99), weight_decay=0.01)
    muon.param_groups[0]["base_lr"], adam.param_groups[0]["base_lr"] = config["lr_muon"], config["lr"]
    return [muon, adam]


def train(
    config: dict[str, Any], data: Path, folder: Path, name: str, start: Conditioned | None = None
) -> Conditioned:
    """Train from nothing, or from where another training ended.

    With `reading`, a new text encoder learns who does what before it meets a video; that, or the encoder of
    the other training, is then left as it is.
    """
    seed = config["seed"]
    torch.manual_seed(seed)
    model, tokens, schedule = Conditioned(config), tokenizer(), scheduler(config)
    if start is not None:
        before, now = start.transformer.config.patch_size, model.transformer.config.patch_size
        state = start.transformer.state_dict() if before == now else finer(start.transformer, before)
        model.transformer.load_state_dict(state)
    if "reading" in config:
        read = teach_to_read(model.text, tokens, config["reading"], seed + 1)
        print({"held-out captions read": read}, flush=True)
    elif start is not None:
        model.text.load_state_dict(start.text.state_dict())
    if start is not None:
        # The denoiser's loss would unteach it: trained along, its attention dies and no word knows another.
        model.text.requires_grad_(False)
    run = Run(folder, name, model, optimisers(model, config), config["ema"])
    forward = torch.compile(model) if config["compile"] else model
    latents = load_file(data)["latents"]
    captions = json.loads(data.with_suffix(".captions.json").read_text())
    batch, steps = config["batch"], config["steps"]
    while run.step < steps:
        rng = np.random.default_rng([seed, run.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(len(latents), size=batch)
        x0 = latents[torch.from_numpy(chosen)].float()
        loose = np.random.default_rng([seed, run.step, 1])
        said = [loosened(captions[i], loose, config["loose_captions"]) for i in chosen]
        said = [" and ".join(reversed(c.split(" and "))) if rng.random() < 0.5 else c for c in said]
        said = ["" if rng.random() < config["caption_dropout"] else c for c in said]
        ids = torch.tensor(tokens(said, padding="max_length", max_length=TOKENS)["input_ids"])
        # Stratified timesteps: every batch sees the whole schedule, so gradients vary less.
        t = torch.from_numpy(((rng.permutation(batch) + rng.random(batch)) / batch * 1000).astype(np.int64))
        noise = torch.randn(x0.shape, generator=generator)
        noisy, target = schedule.add_noise(x0, noise, t), schedule.get_velocity(x0, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = forward(noisy, ids, t)
        loss = (prediction.float() - target).square().mean()
        run.advance(
            loss, shape_of(run.step, steps, config["warmup"], config["cooldown"]), {"loss": loss.item()}
        )
    run.save()
    model.load_state_dict(run.average)
    return model.eval()
