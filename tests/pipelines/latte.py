"""Latte: spatial and temporal self attention, cross attention, latents `b c f h w`, noise prediction."""

from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.pipelines.family import Family
from tests.pipelines.parts import image_vae, quiet, seeded, t5, tokenizer


def latte() -> LattePipeline:
    with seeded(23):
        return quiet(
            LattePipeline(
                tokenizer=tokenizer(120),
                text_encoder=t5(),
                vae=image_vae(),
                transformer=LatteTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=8,
                    in_channels=4,
                    out_channels=8,
                    num_layers=2,
                    cross_attention_dim=16,
                    attention_bias=True,
                    sample_size=8,
                    patch_size=2,
                    activation_fn="gelu-approximate",
                    num_embeds_ada_norm=1000,
                    norm_type="ada_norm_single",
                    norm_elementwise_affine=False,
                    norm_eps=1e-6,
                    caption_channels=16,
                    video_length=3,
                ),
                scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
            )
        )


FAMILIES = [
    Family(
        "Latte",
        latte,
        dict(height=16, width=16, video_length=3, num_inference_steps=2, clean_caption=False),
    )
]
