"""Videos of any origin, read at another rate and in another size."""

import struct

import av
import numpy as np
import pytest

from seedbed.errors import BadInput
from seedbed.report.footage import conformed, read_frames, seconds_of


def write(path, frames, rate, codec="mpeg4"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def greys(count, height=48, width=64):
    """Frame i is of grey level 4 i."""
    return np.broadcast_to(
        (4 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, height, width, 3)
    )


@pytest.mark.parametrize(("rate", "fps"), [(25, 8), (30, 8), (8, 8), (5, 10)])
def test_at_each_time_the_frame_is_taken_that_is_shown(tmp_path, rate, fps):
    path = write(tmp_path / "a.mp4", np.ascontiguousarray(greys(40)), rate)
    frames, own = read_frames(path, 9, fps)
    assert frames.shape == (9, 48, 64, 3) and own == {"width": 64, "height": 48, "fps": rate}
    expected = [4 * int(i / fps * rate + 1e-6) for i in range(9)]
    assert np.abs(frames.mean((1, 2, 3)) - expected).max() <= 2


def test_a_video_just_long_enough_is_taken(tmp_path):
    path = write(tmp_path / "a.mp4", np.ascontiguousarray(greys(9)), 8)
    assert len(read_frames(path, 9, 8)[0]) == 9
    with pytest.raises(BadInput, match=r"a.mp4 is too short: it lasts 1.12 s, and 10 frames at 8"):
        read_frames(path, 10, 8)


def test_a_video_that_was_filmed_upright_is_shown_so(tmp_path):
    """The header of a telephone's video says by which quarter it is to be turned, here clockwise."""
    lying = np.zeros((8, 48, 64, 3), np.uint8)
    lying[:, :, :16] = 255
    path = write(tmp_path / "a.mp4", lying, 8)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)
    frames, own = read_frames(path, 8, 8)
    assert frames.shape == (8, 64, 48, 3) and (own["width"], own["height"]) == (48, 64)
    assert frames[:, :12].min() > 200 and frames[:, 20:].max() < 50
    assert seconds_of(path) == pytest.approx(1.0)


def test_what_is_no_video_is_one_line(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(BadInput, match=r"a.mp4 is not a video that can be read"):
        read_frames(tmp_path / "a.mp4", 9, 8)
    with pytest.raises(BadInput, match="cannot read the video"):
        read_frames(tmp_path / "b.mp4", 9, 8)


def test_the_middle_is_kept_and_an_enlarged_video_shrinks_back():
    small = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    large = np.zeros((2, 32, 48, 3), np.uint8)
    large[:, :, 8:40] = small.repeat(4, 1).repeat(4, 2)
    found, middle = conformed(large, 8, 8)
    assert middle == (32, 32) and np.array_equal(found, small)
    found, middle = conformed(small, 16, 32)
    assert middle == (4, 8) and found.shape == (2, 16, 32, 3)
