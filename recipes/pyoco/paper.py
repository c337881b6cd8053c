"""What a cascade of the paper's sizes costs, from its shapes alone: `python recipes/pyoco/paper.py`.

16 × 64 × 64 → 76 × 64 × 64 → 76 × 256 × 256 → 76 × 1024 × 1024 (arXiv 2305.10474). Nothing is computed and no
weights are made: everything is on torch's device "meta".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNetMotionModel
from torch.utils.flop_counter import FlopCounterMode

from seedbed.pipelines.cascade import INTERPOLATION, CascadePipeline
from seedbed.training.config import Network
from seedbed.training.stages import stage_network, stage_scheduler

CONFIG = Path(__file__).with_name("paper.json")


def built(config: dict[str, Any]) -> CascadePipeline:
    """The cascade without text encoder and tokenizer, without data."""
    inner, text, stages = config["autoencoder"], config["text"], config["stages"]
    levels = len(inner["block_out_channels"])
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **inner,
        )
        channels = {name: 4 if name == INTERPOLATION else 3 for name in stages}
        networks = {
            name: stage_network(Network.model_validate(stage["network"]), channels[name], text)
            for name, stage in stages.items()
        }
        base = UNetMotionModel(cross_attention_dim=text, **config["base"])
    return CascadePipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=base,
        scheduler=DDIMScheduler(),
        **networks,
        **{f"{name}_scheduler": stage_scheduler() for name in stages},
        stages={name: {"factor": stage["factor"]} for name, stage in stages.items()},
    )


def costs(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Each network's size in pixels, its parameters, and operations of evaluating one row."""
    pipe, found = built(config), []
    for name, (frames, height, width) in pipe.sizes(
        *(config[k] for k in ("frames", "height", "width"))
    ).items():
        network = getattr(pipe, name)
        shrunk = pipe.vae_scale_factor if name in ("unet", INTERPOLATION) else 1
        shape = (1, network.config.in_channels, frames, height // shrunk, width // shrunk)
        words = torch.empty(frames, config["tokens"], config["text"], device="meta")
        timestep = torch.zeros((), dtype=torch.long, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made = network(torch.empty(shape, device="meta"), timestep, words, return_dict=False)[0]
        found.append(
            {
                "network": name,
                "size": (frames, height, width),
                "makes": tuple(made.shape[1:]),
                "parameters": sum(each.numel() for each in network.parameters()),
                "operations": counter.get_total_flops(),
                "first layer": counter.get_flop_counts()[f"{type(network).__name__}.conv_in"],
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """As the page has it."""
    lines = [
        "| network | frames × height × width | makes | parameters, M | TFLOP an evaluation |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        size, makes = (" × ".join(map(str, row[key])) for key in ("size", "makes"))
        counted = f"{row['parameters'] / 1e6:.0f} | {row['operations'] / 1e12:.3g}"
        lines.append(f"| `{row['network']}` | {size} | {makes} | {counted} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    print(table(costs(json.loads(parser.parse_args().config.read_text()))))
