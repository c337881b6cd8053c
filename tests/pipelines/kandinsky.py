"""Kandinsky 5: self and cross attention in two stacks, latents `b f h w c`, guidance in two forwards.

The denoiser of the video models takes a picture and its mask beside the noise, zeros where there is none, so
the noise goes in where it is drawn. So it does for the model that changes a picture.
"""

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerFast

from tests.pipelines.family import Family
from tests.pipelines.images import qwen25_vl
from tests.pipelines.parts import clip, picture, quiet, seeded, tokenizer


class _Processor(PreTrainedTokenizerFast):
    """Is given pictures and videos as Qwen2VLProcessor is, and leaves them out."""

    def __call__(self, *texts: Any, images: Any = None, videos: None = None, **options: Any) -> Any:
        return super().__call__(*texts, **options)


def _transformer(visual_cond: bool) -> Any:
    model = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        visual_cond=visual_cond,
    )
    # Fresh modulations are zeros, which would leave out every block.
    for module in model.modules():
        if hasattr(module, "out_layer") and type(module).__name__.endswith("Modulation"):
            torch.nn.init.normal_(module.out_layer.weight, std=0.2)
    return model


def _parts(visual_cond: bool) -> dict[str, Any]:
    return dict(
        # The pipeline cuts off its template by the number of tokens in the real one.
        tokenizer=tokenizer(1024, _Processor),
        text_encoder=qwen25_vl(),
        tokenizer_2=tokenizer(77),
        text_encoder_2=clip(length=77),
        transformer=_transformer(visual_cond),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


def text_to_video(visual_cond: bool = True) -> Any:
    with seeded(27):
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            mid_block_add_attention=False,
        )
        return quiet(diffusers.Kandinsky5T2VPipeline(vae=vae, **_parts(visual_cond)))


def image_to_video() -> Any:
    return quiet(diffusers.Kandinsky5I2VPipeline(**text_to_video().components))


def _images(pipeline_class: type, visual_cond: bool) -> Any:
    with seeded(28):
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
        )
        pipe = quiet(pipeline_class(vae=vae, **_parts(visual_cond)))
    pipe.resolutions = [(32, 32)]  # it knows seven of about a million pixels
    return pipe


def text_to_image() -> Any:
    return _images(diffusers.Kandinsky5T2IPipeline, visual_cond=False)


def image_to_image() -> Any:
    return _images(diffusers.Kandinsky5I2IPipeline, visual_cond=True)


_CALL = dict(height=32, width=32, num_frames=5, num_inference_steps=2, max_sequence_length=128)
_IMAGE = dict(height=32, width=32, num_inference_steps=2, max_sequence_length=128)

FAMILIES = [
    Family(
        "Kandinsky 5",
        text_to_video,
        _CALL,
    ),
    # It normalises the first four frames of the latents by those that follow.
    Family(
        "Kandinsky 5, image to video",
        image_to_video,
        {**_CALL, "height": 16, "width": 16, "num_frames": 17, "image": picture(16)},
    ),
    Family("Kandinsky 5, text to image", text_to_image, _IMAGE, kind="image"),
    Family("Kandinsky 5, image to image", image_to_image, {**_IMAGE, "image": picture(32)}, kind="image"),
]
