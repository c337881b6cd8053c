"""The text encoder's lesson: who does what, in captions it has not seen."""

import json
import sys
from pathlib import Path

import torch
from transformers import T5Config, T5EncoderModel

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/shapes"))
from denoiser import SAID, TOKENS, WORDS, read_aloud, teach_to_read, tokenizer

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


def test_the_lesson_carries_over_to_held_out_captions():
    model, tokens = text(), tokenizer()
    assert teach_to_read(model, tokens, LESSON, seed=1) < 0.01
    assert teach_to_read(model, tokens, LESSON | {"steps": 250}, seed=1) > 0.9
