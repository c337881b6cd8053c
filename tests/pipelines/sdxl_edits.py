"""SDXL from a picture: noise is added to all of it, or to what a mask leaves open."""

from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline

from tests.pipelines.core import sdxl
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet


def image_to_image() -> StableDiffusionXLImg2ImgPipeline:
    return quiet(StableDiffusionXLImg2ImgPipeline(**sdxl().components))


def inpainting() -> StableDiffusionXLInpaintPipeline:
    return quiet(StableDiffusionXLInpaintPipeline(**sdxl().components))


_PICTURE = dict(image=picture(16), num_inference_steps=4, strength=0.6)

FAMILIES = [
    Family("SDXL, image to image", image_to_image, _PICTURE, kind="image"),
    Family(
        "SDXL, inpainting",
        inpainting,
        {**_PICTURE, "mask_image": picture(16, seed=1).convert("L"), "height": 16, "width": 16},
        kind="image",
    ),
]
