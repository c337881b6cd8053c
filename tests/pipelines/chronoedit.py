"""ChronoEdit: Wan from an image, whose last frame is the edited image."""

from typing import Any

import diffusers

from tests.pipelines.core import CALLS
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded
from tests.pipelines.wan import image_to_video


def chronoedit() -> Any:
    parts = image_to_video().components
    del parts["transformer_2"]
    with seeded(47):
        transformer = diffusers.ChronoEditTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=12,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
            image_dim=16,
            added_kv_proj_dim=24,
        )
    return quiet(diffusers.ChronoEditPipeline(**{**parts, "transformer": transformer}))


FAMILIES = [
    Family(
        "ChronoEdit",
        chronoedit,
        {
            **CALLS["wan"],
            # After its first step, all frames but the first and the last are left out.
            "enable_temporal_reasoning": True,
            "num_temporal_reasoning_steps": 1,
            # Its attention counts on 512 tokens of text.
            "max_sequence_length": 512,
            "image": picture(16),
        },
    )
]
