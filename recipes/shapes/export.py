"""Stage 3: the trained parts as one half-precision folder for `CogVideoXPipeline.from_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from denoiser import TOKENS, Conditioned, scheduler, tokenizer
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline


def export(model: Conditioned, vae: AutoencoderKLCogVideoX, config: dict[str, Any], folder: Path) -> None:
    pipe = CogVideoXPipeline(
        tokenizer=tokenizer(),
        text_encoder=model.text,
        vae=vae,
        transformer=model.transformer,
        scheduler=scheduler(config["denoiser"]),
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(folder)
    # transformers 5 writes a class name that 4.x does not know; both know this one.
    for file, key in (
        (folder / "model_index.json", "tokenizer"),
        (folder / "tokenizer/tokenizer_config.json", None),
    ):
        content = json.loads(file.read_text())
        if key:
            content[key] = ["transformers", "PreTrainedTokenizerFast"]
        else:
            content["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(content, indent=2) + "\n")
    call = {**config["call"], "max_sequence_length": TOKENS}
    (folder / "seedbed.json").write_text(
        json.dumps({"schema": "seedbed.model/1", "call": call}, indent=2) + "\n"
    )
