"""The `seedbed` command: thin, each command a few calls into the rooms below."""

import errno
import os
import sys


def main() -> None:
    """Run the command line and exit: 0, 1 where a replay differs, 2 on bad input, 130 on Ctrl-C."""
    try:
        from seedbed.cli.app import app
        from seedbed.cli.options import fail

        try:
            code = app(standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            # The commands answer for their files, so this is stdout: a full disk, or nobody reads on.
            if error.errno not in (errno.ENOSPC, errno.EPIPE):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at exit
            code = 1
            if error.errno == errno.ENOSPC:
                fail(f"cannot print the result: {error.strerror}")
                code = 2
        except Exception as error:
            # A usage error, told by its method: newer typers carry a copy of click, older ones import it.
            if not hasattr(error, "format_message"):
                raise
            message = error.format_message()
            context = getattr(error, "ctx", None)
            if message:  # none where the help was shown instead
                fail(f"{message.rstrip('.')} (see `{context.command_path if context else 'seedbed'} --help`)")
            code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
