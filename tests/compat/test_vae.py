"""VAE tiling and slicing are the pipeline's own affair; attention slicing hides the attention."""

import numpy as np
import pytest
import torch

import seedbed
from seedbed import NotSupported
from seedbed.acquisition import Bansa, Previews
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT

QUIET = {"candidates": 3, "progress": False, "acquisition": Bansa(depth=None)}


@pytest.mark.parametrize("family", ["cogvideox", slow("animatediff"), slow("wan"), slow("sdxl")])
def test_tiling_and_slicing(family, pipe_of):
    pipe, call = BUILDERS[family](), CALLS[family]
    decoded = []
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    tiled = pipe.vae.tiled_decode
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4  # of image VAEs
    pipe.vae.tile_sample_min_height = pipe.vae.tile_sample_min_width = 8
    pipe.vae.tile_latent_min_height = pipe.vae.tile_latent_min_width = 2
    pipe.vae.tile_sample_stride_height = pipe.vae.tile_sample_stride_width = 8
    pipe.vae.tiled_decode = lambda *args, **kwargs: decoded.append(1) or tiled(*args, **kwargs)
    previews = Previews(verifier=lambda videos, prompts: videos.mean((1, 2, 3, 4)), schedule=((1, 1),))
    seedbed.select(pipe, PROMPT, **QUIET | {"acquisition": previews}, **call)
    assert decoded, "the previews were not decoded in tiles"
    choice = seedbed.select(pipe, PROMPT, **QUIET, **call)
    plain = seedbed.select(pipe_of(family), PROMPT, **QUIET, **call)
    assert torch.equal(choice.scores, plain.scores)
    made = seedbed.generate(pipe, PROMPT, **QUIET, **call)
    own = pipe(PROMPT, latents=made.selection.noise, output_type="np", **call)
    own = own.frames[0] if hasattr(own, "frames") else own.images
    assert np.abs(own * 255 - made.frames).max() <= 0.51
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    assert pipe.vae.use_tiling and pipe.vae.use_slicing


def test_attention_slicing_is_refused_in_one_line():
    pipe = BUILDERS["sdxl"]()
    pipe.enable_attention_slicing("max")
    with pytest.raises(NotSupported, match=r"attends by SlicedAttnProcessor.*slicing") as caught:
        seedbed.select(pipe, PROMPT, **QUIET, **CALLS["sdxl"])
    assert "\n" not in str(caught.value)
    pipe.disable_attention_slicing()
    assert seedbed.select(pipe, PROMPT, **QUIET, **CALLS["sdxl"]).scores.isfinite().all()
