"""Helios: long videos chunk by chunk, each from another noise and a compressed history of those before."""

from typing import Any

import diffusers

from tests.pipelines.core import wan
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded


def helios() -> Any:
    parts = wan().components
    with seeded(72):
        return quiet(
            diffusers.HeliosPipeline(
                tokenizer=parts["tokenizer"],
                text_encoder=parts["text_encoder"],
                vae=parts["vae"],
                transformer=diffusers.HeliosTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=12,
                    in_channels=4,
                    out_channels=4,
                    text_dim=16,
                    freq_dim=16,
                    ffn_dim=32,
                    num_layers=2,
                    rope_dim=(4, 4, 4),
                ),
                scheduler=diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True),
            )
        )


# One chunk.
_CALL = dict(
    height=32,
    width=32,
    num_frames=5,
    num_latent_frames_per_chunk=2,
    history_sizes=[4, 2, 1],
    num_inference_steps=2,
    max_sequence_length=8,
)

FAMILIES = [
    Family("Helios", helios, _CALL),
    Family("Helios, image to video", helios, {**_CALL, "image": picture(32)}),
]
