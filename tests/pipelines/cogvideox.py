"""CogVideoX from an image and from a video: what is given joins the latents' channels, or starts them."""

from diffusers import (
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
)

from tests.pipelines.core import CALLS, cogvideox
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded


def image_to_video() -> CogVideoXImageToVideoPipeline:
    with seeded(31):
        config = cogvideox().transformer.config
        transformer = CogVideoXTransformer3DModel.from_config(config, in_channels=8)
        return quiet(CogVideoXImageToVideoPipeline(**{**cogvideox().components, "transformer": transformer}))


def video_to_video() -> CogVideoXVideoToVideoPipeline:
    with seeded(32):
        return quiet(CogVideoXVideoToVideoPipeline(**cogvideox().components))


def controlled() -> CogVideoXFunControlPipeline:
    parts = image_to_video().components
    return quiet(CogVideoXFunControlPipeline(**parts))


_VIDEO = [picture(16, seed) for seed in range(9)]
_FROM_VIDEO = dict(height=16, width=16, max_sequence_length=8, num_inference_steps=3, strength=0.7)

FAMILIES = [
    Family("CogVideoX, image to video", image_to_video, {**CALLS["cogvideox"], "image": picture(16)}),
    Family(
        "CogVideoX, video to video",
        video_to_video,
        {**_FROM_VIDEO, "video": _VIDEO},
    ),
    Family(
        "CogVideoX Fun, controlled by a video",
        controlled,
        dict(height=16, width=16, max_sequence_length=8, num_inference_steps=2, control_video=_VIDEO),
    ),
]
