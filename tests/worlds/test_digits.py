"""The digits world: held-out pictures are kept apart, scenes are lawful, and the reader errs as stated."""

import itertools
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from seedbed.errors import BadInput, NotSupported
from seedbed.lab.experiment import Recipe
from seedbed.lab.metrics import inception_score
from seedbed.training.config import World
from seedbed.training.data import clips_of
from seedbed.verifiers import resolve
from seedbed.worlds import digits, shapes
from seedbed.worlds.verifier import UNCLEAR


def drawn(count, seed, **options):
    return list(itertools.islice(digits.scenes(seed, **options), count))


def test_scenes_are_the_same_for_the_same_seed_and_keep_the_parts_apart():
    assert drawn(20, 3) == drawn(20, 3) != drawn(20, 4)
    assert max(scene.picture for scene in drawn(400, 0)) < digits.HELD_OUT
    assert min(scene.picture for scene in drawn(400, 0, held=True)) >= digits.HELD_OUT
    pictures, target = digits.pictures()
    assert pictures.shape == (1797, 8, 8) and pictures.min() == 0 and pictures.max() == 1
    assert Counter(target[digits.HELD_OUT :].tolist()).total() == 360
    # No picture is in both parts.
    parts = [{picture.tobytes() for picture in part} for part in np.split(pictures, [digits.HELD_OUT])]
    assert not parts[0] & parts[1]


def test_captions_are_what_parse_reads():
    every = digits.captions(100, seed=0)
    assert len(set(every)) == len(every) == 50 and digits.captions(5, seed=0) == every[:5]
    for text in every:
        assert str(digits.parse(text)) == text
    assert "an eight moving up" in every and "a seven moving left" in every
    assert {digits.caption(scene) for scene in drawn(600, 0)} == set(every)


@pytest.mark.parametrize(
    "prompt", ["", "a koala", "a eight moving up", "an one moving up", "a ten moving up"]
)
def test_other_sentences_are_refused(prompt):
    with pytest.raises(BadInput, match="not a sentence of the digits world"):
        digits.parse(prompt)


@pytest.mark.parametrize("motion", shapes.MOTIONS)
def test_a_rendering_is_the_picture_where_it_was_asked_for(motion):
    scene = digits.place(42, motion, np.random.default_rng(5))
    video = digits.render(scene)
    assert video.shape == (shapes.FRAMES, shapes.SIDE, shapes.SIDE, 3) and video.dtype == np.uint8
    ink, picture = video[..., 0] / 255, digits.pictures()[0][42]
    # All of its ink is inside the frame, in every frame: bilinear enlargement keeps the sum, nearly.
    assert ink.sum((1, 2)) == pytest.approx(picture.sum() * scene.scale**2, rel=0.02)
    at, own = np.arange(shapes.SIDE) + 0.5, np.arange(8) - 3.5
    for frame in range(shapes.FRAMES):
        step = np.array(shapes.MOTIONS[motion]) * scene.speed * frame
        for axis, centre, moved in ((0, scene.x, step[0]), (1, scene.y, step[1])):
            mean = (picture.sum(axis) * own).sum() / picture.sum()
            found = (ink[frame].sum(axis) * at).sum() / ink[frame].sum()
            assert found == pytest.approx(centre + moved + scene.scale * mean, abs=0.15)
    # One pixel against the bilinear formula by hand.
    y, x = 16, 15
    down = (y + 0.5 - scene.y) / scene.scale + 3.5
    across = (x + 0.5 - scene.x) / scene.scale + 3.5
    value = sum(
        picture[i, j] * max(0, 1 - abs(down - i)) * max(0, 1 - abs(across - j))
        for i in range(8)
        for j in range(8)
    )
    assert abs(video[0, y, x, 0] - 255 * value) <= 0.5


def test_the_reader_knows_pictures_that_it_never_saw():
    found = digits.accuracy()
    assert found["digit"] == pytest.approx(0.964, abs=0.01) and found["motion"] == 1
    assert found["score"] == pytest.approx((found["digit"] + 1) / 2)


def test_what_is_no_digit_of_the_training_pictures_is_unclear():
    black = np.zeros((1, 9, 32, 32, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1, 9, 32, 32, 3)).astype(np.uint8)
    assert digits.read(black) == [digits.Thing(UNCLEAR, UNCLEAR)]
    assert digits.read(noise)[0].digit == UNCLEAR
    some = np.stack([shapes.render(scene) for scene in itertools.islice(shapes.scenes(0), 40)])
    assert np.mean([thing.digit == UNCLEAR for thing in digits.read(some)]) > 0.8
    # Seen in too few frames.
    video = digits.render(drawn(1, 0)[0])
    video[::2] = 0
    assert digits.read(video[None])[0].digit == UNCLEAR


def test_marks_are_those_of_the_caption():
    scene = next(scene for scene in digits.scenes(1) if scene.motion == "moving left")
    video, other = digits.render(scene), "three" if scene.digit != "three" else "five"
    article = "an" if scene.digit == "eight" else "a"
    prompts = [f"{article} {scene.digit} moving left", f"{article} {scene.digit} moving up"]
    found = resolve("digits")(np.stack([video] * 3), [*prompts, f"a {other} moving left"])
    assert found["digit"].tolist() == [1, 1, 0] and found["motion"].tolist() == [1, 0, 1]
    assert found["score"].tolist() == [1, 0.5, 0.5] and found["all_right"].tolist() == [1, 0, 0]
    assert found["score"].dtype == torch.float64
    backwards = digits.read(video[None, ::-1])[0]
    assert backwards == digits.Thing(scene.digit, "moving right")


def test_videos_of_another_size_are_read_too():
    scenes = drawn(10, 2)
    large = [
        [np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in digits.render(s)] for s in scenes
    ]
    found = digits.read(np.array(large))
    expected = [digits.Thing(scene.digit, scene.motion) for scene in scenes]
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 9


def test_mistakes_are_one_line(monkeypatch):
    with pytest.raises(BadInput, match="the digits verifier reads uint8 videos"):
        digits.read(np.zeros((1, 9, 32, 16, 3), np.uint8))
    with pytest.raises(BadInput, match="1 videos but 2 prompts"):
        digits.attributes(np.zeros((1, 9, 32, 32, 3), np.uint8), ["a", "b"])
    digits.pictures.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    for use in (lambda: resolve("digits"), lambda: clips_of(World(world="digits", count=2), 4)):
        with pytest.raises(NotSupported, match="needs scikit-learn: pip install"):
            use()


def test_it_trains_and_it_prompts_experiments(tmp_path):
    clips = clips_of(World(world="digits", count=6, seed=3), 5)
    scene = next(digits.scenes((3 << 32) + 4))
    clips = pickle.loads(pickle.dumps(clips))  # as the processes that read ahead are given it
    assert len(clips) == 6 and clips.size == (32, 32) and clips.caption(4) == digits.caption(scene)
    assert np.array_equal(clips.read(4, 5, 0.99), digits.render(scene)[4:])
    with pytest.raises(BadInput, match="a clip of the digits world has 9 frames, not 10"):
        clips_of(World(world="digits", count=6), 10)
    recipe = {
        "schema": "seedbed.recipe/1",
        "name": "digits",
        "task": "generation",
        "models": ["shapes-cogvideox"],
        "prompts": {"world": "digits", "count": 20},
        "noises": {"count": 2},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    loaded = Recipe.load(path)
    assert loaded.captions() == digits.captions(20, seed=0)
    path.write_text(loaded.to_json())
    assert Recipe.load(path) == loaded
    path.write_text(json.dumps(recipe | {"prompts": {"world": "digits", "count": 51}}))
    with pytest.raises(BadInput, match="asks for 51 captions, there are 50"):
        Recipe.load(path).captions()
    path.write_text(json.dumps(recipe | {"prompts": {"world": "digits", "objects": 1, "count": 5}}))
    with pytest.raises(BadInput, match="no such key"):
        Recipe.load(path)


def test_larger_frames_show_the_same():
    """Averaged over two by two pixels, frames of twice the side are the small ones but for interpolation."""
    for scene in drawn(5, 3):
        small, large = digits.render(scene).astype(float), digits.render(scene, 64).astype(float)
        assert large.shape == (digits.FRAMES, 64, 64, 3)
        pooled = large.reshape(digits.FRAMES, 32, 2, 32, 2, 3).mean((2, 4))
        assert np.abs(pooled - small).mean() < 1 and np.abs(pooled - small).max() < 40


def test_the_logits_know_handwriting_that_was_kept_from_training_and_are_equal_for_nothing():
    scenes = list(itertools.islice(digits.scenes(0, held=True), 200))
    videos = np.stack([digits.render(scene) for scene in scenes])
    found = digits.logits(np.concatenate([videos, np.zeros_like(videos[:1])]))
    right = found[:-1].argmax(1) == [digits.DIGITS.index(scene.digit) for scene in scenes]
    assert found.shape == (201, 10) and right.mean() > 0.9
    assert not found[-1].any()
    # The score of real handwriting, of ten classes of which some are taken for others.
    assert 6 < inception_score(found[:-1], splits=4).mean < 10
