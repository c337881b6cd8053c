"""Text to 3-D, outside of the table: Shap-E's latent refined with the formulas, through its prior network."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import CLIPTextModelWithProjection

from seedbed.noise.gaussianity import leaves_shell
from seedbed.refinement.formulas import erase
from tests.pipelines.parts import PROMPT, clip, quiet, seeded, tokenizer

PAGE = Path(__file__).parents[2] / "docs/minimal-model.md"
TOKENS, WIDTH, HIDDEN = (
    32,
    16,
    8,
)  # the latent is (TOKENS * WIDTH,): four matrices of HIDDEN rows, WIDTH a row
VIEWS, SIZE = 20, 16


def shap_e() -> ShapEPipeline:
    """Shaped as in diffusers' own tests, with the schedule of openai/shap-e."""
    with seeded(1):
        pipe = quiet(
            ShapEPipeline(
                prior=PriorTransformer(
                    num_attention_heads=2,
                    attention_head_dim=WIDTH,
                    num_layers=1,
                    embedding_dim=WIDTH,
                    num_embeddings=TOKENS,
                    embedding_proj_dim=16,
                    clip_embed_dim=2 * WIDTH,
                    additional_embeddings=0,
                    time_embed_act_fn="gelu",
                    norm_in_type="layer",
                    encoder_hid_proj_type=None,
                    added_emb_type=None,
                ),
                text_encoder=clip(CLIPTextModelWithProjection),
                tokenizer=tokenizer(12),
                scheduler=HeunDiscreteScheduler(
                    beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", clip_sample=True
                ),
                shap_e_renderer=ShapERenderer(
                    param_shapes=((HIDDEN, 93), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN)),
                    d_latent=WIDTH,
                    d_hidden=HIDDEN,
                    background=(0, 0, 0),
                ),
            )
        )
    # At its own 192 points on each of 20 480 rays an image takes most of a minute.
    renderer = pipe.shap_e_renderer
    renderer.decode_to_image = partial(
        renderer.decode_to_image, ray_batch_size=VIEWS * SIZE**2, n_coarse_samples=4, n_fine_samples=4
    )
    return pipe


@pytest.fixture(scope="module")
def pipe() -> ShapEPipeline:
    return shap_e()


def noises(n):
    return torch.randn(n, TOKENS * WIDTH, generator=torch.Generator().manual_seed(0))


def render(pipe, latent):
    with seeded(0):  # the renderer draws where along its rays to look, from the global generator
        found = pipe(PROMPT, latents=latent[None], num_inference_steps=2, frame_size=SIZE, output_type="np")
    return np.asarray(found.images[0])


def test_the_refined_latent_of_the_guide_renders_otherwise_and_again(pipe):
    weights = {name: value.clone() for name, value in pipe.prior.state_dict().items()}
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

    def run():
        names = {"pipe": pipe, "prompt": PROMPT}
        exec(compile(snippet, PAGE.name, "exec"), names)
        return names["noise"], names["refined"]

    (plain, refined), (_, anew) = run(), run()
    assert torch.equal(plain, noises(1)[0]) and leaves_shell(refined) == ""
    before, erased, injected, again = (
        render(pipe, latent) for latent in (plain, erase(noises(8)), refined, anew)
    )
    assert before.shape == (VIEWS, SIZE, SIZE, 3) and before.std() > 0.01
    assert np.abs(erased - before).mean() > 1e-3 and np.abs(injected - before).mean() > 1e-3
    assert np.array_equal(injected, again)
    assert all(torch.equal(value, weights[name]) for name, value in pipe.prior.state_dict().items())
