"""Allegro: self and masked cross attention, latents `b c f h w`, noise prediction."""

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    EulerAncestralDiscreteScheduler,
)

from tests.pipelines.family import Family
from tests.pipelines.parts import quiet, seeded, t5, tokenizer


def allegro() -> AllegroPipeline:
    with seeded(22):
        vae = AutoencoderKLAllegro(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            sample_size=16,
        )
        # The only way in which it decodes, by tiles of this size; smaller latents it leaves out.
        vae.enable_tiling()
        vae.kernel = vae.stride = (8, 16, 16)
        return quiet(
            AllegroPipeline(
                tokenizer=tokenizer(16),
                text_encoder=t5(),
                vae=vae,
                transformer=AllegroTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=24,
                    num_layers=2,
                    cross_attention_dim=48,
                    sample_height=2,
                    sample_width=2,
                    sample_frames=2,
                    caption_channels=16,
                ),
                scheduler=EulerAncestralDiscreteScheduler(
                    beta_schedule="scaled_linear", timestep_spacing="trailing"
                ),
            )
        )


FAMILIES = [
    Family(
        "Allegro",
        allegro,
        dict(
            height=16,
            width=16,
            num_frames=8,
            num_inference_steps=2,
            max_sequence_length=16,
            clean_caption=False,
        ),
    )
]
