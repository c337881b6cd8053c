"""ModelScope and Zeroscope: a U-Net with temporal attention, in a pipeline that looks at no `interrupt`."""

from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

from tests.pipelines.family import Family
from tests.pipelines.parts import clip, image_vae, quiet, seeded, tokenizer


def zeroscope() -> TextToVideoSDPipeline:
    with seeded(31):
        return quiet(
            TextToVideoSDPipeline(
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


FAMILIES = [
    Family("ModelScope, Zeroscope", zeroscope, dict(height=16, width=16, num_frames=2, num_inference_steps=2))
]
