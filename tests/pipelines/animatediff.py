"""AnimateDiff: motion modules in the U-Net of SDXL, and all that can be done to that of SD 1.5.

- video to video: noise is added to latents `b f c h w`, which the pipeline turns into `b c f h w`.
- controlled by a video or by single frames: a second network runs before the denoiser in every step.
- PAG: sets attention processors of its own while it runs.
- LCM: few steps, and noise from the generator between them.
- cascade: more networks, which seedbed itself adds, after the denoiser has run.
"""

from typing import Any

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    ControlNetModel,
    DDIMScheduler,
    LCMScheduler,
    MotionAdapter,
    SparseControlNetModel,
    UNet2DConditionModel,
    UNetMotionModel,
)

from seedbed.pipelines.cascade import STAGES, CascadePipeline
from tests.pipelines.core import animatediff, sdxl
from tests.pipelines.family import Family
from tests.pipelines.parts import awake, clip, image_vae, picture, quiet, seeded, tokenizer


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


_BLOCKS: dict[str, Any] = dict(
    block_out_channels=(8,), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4
)


def _over_sd15(pipeline_class: type, **others: Any) -> Any:
    with seeded(32):
        parts = dict(
            tokenizer=tokenizer(12),
            text_encoder=clip(),
            vae=image_vae(),
            unet=UNet2DConditionModel(
                **_BLOCKS,
                sample_size=8,
                down_block_types=("CrossAttnDownBlock2D",),
                up_block_types=("CrossAttnUpBlock2D",),
                attention_head_dim=2,
            ),
            motion_adapter=MotionAdapter(
                block_out_channels=(8,),
                motion_layers_per_block=1,
                motion_norm_num_groups=4,
                motion_num_attention_heads=2,
            ),
            scheduler=DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False),
        )
        return quiet(pipeline_class(**parts | others))


def lcm() -> AnimateDiffPipeline:
    return _over_sd15(AnimateDiffPipeline, scheduler=LCMScheduler(beta_schedule="linear"))


def video_to_video() -> AnimateDiffVideoToVideoPipeline:
    return _over_sd15(AnimateDiffVideoToVideoPipeline)


def pag() -> AnimateDiffPAGPipeline:
    return _over_sd15(AnimateDiffPAGPipeline)


def controlled() -> AnimateDiffControlNetPipeline:
    with seeded(33):
        net = ControlNetModel(
            **_BLOCKS,
            down_block_types=("CrossAttnDownBlock2D",),
            attention_head_dim=2,
            conditioning_embedding_out_channels=(8, 8),
        )
        return _over_sd15(AnimateDiffControlNetPipeline, controlnet=awake(net))


def sparsely_controlled() -> AnimateDiffSparseControlNetPipeline:
    with seeded(34):
        net = SparseControlNetModel(
            **_BLOCKS,
            down_block_types=("CrossAttnDownBlockMotion",),
            num_attention_heads=2,
            motion_num_attention_heads=2,
            conditioning_embedding_out_channels=(8, 8),
        )
        return _over_sd15(AnimateDiffSparseControlNetPipeline, controlnet=awake(net))


def stage(channels: int) -> UNetMotionModel:
    """A cascade's network for so many channels."""
    return UNetMotionModel(
        **_BLOCKS,
        in_channels=2 * channels + 1,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlockMotion",),
        up_block_types=("CrossAttnUpBlockMotion",),
        num_attention_heads=2,
        motion_num_attention_heads=2,
    )


def cascade(**factors: int) -> CascadePipeline:
    """The stages that are named, all of them else, after a base."""
    factors = factors or dict.fromkeys(STAGES, 2)
    base = animatediff()
    with seeded(35):
        networks = {name: stage(4 if name == "interpolation" else 3) for name in factors}
    return quiet(
        CascadePipeline(
            **base.components,
            **networks,
            **{f"{name}_scheduler": DDIMScheduler(clip_sample=False, steps_offset=1) for name in factors},
            stages={
                name: {"factor": factor} | ({} if name == "interpolation" else {"augmentation": 0.4})
                for name, factor in factors.items()
            },
        )
    )


_SIZE = dict(height=16, width=16, num_inference_steps=2)
_VIDEO = [picture(16, seed) for seed in range(3)]

FAMILIES = [
    Family("AnimateDiff (SDXL)", animatediff_sdxl, {**_SIZE, "num_frames": 3}),
    Family("AnimateDiff, LCM", lcm, {**_SIZE, "num_frames": 2}),
    Family("AnimateDiff, video to video", video_to_video, {**_SIZE, "video": _VIDEO, "strength": 1.0}),
    Family("AnimateDiff, PAG", pag, {**_SIZE, "num_frames": 2}),
    Family(
        "AnimateDiff, controlled by a video",
        controlled,
        {**_SIZE, "num_frames": 3, "conditioning_frames": _VIDEO},
    ),
    Family(
        "AnimateDiff, controlled by single frames",
        sparsely_controlled,
        {**_SIZE, "num_frames": 2, "conditioning_frames": _VIDEO[:1], "controlnet_frame_indices": [1]},
    ),
    Family(
        "AnimateDiff, cascade",
        lambda: cascade(interpolation=2, super_resolution=2),
        {**_SIZE, "num_frames": 2, "stage_steps": 1},
    ),
]
