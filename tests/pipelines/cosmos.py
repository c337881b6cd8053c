"""Cosmos: world models.

- 1: two scheduler calls in a step, which preconditions the denoiser's output first. From a picture or video:
  noise of the generator is added to its latents in every step.
- 2: a given picture's latents replace the first frames of every input.
- 2.5: the denoiser is told of the noise level of every frame.
- 3: words and video are one packed sequence without a batch, and the denoiser returns lists of what it made.
"""

from typing import Any

import diffusers
from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLWan,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from tests.pipelines.family import Family
from tests.pipelines.images import qwen25_vl
from tests.pipelines.parts import WORDS, picture, quiet, seeded, t5, tokenizer


class Harmless(ModelMixin, ConfigMixin):
    """In place of the guardrail, which is no part of diffusers. Pipelines ask every model for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Linear(1, 1)

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def _transformer(channels: int, text: int = 16, **options: Any) -> CosmosTransformer3DModel:
    return CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=text,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        # Resizing it takes torchvision.
        concat_padding_mask=False,
        **options,
    )


def _wan_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _cosmos1(pipeline_class: type, channels: int) -> Any:
    with seeded(28):
        return quiet(
            pipeline_class(
                tokenizer=tokenizer(16),
                text_encoder=t5(),
                transformer=_transformer(channels, extra_pos_embed_type="learnable"),
                vae=AutoencoderKLCosmos(
                    latent_channels=4,
                    encoder_block_out_channels=(8, 8, 8, 8),
                    decode_block_out_channels=(8, 8, 8, 8),
                    attention_resolutions=(8,),
                    resolution=64,
                    num_layers=1,
                    patch_size=4,
                    spatial_compression_ratio=4,
                    temporal_compression_ratio=4,
                    latents_mean=None,
                    latents_std=None,
                ),
                scheduler=EDMEulerScheduler(
                    sigma_min=0.002,
                    sigma_max=80,
                    sigma_data=0.5,
                    sigma_schedule="karras",
                    num_train_timesteps=1000,
                    prediction_type="epsilon",
                    rho=7.0,
                    final_sigmas_type="sigma_min",
                ),
                safety_checker=Harmless(),
            )
        )


def text_to_world() -> CosmosTextToWorldPipeline:
    return _cosmos1(CosmosTextToWorldPipeline, 4)


def from_a_picture() -> CosmosVideoToWorldPipeline:
    return _cosmos1(CosmosVideoToWorldPipeline, 5)


def video_to_world() -> Any:
    with seeded(29):
        return quiet(
            diffusers.Cosmos2VideoToWorldPipeline(
                tokenizer=tokenizer(16),
                text_encoder=t5(),
                transformer=_transformer(5, extra_pos_embed_type=None),
                vae=_wan_vae(),
                scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
                safety_checker=Harmless(),
            )
        )


def predict() -> Any:
    words = tokenizer(16)
    words.chat_template = "{% for m in messages %}{{ m['content'][0]['text'] }} {% endfor %}"
    with seeded(30):
        return quiet(
            diffusers.Cosmos2_5_PredictBasePipeline(
                tokenizer=words,
                text_encoder=qwen25_vl(),
                transformer=_transformer(
                    5,
                    text=32,
                    extra_pos_embed_type=None,
                    use_crossattn_projection=True,
                    crossattn_proj_in_channels=32,
                    encoder_hidden_states_channels=32,
                ),
                vae=_wan_vae(),
                scheduler=UniPCMultistepScheduler(
                    prediction_type="flow_prediction",
                    use_flow_sigmas=True,
                    use_karras_sigmas=True,
                    sigma_max=200.0,
                    sigma_min=0.01,
                    final_sigmas_type="sigma_min",
                ),
                safety_checker=Harmless(),
            )
        )


def omni() -> Any:
    words = tokenizer(16)
    words.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    with seeded(33):
        return quiet(
            diffusers.Cosmos3OmniPipeline(
                text_tokenizer=words,
                transformer=diffusers.Cosmos3OmniTransformer(
                    head_dim=12,
                    hidden_size=16,
                    intermediate_size=16,
                    latent_channel=4,
                    patch_latent_dim=16,
                    num_attention_heads=2,
                    num_hidden_layers=2,
                    num_key_value_heads=1,
                    vocab_size=3 + len(WORDS),
                    rope_axes_dim=(2, 2, 2),
                ),
                vae=_wan_vae(),
                scheduler=UniPCMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
                enable_safety_checker=False,
            )
        )


_CALL = dict(height=32, width=32, num_frames=9, num_inference_steps=2, max_sequence_length=16)
_SMALL = {**_CALL, "height": 16, "width": 16}

FAMILIES = [
    Family("Cosmos 1, text to world", text_to_world, _SMALL),
    Family("Cosmos 1, video to world", from_a_picture, {**_SMALL, "image": picture(16)}),
    Family("Cosmos 2, video to world", video_to_world, {**_CALL, "image": picture(32)}),
    Family("Cosmos 2.5, predict", predict, _CALL),
    Family(
        "Cosmos 3",
        omni,
        dict(
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=2,
            use_system_prompt=False,
            add_resolution_template=False,
            add_duration_template=False,
        ),
        unsupported={
            "previews": "Cosmos3OmniTransformer returns other things than tensors of 1 rows: it cannot be "
            "remembered; generate without previews"
        },
    ),
]
