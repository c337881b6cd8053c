"""Video files and pictures of any origin; as many frames of one size and rate as a model makes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from seedbed.errors import BadInput


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """A file and the first video in it, of PyAV; BadInput for whatever is wrong with it, also further on."""
    import av

    name = Path(path).name
    try:
        file = open(path, "rb")  # noqa: SIM115
    except (OSError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot read the video {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        with file, av.open(file) as container:
            if not container.streams.video:
                raise BadInput(f"{name} has no video in it")
            yield container, container.streams.video[0]
    except BadInput:
        raise
    except Exception as error:  # whatever PyAV makes of a file that is none of its own
        raise BadInput(f"{name} is not a video that can be read ({type(error).__name__})") from error


def seconds_of(path: str | os.PathLike[str]) -> float:
    """How long the video is that is there, whatever its header says. BadInput where there is none."""
    name = Path(path).name
    with _opened(path) as (container, stream):
        if next(container.decode(stream), None) is None:
            raise BadInput(f"{name} has no frames in it")
        container.seek(0)
        rate = float(stream.average_rate or 0)
        times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        if not times or stream.time_base is None or not rate:
            raise BadInput(f"{name} has no times in it")
        return float((max(times) - min(times)) * stream.time_base) + 1 / rate


def read_frames(
    path: str | os.PathLike[str],
    count: float,
    fps: float | None,
    since: float = 0.0,
    *,
    fewer: bool = False,
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Frames of a video file, at another rate: at each time the frame that is shown then.

    Args:
        count: of frames to give back; `math.inf` with `fewer` for all.
        fps: their rate, per second; None for the file's own.
        since: seconds after the file's first frame at which the first of them is taken.
        fewer: a file that ends before gives what it has.

    Returns:
        uint8 (count, height, width, 3), and the file's own "width", "height" and "fps".

    Raises:
        BadInput: there is no such file, it is no video that can be read, or it ends too soon.
    """
    name = Path(path).name
    chosen: list[NDArray[np.uint8]] = []
    last: Any = None
    with _opened(path) as (container, stream):
        rate = float(stream.average_rate or fps or 8)
        fps = fps or rate
        start, end = None, 0.0
        if since and stream.start_time is not None and stream.time_base:
            start = float(stream.start_time * stream.time_base) + since
            container.seek(int(start / stream.time_base), stream=stream)
        for number, frame in enumerate(itertools.chain(container.decode(stream), [None])):
            time = end
            if frame is not None:
                time = number / rate if frame.time is None else float(frame.time)
                start = time + since if start is None else start
                time -= start
            # What was shown until now; half a tick, as times are rounded.
            while last is not None and len(chosen) < min(count, (time - 1e-3) * fps):
                # As a telephone films upright; an old PyAV does not say so.
                turns = round(getattr(last, "rotation", 0) / 90)
                chosen.append(np.rot90(last.to_ndarray(format="rgb24"), turns))
            if frame is None or len(chosen) == count:
                break
            last, end = frame, time + 1 / rate
    if last is None:
        raise BadInput(f"{name} has no frames in it")
    if len(chosen) < count and not fewer:
        raise BadInput(
            f"{name} is too short: it lasts {end:.3g} s, and {count} frames at {fps:g} per second begin over "
            f"{(count - 1) / fps:.3g} s; give a longer video, a higher rate or fewer frames"
        )
    height, width = chosen[0].shape[:2]
    return np.stack(chosen), {"width": width, "height": height, "fps": rate}


def read_picture(file: str | os.PathLike[str]) -> Image.Image:
    """A picture in RGB, as its camera held it; BadInput where the file is not there or is no picture."""
    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:  # Pillow's own errors too
        why = error.strerror or "it is no picture that can be read"
        raise BadInput(f"cannot read the picture {file}: {why}") from error
    except Exception as error:  # of damaged files, by Pillow's plugins
        raise BadInput(f"cannot read the picture {file}: it is damaged ({type(error).__name__})") from error


def read_pictures(file: str | os.PathLike[str], most: float) -> list[Image.Image]:
    """The frames of a video as they are, at most so many, in RGB; a picture as a list of one.

    Of a picture that moves (GIF, WebP, APNG) all frames count, each once. Errors as `read_frames`.
    """
    try:
        with Image.open(file) as opened:
            count = getattr(opened, "n_frames", 1)
            if count > 1 and opened.format != "MPO":  # whose second picture is the camera's own preview
                frames = itertools.islice(ImageSequence.Iterator(opened), round(min(most, count)))
                return [frame.convert("RGB") for frame in frames]
        return [read_picture(file)]
    except Exception:  # whatever Pillow makes of a file that is no picture
        return [Image.fromarray(frame) for frame in read_frames(file, most, None, fewer=True)[0]]


def conformed(
    frames: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Frames (n, ., ., 3) in another size: the middle of them in its proportions, resized.

    Shrunk by the mean over areas, enlarged bicubically. Also returns height and width of that middle.
    """
    tall, wide = frames.shape[1:3]
    scale = min(tall / height, wide / width)
    rows, columns = min(tall, round(height * scale)), min(wide, round(width * scale))
    top, left = (tall - rows) // 2, (wide - columns) // 2
    frames = frames[:, top : top + rows, left : left + columns]
    if (rows, columns) != (height, width):
        how = Image.Resampling.BOX if scale > 1 else Image.Resampling.BICUBIC
        frames = np.stack([np.asarray(Image.fromarray(each).resize((width, height), how)) for each in frames])
    return np.ascontiguousarray(frames), (rows, columns)
