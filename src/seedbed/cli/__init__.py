"""The `seedbed` command: thin, each command a few calls into the rooms below."""

import sys


def main() -> None:
    """Run the command line and exit: 0, 1 where a replay differs, 2 on bad input, 130 on Ctrl-C."""
    try:
        from seedbed.cli.app import app
        from seedbed.cli.exits import fail

        try:
            code = app(standalone_mode=False)
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
