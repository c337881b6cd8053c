"""What the denoiser starts from and is told: the text encoder's lesson, loose captions, larger patches."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/shapes"))
from common import settings
from denoiser import SAID, TOKENS, WORDS, finer, loosened, read_aloud, teach_to_read, tokenizer, train

from seedbed.worlds import shapes

RECIPE = Path(__file__).parents[2] / "recipes/shapes"
LESSON = {"steps": 0, "batch": 64, "lr": 0.003}


def text():
    torch.manual_seed(0)
    config = json.loads((RECIPE / "config.json").read_text())["denoiser"]["text"]
    return T5EncoderModel(T5Config(**config | {"d_model": 48, "num_layers": 2}, tie_word_embeddings=False))


def test_the_words_and_what_they_say():
    tokens = tokenizer()
    captions = ["a red circle moving left and a blue square staying still", "a green triangle moving up"]
    ids, said = read_aloud(captions, tokens)
    assert ids.shape == (2, TOKENS)
    words = tokens.convert_ids_to_tokens(ids[0, WORDS.flatten()].tolist())
    assert words == ["red", "circle", "left", "blue", "square", "still"]
    named = [[names[value] for names, value in zip(SAID, thing, strict=True)] for thing in said[0].tolist()]
    assert named == [["red", "circle", "moving left"], ["blue", "square", "staying still"]]
    assert said[1, 1].tolist() == [-100, -100, -100]


@pytest.mark.slow
def test_the_lesson_carries_over_to_held_out_captions():
    model, tokens = text(), tokenizer()
    assert teach_to_read(model, tokens, LESSON, seed=1) < 0.01
    assert teach_to_read(model, tokens, LESSON | {"steps": 250}, seed=1) > 0.9


def test_loose_captions_exchange_motions_and_shapes_as_often_as_asked():
    rng = np.random.default_rng(0)
    caption = "a red circle moving left and a blue square staying still"
    drawn = [shapes.parse(loosened(caption, rng, 0.4)) for _ in range(2000)]
    assert all([thing.colour for thing in things] == ["red", "blue"] for things in drawn)
    shape = np.array([things[0].shape == "square" for things in drawn])
    motion = np.array([things[0].motion == "staying still" for things in drawn])
    assert abs(shape.mean() - 0.4) < 0.04 and abs(motion.mean() - 0.4) < 0.04
    assert abs((shape & motion).mean() - 0.16) < 0.03
    assert loosened(caption, rng, 0.0) == caption
    assert loosened("a red circle moving left", rng, 1.0) == "a red circle moving left"


def test_loose_captions_are_never_held_out():
    rng = np.random.default_rng(0)
    captions = shapes.captions(3000, objects=2, seed=0, held=False)
    assert not any(shapes.held_out(shapes.parse(loosened(c, rng, 0.4))) for c in captions)


def test_smaller_patches_begin_where_larger_ones_ended():
    torch.manual_seed(0)
    common = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
        "num_layers": 2, "time_embed_dim": 8, "text_embed_dim": 8, "sample_width": 4, "sample_height": 4,
        "sample_frames": 9,
        "use_rotary_positional_embeddings": True,  # none are given: tokens are told apart by what they hold
    }  # fmt: skip
    coarse = CogVideoXTransformer3DModel(**common, patch_size=2).eval()
    fine = CogVideoXTransformer3DModel(**common, patch_size=1).eval()
    fine.load_state_dict(finer(coarse, 2))
    x = torch.randn(1, 3, 4, 2, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    no_text, time = torch.zeros(1, 0, 8), torch.tensor([500])
    with torch.no_grad():
        said = coarse(x, no_text, time).sample
        again = fine(x, no_text, time).sample
    mean = torch.nn.functional.avg_pool2d(said[0], 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(again[0], mean, rtol=1e-4, atol=1e-5)


def test_a_variant_changes_only_what_it_names():
    config = json.loads((RECIPE / "config.json").read_text())
    plain, fine = (settings(config, name) for name in ("shapes-cogvideox-unread", "shapes-cogvideox-loose"))
    assert plain == config["denoiser"]
    changed = {k for k, v in fine["transformer"].items() if v != plain["transformer"][k]}
    assert changed == {"patch_size", "spatial_interpolation_scale"}


@pytest.mark.slow
def test_one_training_goes_on_from_another(tmp_path):
    data = tmp_path / "latents.safetensors"
    save_file({"latents": torch.randn(8, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))}, data)
    captions = shapes.captions(8, objects=2, seed=0, held=False)
    data.with_suffix(".captions.json").write_text(json.dumps(captions))
    config = json.loads((RECIPE / "config.json").read_text())
    small = {"steps": 2, "warmup": 1, "cooldown": 1, "batch": 4, "compile": False}
    model = None
    for name in ("shapes-cogvideox-unread", "shapes-cogvideox", "shapes-cogvideox-loose"):
        own = settings(config, name) | small
        own |= {"reading": LESSON | {"steps": 1}} if "reading" in own else {}
        assert own.get("start") is None or (tmp_path / f"{own['start']}.checkpoint.safetensors").exists()
        before, model = model, train(own, data, tmp_path, name, model)
    for key, value in before.text.state_dict().items():
        assert torch.equal(model.text.state_dict()[key], value)
    # Four steps at the most have moved the blocks; from nothing they would be others.
    kept = "transformer_blocks.0.ff.net.2.weight"
    torch.testing.assert_close(
        model.transformer.state_dict()[kept], before.transformer.state_dict()[kept], rtol=0, atol=0.02
    )
    assert model.transformer.config.patch_size == 1
