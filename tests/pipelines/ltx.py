"""LTX-Video from pictures: they are mixed into the initial latents, so the noise goes in where it is drawn.

- image to video: the first frame is a picture, and the scheduler sees the others alone.
- conditions: each token has a noise level of its own, and `latents` are ignored.
"""

from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline, LTXImageToVideoPipeline

from tests.pipelines.core import CALLS, ltx
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet


def image_to_video() -> LTXImageToVideoPipeline:
    return quiet(LTXImageToVideoPipeline(**ltx().components))


def conditions() -> LTXConditionPipeline:
    # It makes its own schedule.
    return quiet(LTXConditionPipeline(**{**ltx().components, "scheduler": FlowMatchEulerDiscreteScheduler()}))


_PICTURE = dict(image=picture(32))

FAMILIES = [
    Family("LTX-Video, image to video", image_to_video, {**CALLS["ltx"], **_PICTURE}),
    Family("LTX-Video, conditions", conditions, {**CALLS["ltx"], **_PICTURE}),
]
