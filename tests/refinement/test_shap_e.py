"""Text to 3-D, outside of the table: Shap-E's latent refined with the formulas, through its prior network."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import CLIPTextModelWithProjection

from seedbed.noise.gaussianity import leaves_shell
from seedbed.refinement.formulas import erase, inject
from tests.pipelines.parts import PROMPT, clip, quiet, seeded, tokenizer

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


def prior_of(pipe):
    """`predict(z, t)`: the clean latent that the prior network sees, with the prompt, without guidance."""
    prompt = pipe._encode_prompt(PROMPT, "cpu", 1, False)

    @torch.no_grad()
    def predict(z, t):
        said = pipe.prior(z.reshape(1, TOKENS, WIDTH), timestep=t, proj_embedding=prompt)
        return said.predicted_image_embedding[..., :WIDTH].reshape(z.shape)

    return predict


def noises(n):
    return torch.randn(n, TOKENS * WIDTH, generator=torch.Generator().manual_seed(0))


def render(pipe, latent):
    with seeded(0):  # the renderer draws where along its rays to look, from the global generator
        found = pipe(PROMPT, latents=latent[None], num_inference_steps=2, frame_size=SIZE, output_type="np")
    return np.asarray(found.images[0])


def test_a_refined_latent_renders_otherwise_and_again(pipe):
    weights = {name: value.clone() for name, value in pipe.prior.state_dict().items()}
    plain = noises(8)[0]

    def refined():
        return inject(plain, prior_of(pipe), [1023, 512, 64], delta=0.3)

    before, erased, injected, again = (
        render(pipe, latent) for latent in (plain, erase(noises(8)), refined(), refined())
    )
    assert leaves_shell(refined()) == ""
    assert before.shape == (VIEWS, SIZE, SIZE, 3) and before.std() > 0.01
    assert np.abs(erased - before).mean() > 1e-3 and np.abs(injected - before).mean() > 1e-3
    assert np.array_equal(injected, again)
    assert all(torch.equal(value, weights[name]) for name, value in pipe.prior.state_dict().items())
