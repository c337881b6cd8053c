"""Reading files or saying why not, and writing them so that nobody ever meets half of one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from seedbed.errors import BadInput, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)


def read_bytes(path: str | os.PathLike[str], what: str) -> bytes:
    """The content of a file, which messages call `what`.

    Raises:
        BadInput: it is not there, cannot be read, or `path` is none.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:  # ValueError: a null character in it
        name = str(path) if isinstance(path, (str, os.PathLike)) else shown(path)
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot read {what} {name:.200}: {reason}") from error


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The same as text in UTF-8; BadInput where it is none."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {what} {path}: it is no UTF-8 text") from error


def read_settings(kind: type[Model], path: str | os.PathLike[str], what: str) -> Model:
    """A JSON file as a pydantic model; `what` it is, for messages: "a recipe".

    Raises:
        BadInput: no such file, no JSON, or a key that is unknown, missing or of a wrong value.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        # A misspelt key comes before the one that is missing for it.
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        message = f"{what} has no such key" if unknown else first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{path}: {where + ': ' if where else ''}{message}") from error


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield another name in the same folder, for a file or folder that then takes the place of `path`.

    Whatever happens in between, `path` holds either its former content or all of the new one.

    Raises:
        BadInput: the folder does not exist, or the system refuses to write there (permissions, no space).
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    # Without the file's own name, which may be as long as the system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        if temporary.is_dir() and path.is_dir():  # no folder that has something in it can be replaced
            aside = path.with_name(f".{secrets.token_hex(8)}.tmp")
            os.replace(path, aside)
            try:
                os.replace(temporary, path)
            finally:
                if path.is_dir():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    os.replace(aside, path)
        else:
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        kept = "; the one before is there still" if os.path.isfile(path) else ""
        raise BadInput(f"cannot write {path}: {getattr(error, 'strerror', None) or error}{kept}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, whole or not at all; errors as `written_whole`. Returns the path written."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write JSON that people read too; errors as `written_whole`. Returns the path written."""
    return write_bytes_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
