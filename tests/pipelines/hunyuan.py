"""HunyuanVideo: joint attention in two kinds of blocks, text from a language model.

- HunyuanVideo: guidance is an input of the denoiser.
- HunyuanVideo 1.5: guidance is a component of the pipeline, a guider. An image goes through SigLIP too.
- From an image: its language model sees the image, and the denoiser has it as the first latent frame, or as
  channels beside the latents.
- SkyReels-V1 is HunyuanVideo from an image, with guidance of the usual kind.
- FramePack: HunyuanVideo in sections, each from another noise and a compressed history of the others.
"""

from typing import Any

import diffusers
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from tests.pipelines.family import Family
from tests.pipelines.parts import WORDS, clip, picture, quiet, seeded, tokenizer

_LANGUAGE_MODEL = dict(
    vocab_size=3 + len(WORDS),
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=2,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)


def hunyuan_video() -> HunyuanVideoPipeline:
    with seeded(61):
        return quiet(
            HunyuanVideoPipeline(
                tokenizer=tokenizer(64),
                text_encoder=LlamaModel(LlamaConfig(**_LANGUAGE_MODEL)),
                tokenizer_2=tokenizer(77),  # as many as the pipeline asks for
                text_encoder_2=clip(length=77),
                vae=AutoencoderKLHunyuanVideo(
                    latent_channels=4,
                    block_out_channels=(8, 8, 8, 8),
                    down_block_types=("HunyuanVideoDownBlock3D",) * 4,
                    up_block_types=("HunyuanVideoUpBlock3D",) * 4,
                    layers_per_block=1,
                    norm_num_groups=4,
                    mid_block_add_attention=False,
                ),
                transformer=HunyuanVideoTransformer3DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=12,
                    num_layers=1,
                    num_single_layers=1,
                    num_refiner_layers=1,
                    patch_size=1,
                    guidance_embeds=True,
                    text_embed_dim=16,
                    pooled_projection_dim=16,
                    rope_axes_dim=(4, 4, 4),
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            )
        )


def from_image(condition: str = "token_replace") -> Any:
    words = tokenizer(64)
    words.add_tokens(["<image>", "<|end_header_id|>"])
    with seeded(65):
        parts = hunyuan_video().components
        eyes = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        config = LlavaConfig(
            text_config=LlamaConfig(**{**_LANGUAGE_MODEL, "vocab_size": len(words)}),
            vision_config=eyes,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            image_seq_length=4,
            pad_token_id=0,
        )
        parts["transformer"] = HunyuanVideoTransformer3DModel.from_config(
            parts["transformer"].config,
            # Latents alone; or with those of the image, and a mask.
            in_channels=4 if condition == "token_replace" else 9,
            guidance_embeds=condition == "token_replace",
            image_condition_type=condition,
        )
        return quiet(
            diffusers.HunyuanVideoImageToVideoPipeline(
                **parts
                | dict(
                    tokenizer=words,
                    text_encoder=LlavaForConditionalGeneration(config),
                    image_processor=CLIPImageProcessor(
                        crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16}
                    ),
                )
            )
        )


def skyreels_v1() -> HunyuanSkyreelsImageToVideoPipeline:
    with seeded(63):
        transformer = HunyuanVideoTransformer3DModel.from_config(
            hunyuan_video().transformer.config, in_channels=8, guidance_embeds=False
        )
        return quiet(
            HunyuanSkyreelsImageToVideoPipeline(**{**hunyuan_video().components, "transformer": transformer})
        )


def hunyuan_video_15() -> Any:
    words = tokenizer(64)
    words.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    with seeded(62):
        pipe = diffusers.HunyuanVideo15Pipeline(
            tokenizer=words,
            text_encoder=Qwen2_5_VLTextModel(
                Qwen2_5_VLTextConfig(
                    **_LANGUAGE_MODEL,
                    rope_scaling={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
                )
            ),
            tokenizer_2=ByT5Tokenizer(),
            text_encoder_2=T5EncoderModel(
                T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            ),
            vae=diffusers.AutoencoderKLHunyuanVideo15(
                latent_channels=4,
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                spatial_compression_ratio=8,
            ),
            transformer=diffusers.HunyuanVideo15Transformer3DModel(
                in_channels=9,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=12,
                num_layers=2,
                num_refiner_layers=1,
                text_embed_dim=16,
                text_embed_2_dim=16,
                image_embed_dim=8,
                rope_axes_dim=(4, 4, 4),
                target_size=32,
                task_type="t2v",
            ),
            guider=diffusers.ClassifierFreeGuidance(guidance_scale=4.0),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
        return _shortened(pipe)


def hunyuan_video_15_from_image() -> Any:
    with seeded(64):
        vision = SiglipVisionConfig(
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=16,
            patch_size=8,
        )
        pipe = diffusers.HunyuanVideo15ImageToVideoPipeline(
            **hunyuan_video_15().components,
            image_encoder=SiglipVisionModel(vision),
            feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        )
        return _shortened(pipe)


def framepack() -> Any:
    parts, eyes = hunyuan_video().components, hunyuan_video_15_from_image()
    with seeded(66):
        parts["transformer"] = diffusers.HunyuanVideoFramepackTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=16,
            rope_axes_dim=(4, 4, 4),
            has_image_proj=True,
            image_proj_dim=8,
            has_clean_x_embedder=True,
        )
        return quiet(
            diffusers.HunyuanVideoFramepackPipeline(
                **parts, image_encoder=eyes.image_encoder, feature_extractor=eyes.feature_extractor
            )
        )


def _shortened(pipe: Any) -> Any:
    """Its template and lengths are made for Qwen's tokenizer and SigLIP at full size."""
    pipe.system_message = "the"
    pipe.prompt_template_encode_start_idx = 1
    pipe.tokenizer_max_length = 8
    pipe.tokenizer_2_max_length = 8
    pipe.vision_num_semantic_tokens = 4
    return quiet(pipe)


_TEXT = dict(max_sequence_length=8, prompt_template={"template": "{}", "crop_start": 0})
_FROM_IMAGE = dict(
    height=16,
    width=16,
    num_frames=9,
    num_inference_steps=2,
    image=picture(16),
    max_sequence_length=8,
    prompt_template={
        "template": "<image> a <|end_header_id|> the <|end_header_id|> {} <|end_header_id|>",
        "crop_start": 5,
        "image_emb_start": 0,
        "image_emb_end": 4,
        "image_emb_len": 4,
    },
)

FAMILIES = [
    Family(
        "HunyuanVideo",
        hunyuan_video,
        dict(height=16, width=16, num_frames=9, num_inference_steps=2, **_TEXT),
    ),
    Family("HunyuanVideo, image to video", from_image, _FROM_IMAGE),
    Family("HunyuanVideo, image to video (33 channels)", lambda: from_image("latent_concat"), _FROM_IMAGE),
    Family(
        "SkyReels-V1, image to video",
        skyreels_v1,
        dict(height=16, width=16, num_frames=9, num_inference_steps=2, image=picture(16), **_TEXT),
    ),
    Family(
        "HunyuanVideo 1.5",
        hunyuan_video_15,
        dict(height=16, width=16, num_frames=9, num_inference_steps=2),
    ),
    Family(
        "HunyuanVideo 1.5, image to video",
        hunyuan_video_15_from_image,
        dict(num_frames=9, num_inference_steps=2, image=picture(32)),
    ),
    Family(
        "FramePack",
        framepack,
        # Two sections.
        dict(
            height=32,
            width=32,
            num_frames=17,
            latent_window_size=3,
            num_inference_steps=2,
            image=picture(32),
            **_TEXT,
        ),
        unsupported={
            "previews": "no preview: HunyuanVideoFramepackPipeline makes this video in pieces, each from "
            "another noise, and would show the first alone: ask for as few frames as one piece has"
        },
    ),
]
