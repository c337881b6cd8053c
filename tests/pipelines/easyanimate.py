"""EasyAnimate: joint attention with two streams, text from a language model with eyes.

Inpainting takes a video and what to replace in it.
"""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, quiet, seeded, tokenizer


def _qwen2_vl() -> Qwen2VLForConditionalGeneration:
    """Text alone goes through it, so its eyes are as small as they can be."""
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=dict(
                vocab_size=3 + len(WORDS),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            ),
            vision_config=dict(depth=1, embed_dim=16, hidden_size=16, num_heads=2),
            vision_start_token_id=2,
            vision_end_token_id=2,
            image_token_id=2,
            video_token_id=2,
        )
    )


def easyanimate() -> EasyAnimatePipeline:
    words = tokenizer(32)
    words.chat_template = "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
    with seeded(26):
        return quiet(
            EasyAnimatePipeline(
                tokenizer=words,
                text_encoder=_qwen2_vl(),
                vae=AutoencoderKLMagvit(
                    latent_channels=4,
                    block_out_channels=(8, 8, 8, 8),
                    layers_per_block=1,
                    norm_num_groups=2,
                    spatial_group_norm=False,
                ),
                transformer=EasyAnimateTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=16,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    mmdit_layers=2,
                    patch_size=2,
                    time_embed_dim=8,
                    text_embed_dim=16,
                    sample_width=4,
                    sample_height=4,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(),
            )
        )


def inpainting() -> EasyAnimateInpaintPipeline:
    parts = easyanimate().components
    with seeded(29):
        # Latents, those of the video, and a mask in as many channels.
        transformer = EasyAnimateTransformer3DModel.from_config(
            parts["transformer"].config, in_channels=12, resize_inpaint_mask_directly=False
        )
        return quiet(EasyAnimateInpaintPipeline(**{**parts, "transformer": transformer}))


def _video_and_mask() -> dict[str, Any]:
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 5, 32, 32)
    mask[..., 16:] = 255
    return dict(video=video, mask_video=mask)


# Without a negative prompt, its own call fails under guidance.
_CALL = dict(height=32, width=32, num_frames=5, num_inference_steps=2, negative_prompt="")

FAMILIES = [
    Family("EasyAnimate", easyanimate, _CALL),
    Family("EasyAnimate, inpainting", inpainting, {**_CALL, **_video_and_mask()}),
]
