"""Motif-Video: joint attention in two kinds of blocks, cross attention to the text besides, a guider."""

from typing import Any

import diffusers
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import SiglipImageProcessor

from tests.pipelines.core import CALLS, wan
from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, picture, quiet, seeded, tokenizer


def _t5_gemma2() -> Any:
    # Text goes through it, and a picture through its eyes.
    config = transformers.T5Gemma2EncoderConfig(
        text_config=dict(
            vocab_size=3 + len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            query_pre_attn_scalar=8,
            dropout_rate=0.0,
        ),
        vision_config=dict(
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=16,
            patch_size=8,
            vision_use_head=False,
        ),
        mm_tokens_per_image=4,
        image_token_index=2,
        boi_token_index=2,
        eoi_token_index=2,
    )
    return transformers.T5Gemma2Encoder(config, eoi_token_index=2)


def _parts(**config: Any) -> dict[str, Any]:
    return dict(
        vae=wan().vae,
        text_encoder=_t5_gemma2(),
        tokenizer=tokenizer(32),
        # Latents, those of the image and a mask.
        transformer=diffusers.MotifVideoTransformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=2,
            num_decoder_layers=1,
            patch_size=1,
            text_embed_dim=16,
            rope_axes_dim=(4, 4, 4),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
            **config,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=4.0),
    )


def text_to_video() -> Any:
    with seeded(70):
        return quiet(diffusers.MotifVideoPipeline(**_parts()))


def image_to_video() -> Any:
    with seeded(71):
        return quiet(
            diffusers.MotifVideoImage2VideoPipeline(
                **_parts(image_embed_dim=8),
                feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
            )
        )


FAMILIES = [
    Family("Motif-Video", text_to_video, CALLS["wan"]),
    Family("Motif-Video, image to video", image_to_video, {**CALLS["wan"], "image": picture(16)}),
]
