"""The shapes world: scenes are lawful and reproducible, and the verifier reads exactly what was drawn."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from seedbed.errors import BadInput
from seedbed.worlds import shapes, verifier
from seedbed.worlds.shapes import Body


def drawn(count, seed, **options):
    return list(itertools.islice(shapes.scenes(seed, **options), count))


def test_scenes_are_the_same_for_the_same_seed():
    assert drawn(20, 3) == drawn(20, 3)
    assert drawn(20, 3) != drawn(20, 4)


def test_no_training_scene_is_held_out_and_every_held_out_scene_is():
    assert not any(shapes.held_out(s) for s in drawn(300, 0))
    assert all(shapes.held_out(s) for s in drawn(50, 0, held=True))


def test_holding_out_ignores_the_order_of_the_objects():
    pairs = [shapes.parse(c) for c in shapes.captions(200, objects=2, seed=0, held=True)]
    assert all(shapes.held_out(pair[::-1]) for pair in pairs)


def test_captions_are_distinct_split_and_complete():
    kept = shapes.captions(10_000, objects=2, seed=0, held=False)
    held = shapes.captions(10_000, objects=2, seed=0, held=True)
    assert len({*kept, *held}) == len(kept) + len(held) == 60 * 45
    singles = [len(shapes.captions(100, objects=1, seed=0, held=held)) for held in (False, True)]
    assert sum(singles) == 60 and min(singles) > 0


def test_a_caption_says_what_parse_reads():
    for scene in drawn(50, 1):
        assert [str(thing) for thing in shapes.parse(shapes.caption(scene))] == [str(body) for body in scene]


@pytest.mark.parametrize(
    "prompt", ["", "a koala", "a red circle", "a red circle moving left and", "a pink circle moving up"]
)
def test_other_sentences_are_refused_in_one_line(prompt):
    with pytest.raises(BadInput, match="not a sentence of the shapes world") as caught:
        shapes.parse(prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_coverage_has_the_area_and_centre_it_was_asked_for(shape):
    mask = shapes.coverage(shape, np.array(15.3), np.array(16.1), np.array(6.0))
    at = np.arange(shapes.SIDE) + 0.5
    assert mask.sum() == pytest.approx(np.pi * 36, rel=0.02)
    assert (mask.sum(axis=0) * at).sum() / mask.sum() == pytest.approx(15.3, abs=0.1)
    assert (mask.sum(axis=1) * at).sum() / mask.sum() == pytest.approx(16.1, abs=0.15)


def test_the_verifier_reads_rendered_videos_without_a_mistake():
    scenes = drawn(150, 7)
    readings = verifier.read(np.stack([shapes.render(scene) for scene in scenes]))
    for scene, reading in zip(scenes, readings, strict=True):
        assert verifier.judge(reading, shapes.caption(scene))["all_right"], (scene, reading)
        assert reading.pieces == len(scene)


RED = Body("red", "square", "moving right", 9.0, 9.0, 5.0, 1.2)
BLUE = Body("blue", "circle", "staying still", 22.0, 22.0, 5.0, 1.0)


def verdict(frames, prompt):
    return verifier.judge(verifier.read(frames[None])[0], prompt)


def test_swapped_colours_and_shapes_are_seen():
    frames = shapes.render((RED, BLUE))
    swapped = verdict(frames, "a blue square moving right and a red circle staying still")
    assert swapped["count"] == swapped["colour"] == 1
    assert swapped["shape"] == swapped["motion"] == 0
    assert swapped["score"] == pytest.approx(3 / 7)


def test_a_missing_and_an_extra_object_are_seen():
    both, one = shapes.render((RED, BLUE)), shapes.render((RED,))
    assert not verdict(both, str(RED))["count"]
    missing = verdict(one, f"{RED} and {BLUE}")
    assert missing["colour"] == 0.5 and not missing["count"]


def test_an_object_in_two_pieces_is_two_objects():
    frames = shapes.render((BLUE,))
    frames[:, 21:23] = 0
    result = verdict(frames, str(BLUE))
    assert not result["count"] and not result["all_right"]


def test_a_rounded_block_is_neither_circle_nor_square_for_sure():
    circle = shapes.coverage("circle", np.array(16.0), np.array(16.0), np.array(6.0))
    half = np.where(np.arange(shapes.SIDE)[:, None] < 16, circle, 0.0)
    frames = np.rint(half[..., None] * np.array(shapes.COLOURS["green"])).astype(np.uint8)
    reading = verifier.read(np.repeat(frames[None], shapes.FRAMES, axis=0)[None])[0]
    assert reading.objects[0].shape == verifier.UNCLEAR


def test_a_diagonal_motion_is_unclear_and_a_black_video_is_empty():
    frames = np.stack([shapes.render((replace(BLUE, x=8 + t, y=8 + t),))[0] for t in range(9)])
    assert verifier.read(frames[None])[0].objects[0].motion == verifier.UNCLEAR
    empty = verifier.read(np.zeros_like(frames)[None])[0]
    assert empty.objects == () and empty.pieces == 0


def test_score_is_the_share_of_right_attributes():
    frames = np.stack([shapes.render((RED,)), shapes.render((RED,))])
    scores = verifier.attributes(frames, [str(RED), "a red circle moving right"])["score"]
    assert scores.tolist() == [1.0, 0.75]


def test_attributes_are_counted_over_the_prompted_objects():
    found = verifier.attributes(shapes.render((RED,))[None], [f"{RED} and {BLUE}"])
    assert {name: value.item() for name, value in found.items()} == {
        "score": 3 / 7, "all_right": 0.0, "colour": 0.5, "shape": 0.5, "motion": 0.5, "count": 0.0
    }  # fmt: skip


def test_wrong_inputs_are_named():
    with pytest.raises(BadInput, match="uint8"):
        verifier.read(np.zeros((1, 9, 32, 32, 3)))
    with pytest.raises(BadInput, match="2 videos but 1 prompts"):
        verifier.attributes(np.zeros((2, 9, 32, 32, 3), np.uint8), ["a red circle moving left"])


def test_captions_are_those_that_the_published_results_are_about():
    """They follow from numpy's generator; recipes name them by their number and seed alone."""
    assert shapes.captions(2, objects=2, seed=0, held=True) == [
        "a green triangle moving up and a blue triangle moving left",
        "a red circle moving up and a yellow circle staying still",
    ]
    assert shapes.captions(1, objects=1, seed=0, held=True) == ["a green square moving up"]


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_as_many_scenes_have_two_objects_as_was_asked_for(share):
    found = np.mean([len(scene) == 2 for scene in drawn(400, 2, pairs=share)])
    assert found == pytest.approx(share, abs=0.1)


def test_parse_takes_at_most_two_objects():
    with pytest.raises(BadInput, match="not a sentence of the shapes world"):
        shapes.parse(" and ".join(str(thing) for thing in shapes.all_things()[:3]))


def test_scenes_keep_to_their_sizes_speeds_and_distance():
    """Their videos could not be read without a mistake otherwise."""
    pairs = drawn(200, 11, pairs=1.0)
    bodies = [body for pair in pairs for body in pair]
    assert all(4.2 <= body.radius <= 5.8 and 0.9 <= body.speed <= 1.5 for body in bodies)
    for pair in pairs:
        a, b = (shapes.coverage(o.shape, *o.track().T, np.full(shapes.FRAMES, o.radius)) > 0 for o in pair)
        assert not (a & b).any(), pair
    edges = np.stack([shapes.render(pair)[:, [0, -1], :] for pair in pairs])
    assert edges.max() < 128


def test_noise_in_the_frames_does_not_change_what_is_read():
    scenes = drawn(60, 5)
    frames = np.stack([shapes.render(scene) for scene in scenes]).astype(float)
    noisy = np.clip(frames + np.random.default_rng(0).normal(0, 20, frames.shape), 0, 255).astype(np.uint8)
    for scene, reading in zip(scenes, verifier.read(noisy), strict=True):
        assert verifier.judge(reading, shapes.caption(scene))["all_right"]


def test_touching_objects_are_two_and_overlapping_ones_are_not_right():
    near, far = (
        (Body("red", "circle", "staying still", 16 - apart, 16.0, 5.0, 1.0),
              Body("blue", "circle", "staying still", 16 + apart, 16.0, 5.0, 1.0))
        for apart in (3.5, 5.0)
    )  # fmt: skip
    assert verdict(shapes.render(far), shapes.caption(far))["all_right"]
    assert not verdict(shapes.render(near), shapes.caption(near))["all_right"]


def test_two_objects_of_one_colour_are_not_one():
    twice = tuple(replace(RED, x=8.0, y=y, radius=4.5, speed=1.0) for y in (8.0, 24.0))
    result = verdict(shapes.render(twice), str(RED))
    assert not result["count"] and not result["shape"]


def test_an_object_that_leaves_the_frame_is_not_what_it_was():
    leaving = (replace(RED, x=24.0, y=16.0, speed=1.5),)
    assert verdict(shapes.render(leaving), str(RED))["shape"] == 0
    gone = (replace(RED, x=24.0, y=16.0, speed=2.4),)
    assert verdict(shapes.render(gone), str(RED))["colour"] == 0


def test_an_object_must_be_there_in_three_quarters_of_the_frames():
    frames = shapes.render((BLUE,))
    frames[[3, 6]] = 0
    assert verdict(frames, str(BLUE))["all_right"]
    frames[7] = 0
    assert verdict(frames, str(BLUE))["colour"] == 0


@pytest.mark.parametrize(("pixels", "counted"), [(4, 1), (6, 2)])
def test_a_speck_is_no_object(pixels, counted):
    frames = shapes.render((BLUE,))
    frames[:, 2:4, 2 : 2 + pixels // 2] = shapes.COLOURS["blue"]
    assert verifier.read(frames[None])[0].pieces == counted


@pytest.mark.parametrize(("drift", "motion"), [(2.0, "staying still"), (3.0, "moving right")])
def test_an_object_stands_still_up_to_two_pixels_and_a_half(drift, motion):
    moved = (replace(RED, x=12.0, y=16.0, speed=drift / (shapes.FRAMES - 1)),)
    assert verifier.read(shapes.render(moved)[None])[0].objects[0].motion == motion
