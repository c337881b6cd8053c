"""Wan from an image, from a video, with its control branch, and moved by a performer.

- 2.1 from an image: the image joins the latents' channels, and goes through CLIP into attention of its own.
- 2.2 from an image: two denoisers, no CLIP; its small model has the image as the first latent frame, and a
  timestep for each token.
- from a video: noise is added to it.
- Animate: a picture moves as the people of a video do, whose faces go through an encoder in the denoiser.
"""

from typing import Any

import diffusers
from diffusers import (
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from tests.pipelines.core import CALLS, wan
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded


def image_to_video() -> WanImageToVideoPipeline:
    with seeded(41):
        config = wan().transformer.config
        return quiet(
            WanImageToVideoPipeline(
                **{
                    **wan().components,
                    # Latents, those of the image, and a mask of a channel for each frame of a latent one.
                    "transformer": WanTransformer3DModel.from_config(
                        config, in_channels=12, image_dim=16, added_kv_proj_dim=24
                    ),
                    "image_encoder": CLIPVisionModel(
                        CLIPVisionConfig(
                            hidden_size=16,
                            intermediate_size=32,
                            num_hidden_layers=2,
                            num_attention_heads=2,
                            image_size=16,
                            patch_size=8,
                        )
                    ),
                    "image_processor": CLIPImageProcessor(crop_size=16, size=16),
                }
            )
        )


def first_last_frame() -> WanImageToVideoPipeline:
    """2.1 from a first and a last image, which it looks at together: a place for the tokens of both."""
    pipe = image_to_video()
    with seeded(47):
        pipe.transformer = WanTransformer3DModel.from_config(pipe.transformer.config, pos_embed_seq_len=10)
    return quiet(pipe)


def image_to_video_22() -> WanImageToVideoPipeline:
    with seeded(42):
        config = wan().transformer.config
        denoisers = {
            name: WanTransformer3DModel.from_config(config, in_channels=12)
            for name in ("transformer", "transformer_2")
        }
        return quiet(WanImageToVideoPipeline(**{**wan().components, **denoisers}, boundary_ratio=0.9))


def image_to_video_5b() -> WanImageToVideoPipeline:
    with seeded(43):
        config = wan().transformer.config
        transformer = WanTransformer3DModel.from_config(config, patch_size=(1, 2, 2))
        return quiet(
            WanImageToVideoPipeline(**{**wan().components, "transformer": transformer}, expand_timesteps=True)
        )


def video_to_video() -> WanVideoToVideoPipeline:
    with seeded(44):
        parts = wan().components
        parts.pop("transformer_2")
        return quiet(WanVideoToVideoPipeline(**parts))


def vace() -> WanVACEPipeline:
    with seeded(45):
        # Latents of what stays and of what is made, and a mask with a channel for each pixel of a latent.
        transformer = WanVACETransformer3DModel.from_config(
            wan().transformer.config, vace_layers=[0], vace_in_channels=2 * 4 + 64
        )
        return quiet(WanVACEPipeline(**{**wan().components, "transformer": transformer}))


def animate() -> Any:
    parts = image_to_video().components
    del parts["transformer_2"]
    with seeded(46):
        transformer = diffusers.WanAnimateTransformer3DModel.from_config(
            parts["transformer"].config,
            patch_size=(1, 2, 2),
            latent_channels=4,
            motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
            motion_encoder_size=16,
            motion_style_dim=8,
            motion_dim=4,
            motion_encoder_dim=8,
            face_encoder_hidden_dim=16,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=2,
        )
    return quiet(diffusers.WanAnimatePipeline(**{**parts, "transformer": transformer}))


_VIDEO = [picture(16, seed) for seed in range(9)]
_FROM_VIDEO = dict(height=16, width=16, max_sequence_length=8, num_inference_steps=3, strength=0.7)

FAMILIES = [
    Family(
        "Wan 2.1, image to video",
        image_to_video,
        # Its attention counts on 512 tokens of text.
        {**CALLS["wan"], "max_sequence_length": 512, "image": picture(16)},
    ),
    Family(
        "Wan 2.2, image to video (two denoisers)",
        image_to_video_22,
        {**CALLS["wan"], "image": picture(16)},
    ),
    Family("Wan 2.2 5B, image to video", image_to_video_5b, {**CALLS["wan"], "image": picture(16)}),
    Family("Wan, video to video", video_to_video, {**_FROM_VIDEO, "video": _VIDEO}),
    Family("Wan VACE", vace, {**CALLS["wan"], "video": _VIDEO}),
    Family(
        "Wan 2.2 Animate",
        animate,
        dict(
            height=16,
            width=16,
            num_inference_steps=2,
            max_sequence_length=512,
            image=picture(16),
            pose_video=_VIDEO[:5],
            face_video=_VIDEO[:5],
            segment_frame_length=5,
        ),
    ),
]
