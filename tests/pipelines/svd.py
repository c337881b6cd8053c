"""Stable Video Diffusion: an image and no prompt; spatial, cross and temporal attention; `b f c h w`."""

from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded


def svd() -> StableVideoDiffusionPipeline:
    with seeded(30):
        return quiet(
            StableVideoDiffusionPipeline(
                image_encoder=CLIPVisionModelWithProjection(
                    CLIPVisionConfig(
                        hidden_size=16,
                        intermediate_size=16,
                        num_hidden_layers=1,
                        num_attention_heads=2,
                        # The pipeline makes its image this large for the encoder.
                        image_size=224,
                        patch_size=112,
                        projection_dim=16,
                    )
                ),
                feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
                vae=AutoencoderKLTemporalDecoder(
                    # Its norms have 32 groups.
                    block_out_channels=(32, 32),
                    down_block_types=("DownEncoderBlock2D",) * 2,
                    latent_channels=4,
                    layers_per_block=1,
                ),
                unet=UNetSpatioTemporalConditionModel(
                    block_out_channels=(32, 32),
                    layers_per_block=1,
                    sample_size=8,
                    in_channels=8,
                    out_channels=4,
                    down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                    up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                    cross_attention_dim=16,
                    num_attention_heads=2,
                    projection_class_embeddings_input_dim=24,
                    addition_time_embed_dim=8,
                ),
                scheduler=EulerDiscreteScheduler(
                    beta_schedule="scaled_linear",
                    prediction_type="v_prediction",
                    timestep_spacing="leading",
                    timestep_type="continuous",
                    use_karras_sigmas=True,
                    sigma_min=0.002,
                    sigma_max=700.0,
                ),
            )
        )


FAMILIES = [
    Family(
        "Stable Video Diffusion",
        svd,
        dict(image=picture(16), height=16, width=16, num_frames=3, num_inference_steps=2),
        prompt=None,
    )
]
