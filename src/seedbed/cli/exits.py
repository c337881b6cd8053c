"""Every way a command ends other than well: one line on stderr and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from seedbed.errors import SeedbedError


def fail(message: str) -> None:
    """Print one line, whatever line breaks the message has."""
    print("error:", " ".join(message.split()), file=sys.stderr)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can cause into a line and an exit code; a bug keeps its traceback."""
    try:
        yield
    except SeedbedError as error:
        fail(str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    except MemoryError:
        fail("out of memory: lower --batch-size, --frames, --height or --width")
        raise typer.Exit(2) from None
    except RuntimeError as error:
        # Named, not imported: torch is not loaded before the first command needs it.
        if type(error).__name__ not in ("OutOfMemoryError", "AcceleratorError") or "memory" not in str(error):
            raise
        fail("out of device memory: lower --batch-size, --frames, --height or --width, or use --device cpu")
        raise typer.Exit(2) from None
