"""SkyReels-V2: Wan's design; with diffusion forcing each latent frame has a noise level of its own.

From an image or a video, diffusion forcing takes those frames as denoised ones, and steps the others alone.
"""

from typing import Any

from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)

from tests.pipelines.core import CALLS, wan
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded
from tests.pipelines.wan import image_to_video as wan_from_image


def _parts(**config: Any) -> dict[str, Any]:
    parts = wan().components
    del parts["transformer_2"]
    transformer = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **{"in_channels": 4, **config},
    )
    return {**parts, "transformer": transformer}


def text_to_video() -> SkyReelsV2Pipeline:
    with seeded(51):
        return quiet(SkyReelsV2Pipeline(**_parts()))


def diffusion_forcing() -> SkyReelsV2DiffusionForcingPipeline:
    with seeded(52):
        return quiet(SkyReelsV2DiffusionForcingPipeline(**_parts(inject_sample_info=True)))


def image_to_video() -> SkyReelsV2ImageToVideoPipeline:
    parts = wan_from_image().components
    with seeded(53):
        # As Wan's: latents, those of the image, and a mask.
        return quiet(
            SkyReelsV2ImageToVideoPipeline(
                image_encoder=parts["image_encoder"],
                image_processor=parts["image_processor"],
                **_parts(in_channels=12, image_dim=16, added_kv_proj_dim=24),
            )
        )


def diffusion_forcing_from_image() -> SkyReelsV2DiffusionForcingImageToVideoPipeline:
    with seeded(54):
        return quiet(SkyReelsV2DiffusionForcingImageToVideoPipeline(**_parts(inject_sample_info=True)))


def diffusion_forcing_from_video() -> SkyReelsV2DiffusionForcingVideoToVideoPipeline:
    with seeded(55):
        return quiet(SkyReelsV2DiffusionForcingVideoToVideoPipeline(**_parts(inject_sample_info=True)))


_CALL = {**CALLS["wan"], "height": 32, "width": 32}
_GIVEN = picture(16)

FAMILIES = [
    Family("SkyReels-V2", text_to_video, _CALL),
    Family("SkyReels-V2, diffusion forcing", diffusion_forcing, _CALL),
    Family(
        "SkyReels-V2, image to video",
        image_to_video,
        # Its attention counts on 512 tokens of text.
        {**CALLS["wan"], "max_sequence_length": 512, "image": _GIVEN},
    ),
    Family(
        "SkyReels-V2, diffusion forcing, image to video",
        diffusion_forcing_from_image,
        {**CALLS["wan"], "image": _GIVEN},
    ),
    Family(
        "SkyReels-V2, diffusion forcing, video to video",
        diffusion_forcing_from_video,
        {**CALLS["wan"], "num_frames": 13, "video": [_GIVEN] * 5, "overlap_history": 5},
    ),
]
