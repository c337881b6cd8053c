"""Lumina 2: text and image in one sequence, which refiners have seen apart; fewer keys than queries."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.pipelines.family import Family
from tests.pipelines.images import flow_vae
from tests.pipelines.parts import quiet, seeded, tokenizer
from tests.pipelines.sana import gemma2


def lumina2() -> Any:
    with seeded(63):
        return quiet(
            diffusers.Lumina2Pipeline(
                tokenizer=tokenizer(16),
                text_encoder=gemma2(),
                vae=flow_vae(),
                transformer=diffusers.Lumina2Transformer2DModel(
                    sample_size=8,
                    in_channels=4,
                    hidden_size=24,
                    num_layers=2,
                    num_refiner_layers=1,
                    num_attention_heads=2,
                    num_kv_heads=1,
                    multiple_of=16,
                    axes_dim_rope=(4, 4, 4),
                    axes_lens=(64, 16, 16),
                    cap_feat_dim=16,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            )
        )


FAMILIES = [
    Family(
        "Lumina 2",
        lumina2,
        dict(height=32, width=32, num_inference_steps=2, max_sequence_length=16, system_prompt="a"),
        kind="image",
    )
]
