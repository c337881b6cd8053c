"""Pipelines that make images: U-Nets, joint attention in one stream or two, packed latents, lists of rows."""

from typing import Any

import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import CLIPTextModelWithProjection

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, clip, image_vae, quiet, seeded, t5, tokenizer


def sd15() -> StableDiffusionPipeline:
    with seeded(40):
        return quiet(
            StableDiffusionPipeline(
                tokenizer=tokenizer(12),
                text_encoder=clip(),
                vae=image_vae(),
                unet=UNet2DConditionModel(
                    block_out_channels=(8, 16),
                    layers_per_block=1,
                    sample_size=8,
                    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                    cross_attention_dim=16,
                    attention_head_dim=2,
                    norm_num_groups=4,
                ),
                scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


def latent_consistency() -> LatentConsistencyModelPipeline:
    with seeded(46):
        return quiet(
            LatentConsistencyModelPipeline(
                tokenizer=tokenizer(12),
                text_encoder=clip(),
                vae=image_vae(),
                unet=UNet2DConditionModel(
                    block_out_channels=(8, 16),
                    layers_per_block=1,
                    sample_size=8,
                    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                    cross_attention_dim=16,
                    attention_head_dim=2,
                    norm_num_groups=4,
                    # The guidance scale goes in here.
                    time_cond_proj_dim=8,
                ),
                scheduler=LCMScheduler(beta_schedule="scaled_linear"),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


def flow_vae(latent_channels: int = 4) -> AutoencoderKL:
    """As those of SD3 and later: shifted latents, and no convolutions around them."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1,
        scaling_factor=1.5,
    )


def sd3() -> StableDiffusion3Pipeline:
    with seeded(41):
        return quiet(
            StableDiffusion3Pipeline(
                tokenizer=tokenizer(12),
                tokenizer_2=tokenizer(12),
                tokenizer_3=tokenizer(12),
                text_encoder=clip(CLIPTextModelWithProjection),
                text_encoder_2=clip(CLIPTextModelWithProjection),
                text_encoder_3=t5(width=32),
                vae=flow_vae(),
                transformer=SD3Transformer2DModel(
                    sample_size=8,
                    patch_size=2,
                    in_channels=4,
                    out_channels=4,
                    num_layers=3,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    caption_projection_dim=16,
                    pooled_projection_dim=32,
                    pos_embed_max_size=8,
                    # SD 3.5 has these; they are the self attention beside the joint one.
                    dual_attention_layers=(0,),
                    qk_norm="rms_norm",
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            )
        )


def _pixart(pipeline_class: type) -> Any:
    with seeded(42):
        return quiet(
            pipeline_class(
                tokenizer=tokenizer(12),
                text_encoder=t5(),
                vae=image_vae(),
                transformer=PixArtTransformer2DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    in_channels=4,
                    out_channels=8,
                    num_layers=2,
                    cross_attention_dim=16,
                    sample_size=8,
                    patch_size=2,
                    caption_channels=16,
                    use_additional_conditions=False,
                ),
                scheduler=DPMSolverMultistepScheduler(beta_schedule="linear"),
            )
        )


def pixart_alpha() -> PixArtAlphaPipeline:
    return _pixart(PixArtAlphaPipeline)


def pixart_sigma() -> PixArtSigmaPipeline:
    return _pixart(PixArtSigmaPipeline)


def flux(distilled: bool = True) -> FluxPipeline:
    with seeded(43):
        return quiet(
            FluxPipeline(
                tokenizer=tokenizer(12),
                tokenizer_2=tokenizer(12),
                text_encoder=clip(),
                text_encoder_2=t5(),
                vae=flow_vae(),
                transformer=FluxTransformer2DModel(
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    pooled_projection_dim=16,
                    axes_dims_rope=(4, 4, 8),
                    guidance_embeds=distilled,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            )
        )


def qwen25_vl() -> Any:
    """Text alone goes through it, so its eyes are as small as they can be."""
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=3 + len(WORDS),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            rope_theta=1e6,
        ),
        vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16),
        vision_start_token_id=2,
        vision_end_token_id=2,
        vision_token_id=2,
        image_token_id=2,
        video_token_id=2,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen_image() -> QwenImagePipeline:
    with seeded(44):
        return quiet(
            QwenImagePipeline(
                tokenizer=tokenizer(12),
                text_encoder=qwen25_vl(),
                vae=AutoencoderKLQwenImage(
                    base_dim=8,
                    z_dim=4,
                    dim_mult=[1, 1],
                    num_res_blocks=1,
                    temperal_downsample=[False],
                    latents_mean=[0.0] * 4,
                    latents_std=[1.0] * 4,
                ),
                transformer=QwenImageTransformer2DModel(
                    patch_size=2,
                    in_channels=16,
                    out_channels=4,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    axes_dims_rope=(4, 4, 8),
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
            )
        )


def z_image() -> ZImagePipeline:
    words = tokenizer(12)
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with seeded(45):
        return quiet(
            ZImagePipeline(
                tokenizer=words,
                text_encoder=transformers.Qwen3Model(
                    transformers.Qwen3Config(
                        vocab_size=3 + len(WORDS),
                        hidden_size=16,
                        intermediate_size=16,
                        num_hidden_layers=2,
                        num_attention_heads=2,
                        num_key_value_heads=2,
                        head_dim=8,
                    )
                ),
                vae=flow_vae(),
                transformer=ZImageTransformer2DModel(
                    in_channels=4,
                    dim=16,
                    n_layers=2,
                    n_refiner_layers=1,
                    n_heads=1,
                    n_kv_heads=1,
                    cap_feat_dim=16,
                    axes_dims=[4, 4, 8],
                    axes_lens=[64, 16, 16],
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            )
        )


_SIZE = dict(height=16, width=16, num_inference_steps=2)

FAMILIES = [
    Family("SD 1.5", sd15, _SIZE, kind="image"),
    Family("Latent consistency (SD 1.5)", latent_consistency, _SIZE, kind="image"),
    Family("SD 3 and 3.5", sd3, _SIZE, kind="image"),
    Family("PixArt-α", pixart_alpha, {**_SIZE, "use_resolution_binning": False}, kind="image"),
    Family("PixArt-Σ", pixart_sigma, {**_SIZE, "use_resolution_binning": False}, kind="image"),
    Family("FLUX.1 dev", flux, {**_SIZE, "max_sequence_length": 12}, kind="image"),
    Family("FLUX.1 schnell", lambda: flux(False), {**_SIZE, "max_sequence_length": 12}, kind="image"),
    Family("Qwen-Image", qwen_image, {**_SIZE, "negative_prompt": "blue"}, kind="image"),
    Family("Z-Image", z_image, {**_SIZE, "max_sequence_length": 12}, kind="image"),
]
