"""ModelScope and Zeroscope: a U-Net with temporal attention, in pipelines that look at no `interrupt`.

From a video: noise is added to latents whose frames are folded into the batch.
"""

from typing import Any

from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel, VideoToVideoSDPipeline

from tests.pipelines.family import Family
from tests.pipelines.parts import clip, image_vae, picture, quiet, seeded, tokenizer


def _zeroscope(pipeline_class: type) -> Any:
    with seeded(31):
        return quiet(
            pipeline_class(
                tokenizer=tokenizer(12),
                text_encoder=clip(),
                vae=image_vae(),
                unet=UNet3DConditionModel(
                    block_out_channels=(8,),
                    layers_per_block=1,
                    sample_size=8,
                    down_block_types=("CrossAttnDownBlock3D",),
                    up_block_types=("CrossAttnUpBlock3D",),
                    cross_attention_dim=16,
                    attention_head_dim=4,
                    norm_num_groups=4,
                ),
                scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
            )
        )


def zeroscope() -> TextToVideoSDPipeline:
    return _zeroscope(TextToVideoSDPipeline)


def video_to_video() -> VideoToVideoSDPipeline:
    return _zeroscope(VideoToVideoSDPipeline)


_VIDEO = [picture(16, seed) for seed in range(2)]

FAMILIES = [
    Family(
        "ModelScope, Zeroscope", zeroscope, dict(height=16, width=16, num_frames=2, num_inference_steps=2)
    ),
    Family(
        "ModelScope, Zeroscope, video to video",
        video_to_video,
        dict(video=_VIDEO, strength=0.6, num_inference_steps=4),
    ),
]
