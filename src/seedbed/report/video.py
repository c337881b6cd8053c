"""Frames to a video file that carries its own record, and the record back out of it."""

import io
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from seedbed.errors import BadInput, BadRecord
from seedbed.files import read_bytes, write_bytes_atomically

SHORT_SIDE = 256  # players smear a 64-pixel video; below this a frame is enlarged by a whole factor
KEYWORD = "seedbed"  # of the text chunk that holds the record in a PNG
BT709 = 1
_WEBM_LARGEST = 2**24  # bytes of a text: longer ones are written, and passed over when they are read


# Container, encoder and quality: about as good as each other.
ENCODERS = {
    ".mp4": ("mp4", "libx264", {"crf": "14", "preset": "medium"}),
    ".webm": ("webm", "libvpx-vp9", {"crf": "18", "b": "0"}),
}
ENDINGS = (*ENCODERS, ".gif", ".png")  # of the files that `write_video` writes


def encode_video(
    frames: NDArray[np.uint8], fps: float = 8, metadata: dict[str, Any] | None = None, ending: str = ".mp4"
) -> bytes:
    """H.264 in MP4, or VP9 in WebM; the same input gives the same bytes on the same build of the encoder.

    Frames whose short side is under 256 pixels are enlarged by an integer factor (nearest neighbour), and odd
    sides repeat their last row or column, since 4:2:0 chroma needs even ones.

    Args:
        frames: uint8 (frames, height, width, 3), RGB.
        fps: frames per second.
        metadata: any JSON-able dict; it goes into the container's comment.
        ending: ".mp4" or ".webm".

    Raises:
        BadInput: frames of any other shape or dtype, or a record too large for a WebM.
    """
    import av  # slow to import, and a record that is no video is read without it
    from av.codec.context import Flags

    factor = -(-SHORT_SIDE // min(_checked(frames).shape[1:3]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    odd = [side % 2 for side in frames.shape[1:3]]
    frames = np.pad(frames, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    told = None if metadata is None else json.dumps(metadata, allow_nan=False)
    if ending == ".webm" and told and len(told) > _WEBM_LARGEST:
        raise BadInput(
            f"a .webm carries a record of 16 MiB at most, not of {len(told) / 2**20:.1f}: name it .mp4, "
            "or leave the record out of it (--no-metadata)"
        )
    buffer = io.BytesIO()
    container_format, encoder, quality = ENCODERS[ending]
    # One thread and no version stamps: otherwise the bytes depend on the machine.
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        if told is not None:
            container.metadata["comment"] = told
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
        stream.options = quality
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
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


def encode_gif(frames: NDArray[np.uint8], fps: float, metadata: dict[str, Any] | None) -> bytes:
    """An endless GIF at the frames' own size, of 256 colours each; `metadata` in its comment.

    A GIF counts in hundredths of a second: each frame ends at the one nearest to its time.

    Raises:
        BadInput: frames of any other shape or dtype, or more than 100 of them per second.
    """
    check_rate(".gif", fps)
    ends = [round(100 * (index + 1) / fps) for index in range(len(_checked(frames)))]
    lasting = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    first, *others = map(Image.fromarray, frames)
    told = {} if metadata is None else {"comment": json.dumps(metadata, allow_nan=False).encode()}
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=lasting, loop=0, **told)
    return buffer.getvalue()


def check_rate(ending: str, fps: float) -> None:
    """BadInput where a file of that ending cannot show so many frames per second."""
    if ending.lower() == ".gif" and fps > 100:
        raise BadInput(f"a .gif shows at most 100 frames per second, not {fps:g}: name the file .mp4")


def encode_image(frame: NDArray[np.uint8], metadata: dict[str, Any] | None = None) -> bytes:
    """Lossless PNG of one uint8 (height, width, 3) RGB frame at its own size; `metadata` in a text chunk."""
    text = PngImagePlugin.PngInfo()
    if metadata is not None:
        text.add_text(KEYWORD, json.dumps(metadata, allow_nan=False))
    buffer = io.BytesIO()
    Image.fromarray(_checked(frame[None])[0]).save(buffer, "PNG", pnginfo=text, optimize=True)
    return buffer.getvalue()


def write_video(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    fps: float = 8,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write uint8 (frames, height, width, 3) as .mp4, .webm or .gif, or one frame as .png.

    `read_record` reads `metadata`.

    Nothing half-written remains, whatever happens.

    Raises:
        BadInput: another suffix or shape, a missing folder, or a system that refuses to write.
    """
    suffix = Path(path).suffix.lower()
    if suffix in ENCODERS:
        data = encode_video(frames, fps, metadata, suffix)
    elif suffix == ".gif":
        data = encode_gif(frames, fps, metadata)
    elif suffix == ".png":
        if len(frames) != 1:
            raise BadInput(f"{path}: a .png holds one frame, not {len(frames)}; name the file .mp4")
        data = encode_image(frames[0], metadata)
    else:
        raise BadInput(
            f"{path}: cannot write '{suffix}' files; name it .mp4, .webm or .gif (.png for an image)"
        )
    write_bytes_atomically(path, data)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in a .json, .mp4, .webm, .gif or .png file, as the dict that was written.

    Raises:
        BadInput: there is no such file.
        BadRecord: it holds no record, or a damaged one.
    """
    data = read_bytes(path, "the record")
    text: str | None
    try:
        if data.startswith(b"\x89PNG"):
            text = Image.open(io.BytesIO(data)).info.get(KEYWORD)
        elif data.startswith(b"GIF8"):
            told = Image.open(io.BytesIO(data)).info.get("comment")
            text = None if told is None else told.decode()
        elif data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3"):
            import av

            with av.open(io.BytesIO(data)) as container:
                told = container.metadata
                text = told.get("comment") or told.get("COMMENT")  # of WebM
                text = text or told.get(KEYWORD)  # of a video that ComfyUI saved
        else:
            text = data.decode(errors="replace")
    except Exception as error:  # whatever PyAV and Pillow make of bytes that are no file of theirs
        raise BadRecord(f"{path} is damaged; use the .json record beside it") from error
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
