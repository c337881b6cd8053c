"""Stage 3: the trained parts as one half-precision folder that the pipeline's `from_pretrained` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from denoiser import tokenizer
from families import TOKENS, Conditioned
from torch import nn


def export(
    model: Conditioned, vae: nn.Module, config: dict[str, Any], folder: Path, scheduler: Any = None
) -> None:
    """`scheduler` in place of the one that the model was trained with, for a student of few steps."""
    pipe = model.family.pipeline(
        tokenizer=tokenizer(),
        text_encoder=model.text,
        vae=vae,
        transformer=model.transformer,
        scheduler=scheduler or model.family.scheduler(config),
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(folder)
    # transformers 5 writes a tokenizer class that 4.x does not know; both know this one. It loads the text
    # encoder in the precision that its file names, where diffusers loads everything else in float32.
    edit(folder / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])
    edit(folder / "tokenizer/tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    edit(folder / "text_encoder/config.json", dtype="float32", torch_dtype="float32")
    # Where an autoencoder was read from says how often training was interrupted, and nothing of the model.
    path = folder / "vae/config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    call = {**config["call"], "max_sequence_length": TOKENS}
    (folder / "seedbed.json").write_text(
        json.dumps({"schema": "seedbed.model/1", "call": call}, indent=2) + "\n"
    )
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")
