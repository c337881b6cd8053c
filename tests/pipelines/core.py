"""The five families that every test of the probe and of selection runs over.

They differ in what the probe must cope with:

- cogvideox: joint text and video attention, latents `b f c h w`, v-prediction.
- wan: self and cross attention, latents `b c f h w`, flow matching; `wan(two_denoisers=True)` is 2.2.
- ltx: packed latents (`b tokens channels`), masked cross attention, flow matching.
- animatediff: U-Net with spatial, cross and temporal attention; the batch is folded into frames or positions.
- sdxl: an image pipeline, U-Net, two text encoders.
"""

from collections.abc import Callable
from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPTextModelWithProjection, UMT5Config, UMT5EncoderModel

from tests.pipelines.parts import clip, image_vae, quiet, seeded, t5, tokenizer

CALLS: dict[str, dict[str, Any]] = {
    "cogvideox": dict(height=16, width=16, num_frames=9, num_inference_steps=2, max_sequence_length=8),
    "wan": dict(height=16, width=16, num_frames=9, num_inference_steps=2, max_sequence_length=8),
    "ltx": dict(height=32, width=32, num_frames=9, num_inference_steps=2, max_sequence_length=8),
    "animatediff": dict(height=16, width=16, num_frames=3, num_inference_steps=2),
    "sdxl": dict(height=16, width=16, num_inference_steps=2),
}


def cogvideox(layers: int = 3) -> CogVideoXPipeline:
    with seeded(1):
        return quiet(
            CogVideoXPipeline(
                tokenizer=tokenizer(226),
                text_encoder=t5(),
                vae=AutoencoderKLCogVideoX(
                    block_out_channels=(8, 8, 8),
                    down_block_types=("CogVideoXDownBlock3D",) * 3,
                    up_block_types=("CogVideoXUpBlock3D",) * 3,
                    latent_channels=4,
                    layers_per_block=1,
                    norm_num_groups=4,
                    temporal_compression_ratio=4,
                ),
                transformer=CogVideoXTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    in_channels=4,
                    out_channels=4,
                    time_embed_dim=8,
                    text_embed_dim=16,
                    num_layers=layers,
                    sample_width=4,
                    sample_height=4,
                    sample_frames=9,
                    patch_size=1,
                    max_text_seq_length=8,
                    spatial_interpolation_scale=1.0,
                ),
                scheduler=CogVideoXDDIMScheduler(
                    prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
                ),
            )
        )


def wan(two_denoisers: bool = False) -> WanPipeline:
    def transformer() -> WanTransformer3DModel:
        return WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )

    with seeded(2):
        return quiet(
            WanPipeline(
                tokenizer=tokenizer(512),
                text_encoder=t5(UMT5Config, UMT5EncoderModel),
                vae=AutoencoderKLWan(
                    base_dim=4,
                    z_dim=4,
                    dim_mult=[1, 1, 1, 1],
                    num_res_blocks=1,
                    temperal_downsample=[False, True, True],
                    latents_mean=[0.0] * 4,
                    latents_std=[1.0] * 4,
                ),
                transformer=transformer(),
                transformer_2=transformer() if two_denoisers else None,
                boundary_ratio=0.9 if two_denoisers else None,
                scheduler=UniPCMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
            )
        )


def ltx() -> LTXPipeline:
    with seeded(3):
        return quiet(
            LTXPipeline(
                tokenizer=tokenizer(128),
                text_encoder=t5(),
                vae=AutoencoderKLLTXVideo(
                    latent_channels=8,
                    block_out_channels=(8, 8, 8, 8),
                    decoder_block_out_channels=(8, 8, 8, 8),
                    layers_per_block=(1, 1, 1, 1, 1),
                    decoder_layers_per_block=(1, 1, 1, 1, 1),
                    spatio_temporal_scaling=(True, True, False, False),
                    decoder_spatio_temporal_scaling=(True, True, False, False),
                ),
                transformer=LTXVideoTransformer3DModel(
                    in_channels=8,
                    out_channels=8,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    num_layers=2,
                    caption_channels=16,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            )
        )


def animatediff(channels: tuple[int, ...] = (8,)) -> AnimateDiffPipeline:
    """With a level of the U-Net for each number of channels; only the first has cross-attention."""
    plain = len(channels) - 1
    with seeded(4):
        unet = UNet2DConditionModel(
            block_out_channels=channels,
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", *["DownBlock2D"] * plain),
            up_block_types=(*["UpBlock2D"] * plain, "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        adapter = MotionAdapter(
            block_out_channels=channels,
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
        )
        return quiet(
            AnimateDiffPipeline(
                tokenizer=tokenizer(12),
                text_encoder=clip(),
                vae=image_vae(),
                unet=unet,
                motion_adapter=adapter,
                scheduler=DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False),
            )
        )


def sdxl() -> StableDiffusionXLPipeline:
    with seeded(5):
        return quiet(
            StableDiffusionXLPipeline(
                tokenizer=tokenizer(12),
                tokenizer_2=tokenizer(12),
                text_encoder=clip(),
                text_encoder_2=clip(CLIPTextModelWithProjection),
                vae=image_vae(),
                unet=UNet2DConditionModel(
                    block_out_channels=(8, 16),
                    layers_per_block=1,
                    sample_size=8,
                    in_channels=4,
                    out_channels=4,
                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                    attention_head_dim=(2, 4),
                    use_linear_projection=True,
                    addition_embed_type="text_time",
                    addition_time_embed_dim=8,
                    transformer_layers_per_block=(1, 2),
                    projection_class_embeddings_input_dim=64,
                    cross_attention_dim=32,
                    norm_num_groups=4,
                ),
                scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
            )
        )


BUILDERS: dict[str, Callable[[], Any]] = {
    "cogvideox": cogvideox,
    "wan": wan,
    "ltx": ltx,
    "animatediff": animatediff,
    "sdxl": sdxl,
}
