"""Stage 2: a text encoder taught from captions alone, then the transformer on the cached latents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Run, exchanged, mixed, shape_of
from families import TOKENS, Conditioned
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.optim import _muon
from transformers import PreTrainedTokenizerFast

from seedbed.worlds import shapes

WORDS = torch.tensor([[1, 2, 4], [7, 8, 10]])  # places in a caption: colour, shape, direction of both objects
SAID = tuple(shapes.COLOURS), shapes.SHAPES, tuple(shapes.MOTIONS)


def tokenizer(sentences: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Of all words in these sentences, in their order, or of the shapes world's."""
    sentences = sentences or [shapes.caption([thing]) for thing in shapes.all_things()] + ["and"]
    words = " ".join(sentences).split()
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(words)])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


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
    model: Conditioned, tokens: PreTrainedTokenizerFast, lesson: dict[str, Any], seed: int
) -> float:
    """Teach the text encoder who does what, from captions alone; share of held-out captions it then reads.

    Every word that names an attribute must know colour, shape and motion of its object. Large text encoders
    have read before they meet a video; from the denoiser's loss alone this one never learned which of two
    motions belongs to which of two shapes.
    """
    torch.manual_seed(seed)
    text = model.text
    (ids, said), (new, truth) = (
        read_aloud([c for n in (1, 2) for c in shapes.captions(10_000, objects=n, seed=0, held=held)], tokens)
        for held in (False, True)
    )
    heads = nn.ModuleList(nn.Linear(text.config.d_model, len(names)) for names in SAID)
    optimiser = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=lesson["lr"])

    def heard(ids: torch.Tensor) -> list[torch.Tensor]:
        """Of each attribute its logits, (batch, object, word, value)."""
        words = model.family.embedded(text, ids)[:, WORDS]
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


def loosened(caption: str, rng: np.random.Generator, loose: dict[str, float]) -> str:
    """The caption with attributes of its two objects exchanged, each in its share of all cases.

    Where only the noise tells which object a caption means, seeds differ. No held-out caption comes of it.
    """
    for attribute, share in loose.items():
        if " and " in caption and rng.random() < share:
            other = exchanged(caption, attribute)
            caption = caption if shapes.held_out(shapes.parse(other)) else other
    return caption


def orthogonal(
    update: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in float32: torch's is in bfloat16, ten seconds a step without AMX."""
    a, b, c = coefficients
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if update.shape[0] > update.shape[1] else x


_muon._zeropower_via_newtonschulz = orthogonal


def optimisers(model: Conditioned, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = re.search(r"blocks\.\d+\.(attn\d\.to_|ffn?\.)", name)
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=config["lr_muon"], weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=config["lr"], betas=(0.9, 0.99), weight_decay=0.01)
    muon.param_groups[0]["base_lr"], adam.param_groups[0]["base_lr"] = config["lr_muon"], config["lr"]
    return [muon, adam]


def exported(config: dict[str, Any], folder: Path) -> Conditioned:
    """Text encoder and transformer of an exported model, as the stages it stands for would leave them."""
    last = config["stages"][config["start"]["stages"] - 1]
    model = Conditioned(config | {"transformer": config["transformer"] | last["transformer"]})
    model.transformer.load_state_dict(load_file(folder / "transformer/diffusion_pytorch_model.safetensors"))
    text = type(model.text).from_pretrained(folder / "text_encoder")
    model.text.load_state_dict(text.state_dict())
    return model.eval()


def train(
    config: dict[str, Any], stage: int, data: Path, folder: Path, before: Conditioned | None
) -> Conditioned:
    """One stage of a model's training: from nothing, or from where the stage before ended.

    From nothing, the text encoder first learns who does what; after that it is left as it is. Trained along,
    its attention dies under the denoiser's loss, and no word knows another.
    """
    own = config["stages"][stage]
    seed = config["seed"] + stage
    torch.manual_seed(seed)
    tokens = tokenizer()
    model = Conditioned(config | {"transformer": config["transformer"] | own["transformer"]})
    schedule = model.family.scheduler(config)
    if before is None:
        read = teach_to_read(model, tokens, config["reading"], seed)
        print({"held-out captions read": read}, flush=True)
    else:
        old, new = (m.transformer.config.patch_size for m in (before, model))
        state = before.transformer.state_dict()
        coarse = old if isinstance(old, int) else old[1]
        model.transformer.load_state_dict(state if old == new else model.family.finer(state, coarse))
        model.text.load_state_dict(before.text.state_dict())
    model.text.requires_grad_(False)
    run = Run(folder, f"stage-{stage}", model, optimisers(model, config), config["ema"])
    latents = load_file(data)["latents"]
    captions = json.loads(data.with_suffix(".captions.json").read_text())
    batch, steps = own["batch"], own["steps"]
    while run.step < steps:
        rng = np.random.default_rng([seed, run.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(len(latents), size=batch)
        x0 = latents[torch.from_numpy(chosen)].float()
        loose = np.random.default_rng([seed, run.step, 1])
        said = [loosened(captions[i], loose, config["loose"]) for i in chosen]
        said = [" and ".join(reversed(c.split(" and "))) if rng.random() < 0.5 else c for c in said]
        said = ["" if rng.random() < config["caption_dropout"] else c for c in said]
        ids = torch.tensor(tokens(said, padding="max_length", max_length=TOKENS)["input_ids"])
        # Stratified timesteps: every batch sees the whole schedule, so gradients vary less.
        share = torch.from_numpy((rng.permutation(batch) + rng.random(batch)) / batch).float()
        noise = torch.randn(x0.shape, generator=generator)
        noisy, target, t = model.family.noised(schedule, x0, noise, share)
        with mixed():
            prediction = model(noisy, ids, t)
        loss = (prediction.float() - target).square().mean()
        run.advance(loss, shape_of(run.step, steps, own["warmup"], own["cooldown"]), {"loss": loss.item()})
    run.save()
    model.load_state_dict(run.average)
    return model.eval()
