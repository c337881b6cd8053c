"""Stage 2: tokenizer, text encoder and transformer, trained together on the cached latents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Run, shape_of
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from seedbed.worlds import shapes

TOKENS = 12  # two objects, "and", end of sentence


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
            spatial_interpolation_scale=1.0,
            **config["transformer"],
        )

    def forward(self, noisy: torch.Tensor, ids: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.transformer(noisy, self.text(ids)[0], timestep, return_dict=False)[0]


def optimisers(model: Conditioned, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = re.search(r"transformer_blocks\.\d+\.(attn1\.to_|ff\.)", name)
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=config["lr_muon"], weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=config["lr"], betas=(0.9, 0.99), weight_decay=0.01)
    muon.param_groups[0]["base_lr"], adam.param_groups[0]["base_lr"] = config["lr_muon"], config["lr"]
    return [muon, adam]


def train(config: dict[str, Any], data: Path, folder: Path, name: str) -> Conditioned:
    seed = config["seed"]
    torch.manual_seed(seed)
    model = Conditioned(config)
    run = Run(folder, name, model, optimisers(model, config), config["ema"])
    forward = torch.compile(model) if config["compile"] else model
    latents = load_file(data)["latents"]
    captions = json.loads(data.with_suffix(".captions.json").read_text())
    tokens, schedule = tokenizer(), scheduler(config)
    encode = {c: tokens(c, padding="max_length", max_length=TOKENS)["input_ids"] for c in {*captions, ""}}
    encode |= {
        swapped: tokens(swapped, padding="max_length", max_length=TOKENS)["input_ids"]
        for swapped in {" and ".join(reversed(c.split(" and "))) for c in captions}
    }
    batch, steps = config["batch"], config["steps"]
    while run.step < steps:
        rng = np.random.default_rng([seed, run.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(len(latents), size=batch)
        x0 = latents[torch.from_numpy(chosen)].float()
        said = [captions[i] for i in chosen]
        said = [" and ".join(reversed(c.split(" and "))) if rng.random() < 0.5 else c for c in said]
        said = ["" if rng.random() < config["caption_dropout"] else c for c in said]
        ids = torch.tensor([encode[c] for c in said])
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
