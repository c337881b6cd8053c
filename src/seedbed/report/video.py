"""Frames to a video file that carries its own record, and the record back out of it."""

import io
import json
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import BadInput, BadRecord
from seedbed.files import write_bytes_atomically

SHORT_SIDE = 256  # players smear a 64-pixel video; below this a frame is enlarged by a whole factor
KEYWORD = b"seedbed"  # of the text chunk that holds the record in a PNG
SIGNATURE = b"\x89PNG\r\n\x1a\n"
BT709 = 1


def encode_video(frames: NDArray[np.uint8], fps: float = 8, metadata: dict[str, Any] | None = None) -> bytes:
    """H.264 in an MP4 container; the same input gives the same bytes on the same build of x264.

    Frames whose short side is under 256 pixels are enlarged by an integer factor (nearest neighbour), and odd
    sides repeat their last row or column, since 4:2:0 chroma needs even ones.

    Args:
        frames: uint8 (frames, height, width, 3), RGB.
        fps: frames per second.
        metadata: any JSON-able dict; it goes into the container's comment.

    Raises:
        BadInput: frames of any other shape or dtype.
    """
    import av  # slow to import, and a record that is no video is read without it
    from av.codec.context import Flags

    frames = _enlarge(_checked(frames))
    _, height, width, _ = frames.shape
    buffer = io.BytesIO()
    # One thread and no version stamps: otherwise the bytes depend on the machine.
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        if metadata is not None:
            container.metadata["comment"] = _dumps(metadata)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.options = {"crf": "14", "preset": "medium"}
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= Flags.bitexact
        # Untagged, players guess the matrix from the size, and colours shift.
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = BT709
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_image(frame: NDArray[np.uint8], metadata: dict[str, Any] | None = None) -> bytes:
    """Lossless PNG of one uint8 (height, width, 3) RGB frame at its own size; `metadata` in a text chunk."""
    height, width, _ = _checked(frame[None])[0].shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), frame.reshape(height, width * 3)], axis=1)
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))]
    if metadata is not None:
        chunks.append((b"tEXt", KEYWORD + b"\0" + _dumps(metadata).encode()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def write_video(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    fps: float = 8,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write uint8 (frames, height, width, 3) as .mp4, or one frame as .png; `read_record` reads `metadata`.

    Nothing half-written remains, whatever happens.

    Raises:
        BadInput: another suffix or shape, a missing folder, or a system that refuses to write.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".mp4":
        data = encode_video(frames, fps, metadata)
    elif suffix == ".png":
        if len(frames) != 1:
            raise BadInput(f"{path}: a .png holds one frame, not {len(frames)}; name the file .mp4")
        data = encode_image(frames[0], metadata)
    else:
        raise BadInput(f"{path}: cannot write '{suffix}' files; name it .mp4 (or .png for a single image)")
    write_bytes_atomically(path, data)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in a .json, .mp4 or .png file, as the dict that was written.

    Raises:
        BadInput: there is no such file.
        BadRecord: it holds no record, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no record at {path}: there is no such file")
    data = path.read_bytes()
    if data.startswith(SIGNATURE):
        text = _png_text(data)
    elif data[4:8] == b"ftyp":
        import av

        try:
            with av.open(io.BytesIO(data)) as container:
                text = container.metadata.get("comment")
        except (av.FFmpegError, UnicodeDecodeError) as error:
            raise BadRecord(f"{path} is a damaged video; use the .json record beside it") from error
    else:
        text = data.decode(errors="replace")
    if text is None:
        raise BadRecord(f"{path} carries no record; only files written by seedbed can be replayed")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{path} is not a readable record (damaged or foreign file)") from error
    if not isinstance(record, dict):
        raise BadRecord(f"{path} is not a record: it holds a {type(record).__name__}, not an object")
    return record


def _checked(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise BadInput(
            f"frames must be uint8 (frames, height, width, 3), not {frames.dtype} {tuple(frames.shape)}"
        )
    return frames


def _enlarge(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = -(-SHORT_SIDE // min(frames.shape[1:3]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def _dumps(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, allow_nan=False)


def _png_text(data: bytes) -> str | None:
    offset = len(SIGNATURE)
    while offset + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + size]
        if kind == b"tEXt" and body.startswith(KEYWORD + b"\0"):
            return body[len(KEYWORD) + 1 :].decode(errors="replace")
        offset += size + 12
    return None
