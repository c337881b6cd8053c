"""Clips from real files of many kinds, and rows that are functions of their number."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from seedbed.errors import BadInput
from seedbed.noise import Mixed, Progressive
from seedbed.progress import silent
from seedbed.training.config import Plan, Videos, World
from seedbed.training.data import FileClips, Latents, Rows, WorldClips, clips_of, readable
from seedbed.training.denoisers import latents_of
from seedbed.training.diffusion import train
from tests.pipelines.parts import image_vae


def write(path, frames, rate=24, codec="libx264", pixels="yuv420p", size=(48, 64), times=None, options=None):
    """A file whose frame i is of grey level 4 i; `times` in ticks of 1/1000 s for a variable rate."""
    height, width = size
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = height, width, pixels, 4_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            grey = np.full((height, width, 3), 4 * number, np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six files of different codecs, sizes and rates, two cut short, one that is no video."""
    place = tmp_path_factory.mktemp("videos")
    uneven = [0, 30, 90, 250, 260, 400, 430, 600, 610, 700, 900, 910, 1000, 1100, 1150, 1300]
    write(place / "a.mp4", 48)
    write(place / "b.avi", 30, 15, "mpeg4", size=(36, 90))
    write(place / "c.webm", 20, 10, "libvpx-vp9", size=(34, 46))
    write(place / "d.mkv", 16, 8, "ffv1", "bgr0", size=(31, 47))
    write(place / "e.mov", 24, 12, "mjpeg", "yuvj420p", size=(33, 33))
    write(place / "f.mp4", 16, 1000, times=uneven)
    whole = write(place / "g.mp4", 48).read_bytes()  # its table of contents comes last
    (place / "g.mp4").write_bytes(whole[: len(whole) // 2])
    (place / "h.mp4").write_text("no video at all")
    whole = write(place / "i.mp4", 48, options={"movflags": "faststart"}).read_bytes()
    (place / "i.mp4").write_bytes(whole[: len(whole) * 4 // 5])
    for file in sorted(place.iterdir()):
        file.with_suffix(".txt").write_text(f"a red circle moving left {file.stem}\n")
    return place


def videos(folder, **changes):
    return Videos(**{"videos": str(folder), "fps": 8, "height": 16, "width": 24, **changes})


def test_files_are_cut_into_clips_of_one_size_and_rate(folder):
    clips = FileClips.of(videos(folder), 4)
    starts = {}
    for file, begin in clips.clips:
        starts.setdefault(file[-5:], []).append(begin)
    # 2 s, 2 s, 2 s, 2 s, 2 s and 1.3 s, in clips of half a second
    assert [len(starts[name]) for name in ("a.mp4", "b.avi", ".webm", "d.mkv", "e.mov", "f.mp4")] == [
        *(4, 4, 4, 4, 4, 2)
    ]
    assert starts["a.mp4"] == [0, 0.5, 1, 1.5]
    for number in range(len(clips)):
        assert clips.read(number, 4, 0.0).shape == (4, 16, 24, 3)


@pytest.mark.parametrize("name", ["a.mp4", "b.avi", "c.webm", "d.mkv", "e.mov"])
def test_a_clip_has_the_frames_that_are_shown_at_its_times(folder, name):
    clips = FileClips.of(videos(folder), 4)
    rate = {"a.mp4": 24, "b.avi": 15, "c.webm": 10, "d.mkv": 8, "e.mov": 12}[name]
    for number, (file, begin) in enumerate(clips.clips):
        if file.endswith(name):
            expected = [4 * int((begin + i / 8) * rate + 1e-6) for i in range(4)]
            assert np.abs(clips.read(number, 4, 0.0).mean((1, 2, 3)) - expected).max() <= 3
            still = clips.read(number, 1, 0.6)  # the third of four
            assert still.shape[0] == 1 and abs(still.mean() - expected[2]) <= 3


def test_uneven_times_are_kept(folder):
    clips = FileClips.of(videos(folder), 8)
    number = next(n for n, (file, _) in enumerate(clips.clips) if file.endswith("f.mp4"))
    # At 0, 125, 250, ... ms the last frame that began before.
    shown = [0, 2, 3, 4, 6, 7, 9, 9]
    assert np.abs(clips.read(number, 8, 0.0).mean((1, 2, 3)) - 4 * np.array(shown)).max() <= 3


def test_files_that_cannot_be_used_are_named_and_counted(folder):
    clips = FileClips.of(videos(folder), 4)
    assert [file[-5:] for file in clips.broken] == ["g.mp4", "h.mp4"]
    named = "2 of 9 files: g.mp4 is not a video that can be read ("
    assert clips.complaint().startswith(named) and "; h.mp4 is not a video that can be" in clips.complaint()
    # Of the file that begins with its table of contents, the part that is there.
    there = [number for number, (file, _) in enumerate(clips.clips) if file.endswith("i.mp4")]
    assert 0 < len(there) < 4 and clips.read(there[0], 4, 0.0).any()
    long = FileClips.of(videos(folder), 16).complaint()
    assert "f.mp4 lasts 1." in long and "too short for 16 frames at 8 per second" in long


def test_a_resumed_training_sees_the_same_clips(folder, tmp_path):
    first = clips_of(videos(folder), 4, tmp_path / "clips.json")
    again = clips_of(videos(tmp_path / "gone"), 4, tmp_path / "clips.json")
    assert again.clips == first.clips and again.captions == first.captions and again.broken == first.broken


def test_a_list_of_files_with_captions(folder, tmp_path):
    path = folder / "list.jsonl"
    path.write_text('{"video": "a.mp4", "caption": "first"}\n\n{"video": "d.mkv", "caption": "second"}\n')
    clips = FileClips.of(videos(path), 4)
    path.unlink()
    assert [clips.caption(n) for n in (0, 4)] == ["first", "second"] and len(clips) == 8


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        ({}, {}, "there are no videos in .*: their names end in .mp4"),
        ({"a.mp4": "x", "b.mp4": "x", "b.txt": "said"}, {}, "1 of 2 videos have no caption, a.mp4 the first"),
        ({"a.mp4": "x"}, {"captions": False}, "no video of .* can be used: 1 of 1 files: a.mp4 is not"),
        ({"l.jsonl": '{"file": "a"}'}, {"videos": "l.jsonl"}, 'l.jsonl, line 1: write {"video": path'),
        ({}, {"videos": "none"}, "neither a folder nor a .jsonl file is there"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(tmp_path, files, changes, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if "videos" in changes:
        changes = {"videos": str(tmp_path / changes["videos"])}
    with pytest.raises(BadInput, match=message) as raised:
        FileClips.of(
            videos(**{"folder": tmp_path, **changes})
            if "videos" not in changes
            else Videos(fps=8, height=16, width=16, **changes),
            4,
        )
    assert "\n" not in str(raised.value)


def test_a_folder_of_real_files_trains_ten_steps_and_the_bad_ones_are_named(folder, config_of, tmp_path):
    data = {"videos": str(folder), "fps": 8, "height": 16, "width": 16}
    config = config_of(data=data, steps=10, batch=1, stills={"share": 0.3}, prior="progressive:2")
    made = train(config, tmp_path / "run", False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 10 and np.isfinite(losses).all()
    assert "h.mp4" in made.complaint and "h.mp4" in (made.model / "README.md").read_text()


class Coder:
    """Its latents are the red of the pixels, in one channel."""

    asked = 0

    def encode(self, pixels):
        self.asked += 1
        return pixels[..., 0].float()[:, None]


class Broken:
    """Five clips of which some cannot be read."""

    size = (4, 4)

    def __init__(self, damaged=(1, 2)):
        self.damaged = damaged

    def __len__(self):
        return 5

    def caption(self, number):
        return str(number)

    def read(self, number, frames, share):
        if number in self.damaged:
            raise BadInput(f"clip {number} is damaged")
        return np.full((frames, 4, 4, 3), number, np.uint8)


def test_a_clip_that_breaks_on_the_way_is_replaced_by_the_next():
    assert readable(Broken(), 0, 2, 0.0)[1:] == (0, [])
    frames, number, broken = readable(Broken(), 1, 2, 0.0)
    assert (frames == 3).all() and number == 3
    assert broken == ["clip 1 is damaged", "clip 2 is damaged"]
    with pytest.raises(BadInput, match="5 clips in a row cannot be read, the last one: clip 4 is damaged"):
        readable(Broken(range(5)), 0, 2, 0.0)


def test_and_has_the_caption_of_that_one(tmp_path):
    latents = Latents(tmp_path / "latents", Broken())
    latents.fill(2, Coder(), (0, 1), silent)
    for held in (None, latents):
        made = Rows(Broken(), 2, seed=0, size=5, shape=(1, 2, 4, 4), axis=1, prior=Mixed(1.0), latents=held)
        for index in range(10):
            row = made[index]
            assert row["caption"] == str(int(row["clip"].flatten()[0])) and row["caption"] not in "12"


def rows(**changes):
    given = dict(frames=4, seed=3, size=4, shape=(2, 4, 3, 3), axis=1, prior=Progressive(2.0), dropout=0.3)
    return Rows(WorldClips(World(world="shapes", count=10), 4), **{**given, **changes})


def test_a_row_depends_on_its_number_alone():
    here, elsewhere = rows(), rows()
    for index in (11, 3, 40, 3):
        one, other = here[index], elsewhere[index]
        assert torch.equal(one["noise"], other["noise"]) and torch.equal(one["clip"], other["clip"])
        assert (one["caption"], one["share"]) == (other["caption"], other["share"])
    assert not torch.equal(here[3]["noise"], here[4]["noise"])
    assert not torch.equal(here[3]["noise"], rows(seed=4)[3]["noise"])


def test_an_epoch_has_every_clip_once_and_a_step_every_part_of_the_schedule():
    made = rows(dropout=0.0, size=5)
    captions = sorted(made[i]["caption"] for i in range(10))
    assert captions == sorted(made[i]["caption"] for i in range(10, 20))
    assert captions == sorted(made.clips.caption(n) for n in range(10))
    assert sorted(int(made[i]["share"] * 5) for i in range(15, 20)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("prior", "lags"), [(Progressive(2.0), [1, 0.8944, 0.8, 0.7155]), (Mixed(1.0), [1, 0.5, 0.5, 0.5])]
)
def test_noise_has_the_correlation_of_the_prior_and_stills_are_plain(prior, lags):
    made = rows(prior=prior, stills=0.5, shape=(2, 4, 8, 8))
    drawn = [made[i]["noise"] for i in range(400)]
    videos = torch.stack([noise for noise in drawn if noise.shape[1] == 4]).double()
    stills = torch.stack([noise for noise in drawn if noise.shape[1] == 1]).double()
    assert 0.4 < len(stills) / 400 < 0.6 and len(stills) + len(videos) == 400
    flat = videos.transpose(1, 2).transpose(0, 1).flatten(1).transpose(0, 1).reshape(-1, 4)
    covariance = flat.T @ flat / len(flat)
    expected = torch.tensor([[lags[abs(i - j)] for j in range(4)] for i in range(4)])
    assert (covariance - expected).abs().max() < 0.04  # some 25,000 draws: five standard errors
    assert abs(stills.var() - 1) < 0.05
    kept = [made[i] for i in range(40)]
    assert {len(row["clip"]) for row in kept} == {1, 4}
    # All rows of a step are of one kind, so that they are one batch.
    assert all(len({len(row["clip"]) for row in kept[i : i + 4]}) == 1 for i in range(0, 40, 4))
    assert default_collate(kept[:4])["noise"].shape[0] == 4


def test_captions_are_dropped_in_their_share():
    made = rows(dropout=0.25)
    assert 0.18 < np.mean([made[i]["caption"] == "" for i in range(400)]) < 0.32


def test_processes_share_the_rows_of_a_step():
    plan = Plan(steps=3, batch=2, accumulate=2)
    one, two = ([*plan.forwards(1, 8, process)] for process in (0, 1))
    assert one == [[8, 9], [10, 11], [16, 17], [18, 19]] and two == [[12, 13], [14, 15], [20, 21], [22, 23]]
    assert [*Plan(steps=3, batch=8).forwards(2, 8, 0)] == [[*range(16, 24)]]


def test_cached_latents_are_those_that_would_be_encoded(tmp_path):
    clips = WorldClips(World(world="shapes", count=70), 4)
    coder = Coder()
    latents = Latents(tmp_path / "latents", clips)
    latents.fill(4, coder, (1, 2), silent)
    assert coder.asked == 6
    latents.fill(4, coder, (0, 1), silent)
    assert coder.asked == 70  # what is there is not encoded again
    for number in (0, 63, 69):
        found, which, broken = latents.read(number, 4, 0.0, 1)
        assert torch.equal(found, torch.from_numpy(clips.read(number, 4, 0.0))[..., 0].float()[None])
        still = latents.read(number, 1, 0.6, 1)[0]
        assert torch.equal(still, found[:, 2:3]) and (which, broken) == (number, [])


def test_frames_are_encoded_in_the_precision_of_the_autoencoder():
    vae, frames = image_vae().eval(), torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(1, 3, 2, 16, 16)
    with torch.no_grad():
        exact, rounded = latents_of(vae, frames), latents_of(vae.to(torch.bfloat16), frames)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
