"""LTX-2: a denoiser of video and sound, which returns both, with a scheduler of its own for the sound."""

import inspect
from typing import Any

import diffusers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, picture, quiet, seeded, tokenizer


def _gemma3() -> Gemma3ForConditionalGeneration:
    text = dict(
        vocab_size=3 + len(WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = dict(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )


def ltx2() -> Any:
    with seeded(24):
        return quiet(
            diffusers.LTX2Pipeline(
                tokenizer=tokenizer(16),
                text_encoder=_gemma3(),
                connectors=diffusers.pipelines.ltx2.LTX2TextConnectors(
                    caption_channels=8,
                    # The embeddings and one layer.
                    text_proj_in_factor=2,
                    video_connector_num_attention_heads=2,
                    video_connector_attention_head_dim=4,
                    video_connector_num_layers=1,
                    video_connector_num_learnable_registers=None,
                    audio_connector_num_attention_heads=2,
                    audio_connector_attention_head_dim=4,
                    audio_connector_num_layers=1,
                    audio_connector_num_learnable_registers=None,
                    connector_rope_base_seq_len=16,
                ),
                vae=diffusers.AutoencoderKLLTX2Video(
                    latent_channels=4,
                    block_out_channels=(8,),
                    down_block_types=("LTX2VideoDownBlock3D",),
                    decoder_block_out_channels=(8,),
                    layers_per_block=(1,),
                    decoder_layers_per_block=(1, 1),
                    spatio_temporal_scaling=(True,),
                    decoder_spatio_temporal_scaling=(True,),
                    decoder_inject_noise=(False, False),
                    downsample_type=("spatiotemporal",),
                    upsample_type=("spatiotemporal",),
                    upsample_residual=(False,),
                    upsample_factor=(1,),
                    patch_size=4,
                ),
                audio_vae=diffusers.AutoencoderKLLTX2Audio(
                    base_channels=4,
                    output_channels=2,
                    ch_mult=(1,),
                    num_res_blocks=1,
                    in_channels=2,
                    resolution=32,
                    latent_channels=2,
                    sample_rate=16000,
                    mel_hop_length=160,
                    mel_bins=8,
                ),
                vocoder=diffusers.pipelines.ltx2.LTX2Vocoder(
                    in_channels=16,
                    hidden_channels=8,
                    out_channels=2,
                    upsample_kernel_sizes=[4, 4],
                    upsample_factors=[2, 2],
                    resnet_kernel_sizes=[3],
                    resnet_dilations=[[1, 3, 5]],
                ),
                transformer=diffusers.LTX2VideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    audio_in_channels=4,
                    audio_out_channels=4,
                    audio_num_attention_heads=2,
                    audio_attention_head_dim=4,
                    audio_cross_attention_dim=8,
                    num_layers=2,
                    caption_channels=8,
                    rope_double_precision=False,
                ),
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            )
        )


def image_to_video() -> Any:
    return quiet(diffusers.LTX2ImageToVideoPipeline(**ltx2().components))


def conditions() -> Any:
    kind = diffusers.LTX2ConditionPipeline
    known = inspect.signature(kind.__init__).parameters  # fewer in older versions
    return quiet(kind(**{name: part for name, part in ltx2().components.items() if name in known}))


_CALL = dict(
    height=32,
    width=32,
    num_frames=5,
    num_inference_steps=2,
    max_sequence_length=16,
    # Both kinds of guidance beside the usual one, which older versions have off by default.
    stg_scale=1.0,
    modality_scale=3.0,
    # The default names a block that only the full model has.
    spatio_temporal_guidance_blocks=[1],
)

# Newer versions compress the picture as a video by default, which takes PyAV's encoder.
_UNCOMPRESSED = (
    {"image_crf": 0}
    if "image_crf" in inspect.signature(diffusers.LTX2ImageToVideoPipeline.__call__).parameters
    else {}
)

_Condition = diffusers.pipelines.ltx2.pipeline_ltx2_condition.LTX2VideoCondition
_WHOLE = {"crf": 0} if "crf" in inspect.signature(_Condition).parameters else {}
# The first frame, and one further on, whose tokens follow those of the video.
_CONDITIONS = [_Condition(picture(32), index=0, **_WHOLE), _Condition(picture(32, 1), index=2, **_WHOLE)]

FAMILIES = [
    Family("LTX-2", ltx2, _CALL),
    Family("LTX-2, image to video", image_to_video, {**_CALL, "image": picture(32), **_UNCOMPRESSED}),
    Family("LTX-2, conditions", conditions, {**_CALL, "conditions": _CONDITIONS}),
]
