"""ChronoEdit: Wan from an image, whose last frame is the edited image."""

from typing import Any

import diffusers

from tests.pipelines.core import CALLS
from tests.pipelines.family import Family
from tests.pipelines.parts import picture, quiet, seeded
from tests.pipelines.wan import image_to_video


def chronoedit() -> Any:
    parts = image_to_video().components
    del parts["transformer_2"]
    with seeded(47):
        transformer = diffusers.ChronoEditTransformer3DModel.from_config(
            parts["transformer"].config, patch_size=(1, 2, 2)
        )
    return quiet(diffusers.ChronoEditPipeline(**{**parts, "transformer": transformer}))


FAMILIES = [
    Family(
        "ChronoEdit",
        chronoedit,
        {
            **CALLS["wan"],
            # After its first step, all frames but the first and the last are left out.
            "enable_temporal_reasoning": True,
            "num_temporal_reasoning_steps": 1,
            # Its attention counts on 512 tokens of text.
            "max_sequence_length": 512,
            "image": picture(16),
        },
    )
]
