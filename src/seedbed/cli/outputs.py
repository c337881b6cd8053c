"""Where a command writes, checked before the work and written together after it."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from seedbed.errors import BadInput


def named_after(prompt: str, ending: str) -> Path:
    """A file name in the current folder made of the prompt's words, e.g. a-red-circle.mp4."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # File names are limited in bytes, of which a letter of some scripts takes four.
    words = words[:60].encode(errors="ignore")[:180].decode(errors="ignore")
    return Path((words.rstrip("-") or "video") + ending)


def checked(path: Path, *suffixes: str, beside: Iterable[str] = ()) -> Path:
    """The path, if a file of one of these kinds can be created there; BadInput if not.

    beside: suffixes of the files that are written with it, which are checked too.
    """
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    try:
        found = path.parent.is_dir()
        folders = [each for each in (path, *map(path.with_suffix, beside)) if each.is_dir()]
        path.stat()  # newer Pythons' is_dir() is silent about names that cannot be
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, or links in a circle
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    if not found:
        raise BadInput(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if folders:
        raise BadInput(f"cannot write {folders[0]}: it is a folder")
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
            try:
                os.replace(Path(staging.name, path.name), path)
            except OSError as error:
                raise BadInput(f"cannot write {path}: {error.strerror or error}") from error
