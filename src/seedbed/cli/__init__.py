"""The `seedbed` command: thin, each command a few calls into the rooms below."""

import errno
import os
import sys

from seedbed.errors import SeedbedError

_SMALLER = "lower --batch-size, --frames, --height or --width"


def main() -> None:
    """Run the command line and exit: 0, 1 where a replay differs, 2 on bad input, 130 on Ctrl-C.

    Whatever a user can cause is one line on stderr; a bug keeps its traceback.
    """
    code = 2
    try:
        from seedbed.cli.app import app

        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:  # within a command, `options.grouped` sees it first
        print("interrupted", file=sys.stderr)
        code = 130
    except SeedbedError as error:
        _fail(str(error))
    except MemoryError:
        _fail(f"out of memory: {_SMALLER}")
    except OSError as error:
        # The commands answer for their files, so this is stdout: a full disk, or nobody reads on.
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at exit
        code = 1
        if error.errno == errno.ENOSPC:
            code = 2
            _fail(f"cannot print the result: {error.strerror}")
    except Exception as error:
        # Known by what they are called: newer typers carry a copy of click, and torch may not be loaded.
        if hasattr(error, "format_message"):
            message, context = error.format_message(), getattr(error, "ctx", None)
            if message:  # none where the help was shown instead
                _fail(
                    f"{message.rstrip('.')} (see `{context.command_path if context else 'seedbed'} --help`)"
                )
        elif type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") and "memory" in str(error):
            _fail(f"out of device memory: {_SMALLER}, or use --device cpu")
        else:
            raise
    sys.exit(code)


def _fail(message: str) -> None:
    """Print one line, whatever line breaks the message has."""
    print("error:", " ".join(message.split()), file=sys.stderr)
