"""The embedded model is what its card says, and loads as any pipeline does."""

import itertools
import json

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file

from seedbed import zoo
from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.worlds import shapes, verifier

FOLDER = zoo.path()


@pytest.fixture(scope="module")
def pipe():
    return zoo.load()


def test_names_and_unknown_names():
    assert zoo.DEFAULT in zoo.names()
    with pytest.raises(BadInput, match=f"no embedded model is called 'koala'; there is .*{zoo.DEFAULT}"):
        zoo.path("koala")


def test_it_is_a_plain_pipeline_in_half_precision(pipe):
    assert type(pipe) is CogVideoXPipeline
    weights = list(FOLDER.rglob("*.safetensors"))
    assert len(weights) == 3 and not list(FOLDER.rglob("*.bin"))
    for file in weights:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_no_configuration_names_a_folder_of_the_machine_that_trained():
    for name in zoo.names():
        for path in zoo.path(name).rglob("*.json"):
            assert "_name_or_path" not in path.read_text(), path


def test_it_loads_in_float32_unless_asked_otherwise(pipe):
    plain = CogVideoXPipeline.from_pretrained(FOLDER)
    for loaded in (pipe, plain):
        assert {loaded.transformer.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float32}


def test_it_loads_in_the_precision_that_was_asked_for():
    assert zoo.load(torch_dtype=torch.float16).transformer.dtype == torch.float16


def test_the_tokenizer_class_is_one_that_old_and_new_transformers_know():
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    config = json.loads((FOLDER / "tokenizer/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_every_word_of_the_world_is_in_the_vocabulary(pipe):
    for caption in shapes.captions(60, objects=1, seed=0, held=False):
        assert pipe.tokenizer.unk_token_id not in pipe.tokenizer(f"{caption} and {caption}").input_ids


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_it_draws_held_out_captions_about_as_well_as_its_card_says(name):
    """Twelve videos: too few to confirm the card, enough to notice a wrong file, scale or tokenizer."""
    pipe = zoo.load(name)
    claimed = json.loads((zoo.path(name) / "evaluation.json").read_text())["single"]["score"][0]
    captions = shapes.captions(4, objects=1, seed=0, held=True)
    scores = []
    for caption in captions:
        session = Session(pipe, caption)
        recipes = [
            NoiseRecipe(seed=0, candidate=i, shape=session.spec.shape, frame_axis=session.spec.frame_axis)
            for i in range(3)
        ]
        frames = np.stack([session.generate(recipe.draw()) for recipe in recipes])
        assert frames.shape == (3, shapes.FRAMES, shapes.SIDE, shapes.SIDE, 3)
        scores += verifier.attributes(frames, [caption] * 3)["score"].tolist()
    assert np.mean(scores) > claimed - 0.2


def test_no_word_of_the_default_model_ignores_who_does_what(pipe):
    """An encoder that reads a caption as a bag of words makes its attention blind to what was asked for."""
    captions = [
        "a red circle moving left and a blue square moving up",
        "a red circle moving up and a blue square moving left",
    ]
    ids = pipe.tokenizer(captions, padding="max_length", max_length=12, return_tensors="pt").input_ids
    with torch.no_grad():
        one, other = pipe.text_encoder(ids)[0]
    same = ids[0] == ids[1]
    assert same.sum() == 10
    apart = (one - other).norm(dim=-1) / one.norm(dim=-1)
    assert (apart[[1, 2, 7, 8]] > 0.1).all()  # colours and shapes: the same words, other motions


def test_the_verifier_reads_what_the_autoencoder_makes_of_a_video(pipe):
    scenes = list(itertools.islice(shapes.scenes(3, held=True), 24))
    frames = torch.from_numpy(np.stack([shapes.render(scene) for scene in scenes]))
    x = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample
    again = ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    found = verifier.attributes(again, [shapes.caption(scene) for scene in scenes])
    assert found["all_right"].mean() == 1
