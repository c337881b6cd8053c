"""Where a command writes, checked before the work and written together after it."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from seedbed.errors import BadInput


def named_after(prompt: str, ending: str) -> Path:
    """A file name in the current folder made of the prompt's words, e.g. a-red-circle.mp4."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return Path((words[:60].rstrip("-") or "video") + ending)


def checked(path: Path, *suffixes: str) -> Path:
    """The path, if a file of one of these kinds can be created there; BadInput if not."""
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise BadInput(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadInput(f"cannot write {path}: the folder {path.parent} is not writable")
    return path


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Call each writer with a path to write to, and move the files into place once all of them are whole.

    The paths share one folder. If a writer fails or is interrupted, none of the files appears or changes.
    """
    folder = next(iter(writers)).parent
    try:
        staging = tempfile.TemporaryDirectory(prefix=".seedbed-", dir=folder)
    except OSError as error:
        raise BadInput(f"cannot write in {folder}: {error.strerror or error}") from error
    with staging:
        for path, write in writers.items():
            staged = Path(staging.name, path.name)
            try:
                write(staged)
            except BadInput as error:
                raise BadInput(str(error).replace(str(staged), str(path))) from error
        for path in writers:
            os.replace(Path(staging.name, path.name), path)
