"""Tiny models on disk, and configs that train them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from seedbed.training.config import Config
from tests.pipelines import CALLS, animatediff, cogvideox, wan
from tests.pipelines.parts import clip, image_vae, quiet, seeded, tokenizer


def image_pipeline(**unet: Any) -> StableDiffusionPipeline:
    """Text to image, two levels, latents of half the side."""
    with seeded(7):
        given: dict[str, Any] = dict(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        return quiet(
            StableDiffusionPipeline(
                tokenizer=tokenizer(12),
                text_encoder=clip(),
                vae=image_vae(),
                unet=UNet2DConditionModel(**given | unet),
                scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


MODELS: dict[str, Callable[[], Any]] = {
    "image": image_pipeline,
    "motion": lambda: animatediff((8, 16)),
    "cogvideox": cogvideox,
    "wan": wan,
}


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`model_of(kind)`: the folder of that tiny pipeline, with the call that it needs beside it."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def saved(kind: str) -> str:
        MODELS[kind]().save_pretrained(root / kind)
        call = {k: v for k, v in CALLS.get(kind, {}).items() if k == "max_sequence_length"}
        (root / kind / "seedbed.json").write_text(json.dumps({"schema": "seedbed.model/1", "call": call}))
        return str(root / kind)

    return saved


@pytest.fixture
def config_of(model_of: Callable[[str], str], tmp_path: Path) -> Callable[..., Config]:
    """`config_of(kind, **changes)`: a training of few steps on the shapes world, read from a file."""

    def made(kind: str = "motion", **changes: Any) -> Config:
        content = {
            "schema": "seedbed.training/1",
            "name": "tiny",
            "model": model_of(kind),
            "data": {"world": "shapes", "count": 8},
            "frames": {"image": 1, "motion": 4, "wan": 5, "cogvideox": 9}[kind],
            "steps": 4,
            "batch": 2,
            "lr": 0.001,
            "save_every": 2,
            "log_every": 1,
            **changes,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
        return Config.load(path)

    return made
