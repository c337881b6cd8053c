"""Sana: linear self attention, which has no map, and softmax cross attention; images and videos."""

from typing import Any

import diffusers
from diffusers import AutoencoderKLWan, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from transformers import Gemma2Config, Gemma2Model

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, picture, quiet, seeded, tokenizer


def gemma2() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            vocab_size=3 + len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


def _sana_video(pipeline_class: Any, scheduler: Any) -> Any:
    with seeded(25):
        return quiet(
            pipeline_class(
                tokenizer=tokenizer(16),
                text_encoder=gemma2(),
                vae=AutoencoderKLWan(
                    base_dim=4,
                    z_dim=4,
                    dim_mult=[1, 1, 1, 1],
                    num_res_blocks=1,
                    temperal_downsample=[False, True, True],
                    latents_mean=[0.0] * 4,
                    latents_std=[1.0] * 4,
                ),
                transformer=diffusers.SanaVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=12,
                    num_layers=2,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=12,
                    cross_attention_dim=24,
                    caption_channels=16,
                    sample_size=8,
                    patch_size=(1, 2, 2),
                    qk_norm="rms_norm_across_heads",
                    rope_max_seq_len=32,
                ),
                scheduler=scheduler,
            )
        )


def sana_video() -> Any:
    return _sana_video(
        diffusers.SanaVideoPipeline,
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def image_to_video() -> Any:
    return _sana_video(diffusers.SanaImageToVideoPipeline, FlowMatchEulerDiscreteScheduler(shift=3.0))


def sana() -> Any:
    with seeded(26):
        return quiet(
            diffusers.SanaPipeline(
                tokenizer=tokenizer(16),
                text_encoder=gemma2(),
                vae=diffusers.AutoencoderDC(
                    in_channels=3,
                    latent_channels=4,
                    attention_head_dim=4,
                    encoder_block_types=("ResBlock", "EfficientViTBlock"),
                    decoder_block_types=("ResBlock", "EfficientViTBlock"),
                    encoder_block_out_channels=(8, 8),
                    decoder_block_out_channels=(8, 8),
                    encoder_layers_per_block=(1, 1),
                    decoder_layers_per_block=(1, 1),
                    encoder_qkv_multiscales=((), (5,)),
                    decoder_qkv_multiscales=((), (5,)),
                    downsample_block_type="conv",
                    upsample_block_type="interpolate",
                    decoder_norm_types="rms_norm",
                    decoder_act_fns="silu",
                ),
                transformer=diffusers.SanaTransformer2DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=2,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=8,
                    cross_attention_dim=16,
                    caption_channels=16,
                    sample_size=8,
                ),
                scheduler=DPMSolverMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
            )
        )


_CALL = dict(
    height=32,
    width=32,
    num_inference_steps=2,
    max_sequence_length=16,
    complex_human_instruction=[],
    use_resolution_binning=False,
)

FAMILIES = [
    Family("Sana-Video", sana_video, {**_CALL, "frames": 9}),
    Family("Sana-Video, image to video", image_to_video, {**_CALL, "frames": 9, "image": picture(32)}),
    Family("Sana", sana, _CALL, kind="image"),
]
