"""CogView4: joint attention, the size of the picture among the conditions, flow matching."""

from typing import Any

import diffusers
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, image_vae, quiet, seeded, tokenizer


def cogview4() -> Any:
    with seeded(62):
        return quiet(
            diffusers.CogView4Pipeline(
                tokenizer=tokenizer(16),
                text_encoder=transformers.GlmModel(
                    transformers.GlmConfig(
                        vocab_size=3 + len(WORDS),
                        hidden_size=16,
                        intermediate_size=16,
                        num_hidden_layers=2,
                        num_attention_heads=2,
                        num_key_value_heads=2,
                        head_dim=8,
                        pad_token_id=0,
                    )
                ),
                vae=image_vae(),
                transformer=diffusers.CogView4Transformer2DModel(
                    patch_size=2,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    text_embed_dim=16,
                    time_embed_dim=8,
                    condition_dim=4,
                    rope_axes_dim=(16, 16),
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(
                    base_shift=0.25,
                    max_shift=0.75,
                    base_image_seq_len=256,
                    use_dynamic_shifting=True,
                    time_shift_type="linear",
                ),
            )
        )


FAMILIES = [
    Family(
        "CogView4",
        cogview4,
        dict(height=16, width=16, num_inference_steps=2, max_sequence_length=16),
        kind="image",
    )
]
