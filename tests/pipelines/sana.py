"""Sana-Video: linear self attention, which has no map, and softmax cross attention."""

from typing import Any

import diffusers
from diffusers import AutoencoderKLWan, DPMSolverMultistepScheduler
from transformers import Gemma2Config, Gemma2Model

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, quiet, seeded, tokenizer


def sana_video() -> Any:
    with seeded(25):
        return quiet(
            diffusers.SanaVideoPipeline(
                tokenizer=tokenizer(16),
                text_encoder=Gemma2Model(
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
                ),
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
                scheduler=DPMSolverMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
            )
        )


FAMILIES = [
    Family(
        "Sana-Video",
        sana_video,
        dict(
            height=32,
            width=32,
            frames=9,
            num_inference_steps=2,
            max_sequence_length=16,
            complex_human_instruction=[],
            use_resolution_binning=False,
        ),
    )
]
