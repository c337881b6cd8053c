import errno
import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from seedbed.errors import BadInput, BadRecord, SeedbedError
from seedbed.report.video import encode_image, encode_video, read_record, write_video


def moving(frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth gradient that shifts by two pixels a frame."""
    column = np.linspace(0, 255, width)
    still = np.stack(
        [np.tile(column, (height, 1)), np.full((height, width), 90), np.tile(255 - column, (height, 1))], -1
    )
    return np.stack([np.roll(still, 2 * i, axis=1) for i in range(frames)]).astype(np.uint8)


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("shape", [(5, 48, 64), (1, 33, 31), (3, 301, 257)])
def test_video_is_the_frames_enlarged_by_a_whole_factor(shape: tuple[int, int, int]) -> None:
    frames = moving(*shape)
    shown = decoded(encode_video(frames, fps=8))
    assert len(shown) == len(frames)
    factor = -(-256 // min(shape[1:]))
    height, width = shape[1] * factor, shape[2] * factor
    assert shown.shape[1:3] == (height + height % 2, width + width % 2)
    assert min(shown.shape[1:3]) >= 256
    middle = shown[:, factor // 2 : height : factor, factor // 2 : width : factor].astype(int)
    # 4:2:0 chroma and quantisation, averaged over the picture; a wrong colour matrix is off by far more.
    assert np.abs(middle - frames).mean() < 3


def test_rate_and_record_are_in_the_container() -> None:
    record = {"prompt": 'a "red" <circle> & ünïcode \u2603\n', "filler": ["0123456789" * 10] * 500}
    with av.open(io.BytesIO(encode_video(moving(), fps=12.5, metadata=record))) as container:
        assert float(container.streams.video[0].average_rate) == 12.5
        assert len(container.metadata["comment"]) > 50_000


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png"])
def test_long_record_survives_the_round_trip(tmp_path, suffix: str) -> None:
    record = {"prompt": 'a "red" <circle> & ünïcode \u2603\n', "scores": [[i / 7, None] for i in range(2500)]}
    assert len(str(record)) > 50_000
    path = tmp_path / f"video{suffix}"
    write_video(path, moving(1 if suffix == ".png" else 3), metadata=record)
    assert read_record(path) == record


def test_same_input_same_bytes() -> None:
    assert encode_video(moving(), 8, {"seed": 1}) == encode_video(moving(), 8, {"seed": 1})


def test_png_is_lossless(tmp_path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(encode_image(frame, {"seed": 1}))
    with av.open(str(path)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(shown, frame)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_their_shape(frames: np.ndarray) -> None:
    with pytest.raises(BadInput, match="frames must be uint8"):
        encode_video(frames)


def test_webm_and_gif_show_the_frames_at_their_rate(tmp_path) -> None:
    frames = moving(7)
    write_video(tmp_path / "a.webm", frames, 12.5)
    write_video(tmp_path / "a.gif", frames, 12.5)
    with av.open(str(tmp_path / "a.webm")) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
        assert float(container.streams.video[0].average_rate) == 12.5
    shown = decoded((tmp_path / "a.webm").read_bytes())[:, 3::6, 3::6].astype(int)
    assert shown.shape == frames.shape and np.abs(shown - frames).mean() < 3
    with Image.open(tmp_path / "a.gif") as gif:
        lasting, pictures = [], []
        for index in range(gif.n_frames):
            gif.seek(index)
            lasting.append(gif.info["duration"])
            pictures.append(np.asarray(gif.convert("RGB")))
    assert lasting == [80] * 7
    assert np.abs(np.stack(pictures).astype(int) - frames).mean() < 6


@pytest.mark.parametrize("fps", [7, 24, 100])
def test_a_gif_keeps_its_length_in_hundredths_of_a_second(tmp_path, fps: int) -> None:
    write_video(tmp_path / "a.gif", moving(12), fps)
    with Image.open(tmp_path / "a.gif") as gif:
        lasting = []
        for index in range(gif.n_frames):
            gif.seek(index)
            lasting.append(gif.info["duration"])
    assert sum(lasting) == pytest.approx(12_000 / fps, abs=5) and min(lasting) >= 10


def test_unknown_suffix_and_png_of_many_frames(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"cannot write '\.avi' files"):
        write_video(tmp_path / "a.avi", moving())
    with pytest.raises(BadInput, match="holds one frame, not 5"):
        write_video(tmp_path / "a.png", moving())
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_one_line(tmp_path) -> None:
    with pytest.raises(BadInput) as caught:
        write_video(tmp_path / "missing" / "a.mp4", moving())
    assert "missing" in str(caught.value) and "\n" not in str(caught.value)


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SeedbedError, match="No space left on device") as caught:
        write_video(path, moving())
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_damaged_and_foreign_files_are_refused(tmp_path) -> None:
    whole = encode_video(moving(), metadata={"seed": 1})
    cases = {
        "none.mp4": encode_video(moving()),
        "cut.mp4": whole[: len(whole) // 2],
        "none.png": encode_image(moving(1)[0]),
        "cut.png": encode_image(moving(1)[0], {"seed": 1})[:55],
        "cut.json": b'{"seed": 1',
        "list.json": b"[1, 2]",
        "noise.json": bytes(range(256)),
        "empty.json": b"",
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadRecord, match=name) as caught:
            read_record(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"cannot read the record .*No such file"):
        read_record(tmp_path / "absent.json")


@pytest.mark.parametrize("suffix", [".json", ".png", ".mp4"])
def test_reading_a_record_imports_no_more_than_its_file_needs(tmp_path, suffix: str) -> None:
    path = tmp_path / f"record{suffix}"
    if suffix == ".json":
        path.write_text('{"seed": 1}')
    else:
        write_video(path, moving(1), metadata={"seed": 1})
    code = (
        "import sys; from seedbed.report import page, video; "
        f"assert video.read_record({str(path)!r}) == {{'seed': 1}}; "
        "print(*sorted({'torch', 'diffusers', 'jinja2', 'av'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == (["av"] if suffix == ".mp4" else [])


def test_a_webm_refuses_a_record_that_it_would_lose(tmp_path) -> None:
    frames = moving(1, 256, 256)
    largest = {"prompt": "x" * (2**24 - 14)}
    write_video(tmp_path / "a.webm", frames, metadata=largest)
    assert read_record(tmp_path / "a.webm") == largest
    larger = {"prompt": "x" * (2**24 - 13)}
    with pytest.raises(BadInput, match=r"a .webm carries a record of 16 MiB at most.*name it .mp4"):
        write_video(tmp_path / "b.webm", frames, metadata=larger)
    write_video(tmp_path / "b.mp4", frames, metadata=larger)
    assert read_record(tmp_path / "b.mp4") == larger


def test_a_gif_refuses_a_rate_that_it_cannot_show(tmp_path) -> None:
    write_video(tmp_path / "a.gif", moving(3), 100)
    assert Image.open(tmp_path / "a.gif").info["duration"] == 10
    with pytest.raises(BadInput, match=r"a \.gif shows at most 100 frames per second, not 101"):
        write_video(tmp_path / "b.gif", moving(3), 101)
