"""The `seedbed` command: thin, each command a few calls into the rooms below."""

import errno
import os
import signal
import sys
import time
from typing import Any

from seedbed.errors import SeedbedError

_SMALLER = "lower --batch-size, --frames, --height or --width"

# For what is tidied up after a first Ctrl-C, in seconds: until then another one changes nothing.
_TIDYING = 3.0


def main() -> None:
    """Run the command line and exit: 0, 1 where a replay differs, 2 on bad input, 130 on Ctrl-C.

    Whatever a user can cause is one line on stderr; a bug keeps its traceback.
    """
    code, interrupted = 2, -_TIDYING

    def interrupt(*signalled: Any) -> None:
        nonlocal interrupted
        if time.monotonic() - interrupted >= _TIDYING:
            interrupted = time.monotonic()
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else its parent has it ignored
        signal.signal(signal.SIGINT, interrupt)
    try:
        from seedbed.cli.app import app

        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:  # within a command, `commands.grouped` sees it first
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is known
    sys.exit(code)


def _fail(message: str) -> None:
    """Print one line, whatever line breaks the message has."""
    print("error:", " ".join(message.split()), file=sys.stderr)
