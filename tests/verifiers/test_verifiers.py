"""Judges of finished videos: names, callables, a CLIP model, and tables of ratings."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from seedbed import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.verifiers import resolve
from seedbed.verifiers.clip import Clip
from seedbed.verifiers.ratings import Ratings
from seedbed.worlds.verifier import attributes
from tests.pipelines import WORDS, tokenizer

PROMPT = "a red circle moving left"


def videos(count, seed=0, frames=3, height=10, width=14):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(sizes, vocab_size=3 + len(WORDS), max_position_embeddings=12, eos_token_id=1, bos_token_id=2)
    vision = dict(sizes, image_size=8, patch_size=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))
    model.save_pretrained(folder)
    tokenizer(12).save_pretrained(folder)
    return folder


def test_a_callable_is_taken_as_it_is_and_a_name_finds_its_verifier():
    def mine(frames, prompts):
        return torch.zeros(len(frames))

    assert resolve(mine) is mine
    assert resolve("shapes") is attributes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", "no verifier 'shape'"),
        ("clip", "clip:FOLDER"),
        ("aesthetic", "aesthetic:FOLDER"),
        ("clip:/nowhere", "no CLIP model in /nowhere"),
        ("ratings.csv", "ratings.csv: ratings judge no new videos and no previews"),
        (Ratings({}), "is a name or a callable"),
        (3, "not 3"),
    ],
)
def test_what_is_no_verifier_is_refused_in_one_line(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_clip_likeness_is_that_of_the_whole_model(clip):
    """Square frames of the model's own size, so that nothing but the normalisation happens before it."""
    frames = videos(2, frames=2, height=8, width=8)
    verifier = resolve(f"clip:{clip}")
    prompts = [PROMPT, "a koala and piano"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (verifier.mean, verifier.std))
    for video, prompt, found in zip(frames, prompts, verifier(frames, prompts), strict=True):
        pixels = (torch.from_numpy(video).permute(0, 3, 1, 2) / 255 - mean) / std
        tokens = verifier.tokenizer([prompt], return_tensors="pt")
        output = verifier.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        )
        cosines = output.image_embeds @ output.text_embeds[0]
        assert found.item() == pytest.approx(cosines.mean().item(), abs=1e-6)


def test_frames_are_shrunk_to_the_short_side_and_cut_in_the_middle(clip):
    verifier = Clip(clip)
    wide = np.zeros((1, 1, 16, 32, 3), dtype=np.uint8)
    wide[:, :, :, 8:24] = 200
    square = np.full((1, 1, 16, 16, 3), 200, dtype=np.uint8)
    edges = wide.copy()
    edges[:, :, :, :2] = 90  # cut away
    assert verifier(edges, [PROMPT]).tolist() == verifier(wide, [PROMPT]).tolist()
    assert verifier(wide, [PROMPT]).item() == pytest.approx(verifier(square, [PROMPT]).item(), abs=0.05)


def test_a_folder_says_how_frames_are_normalised(clip, tmp_path):
    import shutil

    folder = shutil.copytree(clip, tmp_path / "clip")
    plain = Clip(folder)(videos(1), [PROMPT])
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0]}))
    assert Clip(folder).mean == [0, 0, 0]
    assert Clip(folder)(videos(1), [PROMPT]).item() != plain.item()


def test_the_aesthetic_score_is_its_layers_one_after_another(clip, tmp_path):
    import shutil

    folder = shutil.copytree(clip, tmp_path / "clip")
    with pytest.raises(BadInput, match="needs its linear layers there"):
        resolve(f"aesthetic:{folder}")
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(4, 6, generator=draw), torch.randn(1, 4, generator=draw)
    layers = {"layers.10.weight": second, "layers.10.bias": torch.ones(1)}
    layers |= {"layers.2.weight": first, "layers.2.bias": torch.arange(4.0)}
    save_file(layers, folder / "aesthetic.safetensors")
    verifier = resolve(f"aesthetic:{folder}")
    embedded = verifier._images(videos(1)[0])
    expected = ((embedded @ first.T + torch.arange(4.0)) @ second.T + 1).mean()
    assert verifier(videos(1), [PROMPT]).item() == pytest.approx(expected.item(), abs=1e-5)
    save_file({"layers.2.weight": first, "layers.2.bias": torch.zeros(4)}, folder / "aesthetic.safetensors")
    with pytest.raises(BadInput, match="last layer must have 1 output, not 4"):
        resolve(f"aesthetic:{folder}")
    save_file({"0.weight": torch.ones(1, 5), "0.bias": torch.ones(1)}, folder / "aesthetic.safetensors")
    with pytest.raises(BadInput, match="0 is no linear layer of 6 inputs"):
        resolve(f"aesthetic:{folder}")


def recipes(count, seed=4):
    return [NoiseRecipe(seed=seed, candidate=index, shape=(2,)) for index in range(count)]


def test_ratings_of_several_people_are_averaged(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text(
        f"rater,prompt,seed,candidate,rating\nA,{PROMPT},4,0,3\nB,{PROMPT},4,0,4\nA,{PROMPT},4,1,-1.5\n"
        f'A,"a koala, still",4,0,9\n'
    )
    ratings = Ratings.load(path)
    assert ratings.of(PROMPT, recipes(2)).tolist() == [3.5, -1.5]
    assert ratings.of("a koala, still", recipes(1)).tolist() == [9]


def test_a_video_without_a_rating_is_named():
    ratings = Ratings({(PROMPT, 4, 0): 1.0})
    with pytest.raises(BadInput, match=f"no rating of '{PROMPT}', seed 4, candidate 1: rate that video"):
        ratings.of(PROMPT, recipes(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column 'prompt'"),
        ("prompt,seed,candidate\n", "has no column 'rating'"),
        ("prompt,seed,candidate,rating\na,1,2,good\n", "line 2: seed and candidate"),
        ("prompt,seed,candidate,rating\na,1,2,3\na,1,x,3\n", "line 3: seed and candidate"),
        ("prompt,seed,candidate,rating\na,1,2,inf\n", "line 2"),
        ("prompt,seed,candidate,rating\na,1\n", "line 2"),
    ],
)
def test_damaged_ratings_are_refused_with_their_line(tmp_path, content, message):
    path = tmp_path / "ratings.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        Ratings.load(str(path))
    assert "\n" not in str(caught.value)
