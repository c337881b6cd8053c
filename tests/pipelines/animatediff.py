"""AnimateDiff over SDXL: the motion modules of `core.animatediff` in the U-Net of `core.sdxl`."""

from diffusers import AnimateDiffSDXLPipeline, DDIMScheduler, MotionAdapter

from tests.pipelines.core import sdxl
from tests.pipelines.family import Family
from tests.pipelines.parts import quiet, seeded


def animatediff_sdxl() -> AnimateDiffSDXLPipeline:
    image = sdxl()
    with seeded(31):
        return quiet(
            AnimateDiffSDXLPipeline(
                **{name: part for name, part in image.components.items() if name != "scheduler"},
                motion_adapter=MotionAdapter(
                    block_out_channels=(8, 16),
                    motion_layers_per_block=1,
                    motion_norm_num_groups=4,
                    motion_num_attention_heads=2,
                    use_motion_mid_block=False,
                ),
                scheduler=DDIMScheduler(
                    beta_schedule="linear", steps_offset=1, clip_sample=False, timestep_spacing="linspace"
                ),
            )
        )


FAMILIES = [
    Family(
        "AnimateDiff (SDXL)",
        animatediff_sdxl,
        dict(height=16, width=16, num_frames=3, num_inference_steps=2),
    )
]
