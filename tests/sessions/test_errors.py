"""Who raised an error: the model, a handler, or this package, whose faults must not pass for a model's."""

import diffusers
import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa
from seedbed.errors import NotSupported
from seedbed.pipelines import layers
from seedbed.pipelines.layers import CannotShrink, Recorder
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, PROMPT, animatediff_, sdxl
from tests.pipelines.parts import awake, picture

CALL = CALLS["cogvideox"]


def test_our_own_faults_are_raised_on_shapes_too(monkeypatch):
    """Else they would cost an evaluation, in silence."""

    def kind_of(*_):
        raise TypeError("a fault of ours")

    pipe = BUILDERS["cogvideox"]()
    with monkeypatch.context() as patch, pytest.raises(TypeError, match="a fault of ours"):
        patch.setattr("seedbed.attention.tap.kind_of", kind_of)
        _ = Session(pipe, PROMPT, **CALL).layers

    def attention(self, call):
        raise AssertionError("the recorder's")

    session = Session(pipe, PROMPT, **CALL)
    assert session.layers
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="the recorder's"):
        patch.setattr(Recorder, "attention", attention)
        session.shrinking(2)


@pytest.mark.parametrize("error", [TypeError, AssertionError, KeyError, RuntimeError])
def test_a_model_that_fails_without_data_is_run_for_real(pipe_of, error):
    pipe, options = BUILDERS["cogvideox"](), dict(candidates=2, progress=False, **CALL)
    expected = seedbed.select(pipe_of("cogvideox"), PROMPT, acquisition=Bansa(depth=None), **options)
    block = pipe.transformer.transformer_blocks[0]
    own = block.forward

    def forward(hidden_states, *args, **kwargs):
        if isinstance(hidden_states, torch._subclasses.FakeTensor):
            raise error("no data")
        return own(hidden_states, *args, **kwargs)

    block.forward = forward
    session = Session(pipe, PROMPT, **CALL)
    assert len(session.layers) == 3 and session.ledger.entries == {"layers": 1}
    with pytest.raises(CannotShrink, match="CogVideoXTransformer3DModel does not run without data"):
        session.shrinking(2)
    chosen = seedbed.select(pipe, PROMPT, acquisition=Bansa(depth=None), **options)
    assert torch.equal(chosen.scores, expected.scores) and chosen.layers == expected.layers


def test_how_a_batch_is_handed_on_is_remembered_with_the_facts(monkeypatch):
    pipe, ran = BUILDERS["cogvideox"](), []
    own = layers._run_without_data
    monkeypatch.setattr(layers, "_run_without_data", lambda *given: ran.append(given) or own(*given))
    options = dict(candidates=3, acquisition=Bansa(depth=None, race=((1, 2), (2, 1))), progress=False, **CALL)
    first = seedbed.select(pipe, PROMPT, **options)
    assert len(ran) == 2  # its layers, and how it hands on its batch
    assert seedbed.select(pipe, PROMPT, **options).order == first.order
    seedbed.select(pipe, "another prompt", **options)
    assert len(ran) == 2
    seedbed.select(pipe, PROMPT, **options | {"num_frames": 5})
    assert len(ran) == 4


def test_a_model_that_fails_without_guidance_says_so():
    """As a processor that unpacks the halves of a guided batch (PAG), left on the denoiser by somebody."""
    pipe = BUILDERS["sdxl"]()
    blocks = pipe.unet.mid_block.attentions[0].transformer_blocks
    blocks[0].attn1.set_processor(diffusers.models.attention_processor.PAGCFGIdentitySelfAttnProcessor2_0())
    message = "UNet2DConditionModel cannot be evaluated without guidance .* not enough values to unpack"
    with pytest.raises(NotSupported, match=message) as raised:
        seedbed.select(pipe, PROMPT, candidates=2, acquisition="bansa", progress=False, **CALLS["sdxl"])
    assert "\n" not in str(raised.value)


PICTURE = dict(image=picture(16), num_inference_steps=4, strength=0.6)


def inpainting():
    mask = picture(16, seed=1).convert("L")
    pipe = diffusers.StableDiffusionXLPAGInpaintPipeline(**sdxl().components)
    return pipe, {**PICTURE, "mask_image": mask, "height": 16, "width": 16}


def controlled():
    parts, config = sdxl().components, sdxl().unet.config
    names = (
        "block_out_channels", "layers_per_block", "down_block_types", "attention_head_dim", "norm_num_groups",
        "use_linear_projection", "addition_embed_type", "addition_time_embed_dim", "cross_attention_dim",
        "transformer_layers_per_block", "projection_class_embeddings_input_dim",
    )  # fmt: skip
    net = diffusers.ControlNetModel(**{name: config[name] for name in names},
                                    conditioning_embedding_out_channels=(8, 8))  # fmt: skip
    pipe = diffusers.StableDiffusionXLControlNetPAGImg2ImgPipeline(**parts, controlnet=awake(net))
    return pipe, {**PICTURE, "control_image": picture(16)}


def animated():
    (family,) = (family for family in animatediff_.FAMILIES if family.name == "AnimateDiff, PAG")
    return family.built(), family.call


@pytest.mark.parametrize("made", [inpainting, controlled, animated])
def test_pipelines_that_perturb_attention_are_scored_and_replayed(made):
    """PAG: processors that take their batch for two or three parts are theirs while they guide alone."""
    pipe, call = made()
    pipe.set_progress_bar_config(disable=True)
    made = seedbed.generate(pipe, PROMPT, candidates=2, acquisition=Bansa(depth=None), progress=False, **call)
    assert made.selection.scores.isfinite().all() and made.selection.totals.std() > 0
    single = seedbed.select(pipe, PROMPT, candidates=2, acquisition=Bansa(depth=None), batch_size=1,
                            progress=False, **call)  # fmt: skip
    torch.testing.assert_close(single.scores, made.selection.scores, rtol=1e-5, atol=1e-9)
    missing = {name: call[name] for name in made.selection.missing}
    assert seedbed.replay(made.record(), pipe, progress=False, **missing).identical
