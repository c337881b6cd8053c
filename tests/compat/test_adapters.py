"""LoRA and IP-adapters: scored as they are set, and left as they were."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

import seedbed
from seedbed.acquisition import Bansa
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import model_sha256
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT
from tests.pipelines.parts import seeded

QUIET = {"acquisition": Bansa(depth=None), "candidates": 2, "progress": False}
# What a pipeline calls the arguments of its attention, and its denoiser.
FAMILIES = {
    "cogvideox": ("attention_kwargs", "transformer"),
    "wan": ("attention_kwargs", "transformer"),
    "sdxl": ("cross_attention_kwargs", "unet"),
}


def choose(pipe, family, **options):
    return seedbed.select(pipe, PROMPT, **{**QUIET, **CALLS[family], **options})


def denoiser(pipe, family):
    return getattr(pipe, FAMILIES[family][1])


def with_lora(family):
    pipe = BUILDERS[family]()
    with seeded(7):
        config = LoraConfig(
            r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False
        )
        denoiser(pipe, family).add_adapter(config, adapter_name="style")
    denoiser(pipe, family).eval()
    return pipe


def lora_state(model):
    return [
        (dict(part.scaling), list(part.active_adapters), part.merged)
        for part in model.modules()
        if isinstance(part, BaseTunerLayer)
    ]


@pytest.mark.parametrize("family", [slow(each) if each == "sdxl" else each for each in FAMILIES])
def test_lora_is_scored_at_its_scale(family, pipe_of):
    pipe, scale = with_lora(family), FAMILIES[family][0]
    model = denoiser(pipe, family)
    state = lora_state(model)
    plain, full = choose(pipe_of(family), family), choose(pipe, family)
    assert "layers" not in full.ledger.entries and full.layers == plain.layers
    assert not torch.allclose(full.scores, plain.scores, rtol=1e-3, atol=0)
    # A forward that is stopped within the denoiser gives the LoRA its scale back too.
    half = choose(pipe, family, acquisition=Bansa(depth=2), **{scale: {"scale": 0.5}})
    assert lora_state(model) == state
    assert (half.scores != full.scores[:, :2]).any()
    none = choose(pipe, family, **{scale: {"scale": 0.0}})
    torch.testing.assert_close(none.scores, plain.scores, rtol=1e-5, atol=0)
    model.disable_adapters()
    off = choose(pipe, family)
    torch.testing.assert_close(off.scores, plain.scores, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_lora_scores_as_unfused(family):
    pipe, scale = with_lora(family), FAMILIES[family][0]
    apart = choose(pipe, family, **{scale: {"scale": 0.5}})
    one_by_one = choose(pipe, family, batch_size=1, **{scale: {"scale": 0.5}})
    torch.testing.assert_close(one_by_one.scores, apart.scores, rtol=1e-4, atol=1e-7)
    denoiser(pipe, family).fuse_lora(lora_scale=0.5)
    fused = choose(pipe, family)
    torch.testing.assert_close(fused.scores, apart.scores, rtol=1e-3, atol=1e-6)
    assert fused.layers == apart.layers


def test_lora_from_a_file_is_recorded_by_its_scale_and_replayed(tmp_path):
    pipe = with_lora("cogvideox")
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=_saved(pipe.transformer))
    pipe = BUILDERS["cogvideox"]()
    # By its name: offline, diffusers 0.38 does not look for it in the folder.
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors", adapter_name="style")
    options = {**QUIET, **CALLS["cogvideox"], "attention_kwargs": {"scale": 0.5}}
    made = seedbed.generate(pipe, PROMPT, **options)
    assert made.record()["call"]["attention_kwargs"] == {"scale": 0.5}
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    own = pipe(PROMPT, latents=made.selection.noise, output_type="np", attention_kwargs={"scale": 0.5},
               **CALLS["cogvideox"]).frames[0]  # fmt: skip
    assert np.abs(own * 255 - made.frames).max() <= 0.51


def _saved(model):
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(model, adapter_name="style")


def image_adapter(pipe, width=8, tokens=4):
    """The state dict of an IP-adapter for a U-Net, with random weights."""
    unet = pipe.unet
    sizes = {name: m.to_q.out_features for name, m in unet.named_modules() if name.endswith("attn2")}
    text = unet.config.cross_attention_dim
    with seeded(8):
        adapter = {}
        for number, (name, size) in enumerate((n, s) for n, s in sizes.items() if "motion_modules" not in n):
            assert f"{name}.processor" in unet.attn_processors
            for part in ("k", "v"):
                adapter[f"{2 * number + 1}.to_{part}_ip.weight"] = torch.randn(size, text)
        projection = {
            "proj.weight": torch.randn(tokens * text, width),
            "proj.bias": torch.zeros(tokens * text),
            "norm.weight": torch.ones(text),
            "norm.bias": torch.zeros(text),
        }
    return {"image_proj": projection, "ip_adapter": adapter}


@pytest.fixture(scope="module", params=["sdxl", slow("animatediff")])
def pictured(request):
    pipe = BUILDERS[request.param]()
    pipe.unet._load_ip_adapter_weights([image_adapter(pipe)])
    return request.param, pipe


def embeddings(seed, guided=True):
    """Of one picture; with guidance diffusers wants those of the negative picture before them."""
    picture = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(seed))
    return [torch.cat([torch.zeros(1, 1, 8), picture]) if guided else picture]


def test_every_candidate_gets_the_same_picture(pictured):
    family, pipe = pictured
    options = {"guidance_scale": 3.0, "ip_adapter_image_embeds": embeddings(0)}
    together, alone = choose(pipe, family, **options), choose(pipe, family, batch_size=1, **options)
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-6)
    # Scoring runs without guidance: the negative picture has no part in it.
    options = {"guidance_scale": 1.0, "ip_adapter_image_embeds": embeddings(0, guided=False)}
    torch.testing.assert_close(choose(pipe, family, **options).scores, together.scores, rtol=1e-5, atol=1e-7)
    other = choose(pipe, family, guidance_scale=3.0, ip_adapter_image_embeds=embeddings(1))
    assert not torch.allclose(other.scores, together.scores, rtol=1e-3)


def test_attention_to_the_picture_is_cross_attention_of_the_same_layer(pictured):
    family, pipe = pictured
    seen = []
    options = {**CALLS[family], "guidance_scale": 3.0, "ip_adapter_image_embeds": embeddings(0)}
    session = Session(pipe, PROMPT, **options)
    session.evaluate(torch.zeros(2, *session.spec.shape), seen.append)
    layers = [call.layer for call in seen]
    pairs = [index for index in range(1, len(layers)) if layers[index] == layers[index - 1]]
    assert len(pairs) == len(pipe.unet.encoder_hid_proj.image_projection_layers) * sum(
        name.endswith("attn2.processor") and "motion_modules" not in name
        for name in pipe.unet.attn_processors
    )
    for index in pairs:
        text, picture = seen[index - 1], seen[index]
        assert (text.kind, picture.kind) == ("cross", "cross")
        assert picture.key.shape[-2] == 4 != text.key.shape[-2]
        # Every candidate's rows meet the same keys.
        assert (picture.key == picture.key[:1]).all()
    assert [layer.name for layer in session.layers] == layers


def test_a_race_goes_on_with_the_picture(pictured):
    family, pipe = pictured
    options = {"guidance_scale": 3.0, "ip_adapter_image_embeds": embeddings(0), "candidates": 4}
    raced = choose(pipe, family, **options, acquisition=Bansa(depth=None, race=((3, 2), (6, 1))))
    full = choose(pipe, family, **options)
    best = raced.scores[raced.best]
    torch.testing.assert_close(best[:6], full.scores[raced.best, :6], rtol=1e-4, atol=1e-6)


def test_pictures_are_asked_for_by_a_replay(pictured):
    family, pipe = pictured
    options = {**CALLS[family], "guidance_scale": 3.0, "ip_adapter_image_embeds": embeddings(0)}
    made = seedbed.generate(pipe, PROMPT, **QUIET, **options)
    own = pipe(PROMPT, latents=made.selection.noise, output_type="np", **options)
    own = own.frames[0] if hasattr(own, "frames") else own.images
    assert np.abs(own * 255 - made.frames).max() <= 0.51
    assert made.selection.missing == {"ip_adapter_image_embeds": "list"}
    again = seedbed.replay(made.record(), pipe, progress=False, ip_adapter_image_embeds=embeddings(0))
    assert again.identical


def test_a_model_is_known_by_the_scale_of_its_lora_too():
    pipe = with_lora("cogvideox")
    one = model_sha256(pipe)
    layers = [part for part in pipe.transformer.modules() if isinstance(part, BaseTunerLayer)]
    for layer in layers:
        layer.scale_layer(0.3)
    other = model_sha256(pipe)
    for layer in layers:
        layer.unscale_layer(0.3)
    assert model_sha256(pipe) == one != other
    pipe.transformer.disable_adapters()
    assert model_sha256(pipe) not in (one, other)
