"""Mochi: joint attention with two streams, latents `b c f h w`, guidance in one forward."""

from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from tests.pipelines.family import Family
from tests.pipelines.parts import quiet, seeded, t5, tokenizer


def mochi() -> MochiPipeline:
    with seeded(21):
        return quiet(
            MochiPipeline(
                tokenizer=tokenizer(256),
                text_encoder=t5(),
                vae=AutoencoderKLMochi(
                    # Its norms have 32 groups, and the pipeline fixes its latents' twelve channels.
                    latent_channels=12,
                    encoder_block_out_channels=(32, 32, 32, 32),
                    decoder_block_out_channels=(32, 32, 32, 32),
                    layers_per_block=(1, 1, 1, 1, 1),
                    add_attention_block=(False,) * 5,
                ),
                transformer=MochiTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=2,
                    pooled_projection_dim=16,
                    in_channels=12,
                    text_embed_dim=16,
                    time_embed_dim=8,
                    max_sequence_length=16,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            )
        )


FAMILIES = [
    Family(
        "Mochi",
        mochi,
        dict(height=16, width=32, num_frames=7, num_inference_steps=2, max_sequence_length=16),
    )
]
