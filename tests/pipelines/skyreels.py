"""SkyReels-V2: Wan's design; with diffusion forcing each latent frame has a noise level of its own."""

from typing import Any

from diffusers import (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)

from tests.pipelines.core import CALLS, wan
from tests.pipelines.family import Family
from tests.pipelines.parts import quiet, seeded


def _parts(**config: Any) -> dict[str, Any]:
    parts = wan().components
    del parts["transformer_2"]
    transformer = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **config,
    )
    return {**parts, "transformer": transformer}


def text_to_video() -> SkyReelsV2Pipeline:
    with seeded(51):
        return quiet(SkyReelsV2Pipeline(**_parts()))


def diffusion_forcing() -> SkyReelsV2DiffusionForcingPipeline:
    with seeded(52):
        return quiet(SkyReelsV2DiffusionForcingPipeline(**_parts(inject_sample_info=True)))


_CALL = {**CALLS["wan"], "height": 32, "width": 32}

FAMILIES = [
    Family("SkyReels-V2", text_to_video, _CALL),
    Family("SkyReels-V2, diffusion forcing", diffusion_forcing, _CALL),
]
