"""The command `seedbed train`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import typer

from seedbed.cli import options as opt
from seedbed.cli.commands import silence_libraries
from seedbed.cli.outputs import print_json


def train(
    *,
    config: Path = typer.Argument(metavar="CONFIG", help="JSON file that says what is trained, and how."),
    out: Path | None = opt.writing(None, metavar="DIR", help="Folder of the training (else runs/NAME)."),
    processes: int | None = opt.running(
        None, min=1, help="Processes that share every step (else one for each GPU)."
    ),
    terminal: opt.Terminal,
) -> None:
    """Train a video model under the prior that it will be sampled from.

    Interrupted, it goes on where it was when run again. With several processes the config's batch is that of
    each.
    """
    from seedbed.training.config import Config

    silence_libraries()
    content = Config.load(config)
    folder = out or Path("runs") / content.name
    if "LOCAL_RANK" not in os.environ:  # else this is one of several processes
        import torch

        count = processes or max(1, torch.cuda.device_count())
        if count > 1:
            raise typer.Exit(_launched(count, sys.argv[1:]))
    from seedbed.training.diffusion import train as run

    made = run(content, folder, terminal.progress)
    if os.environ.get("RANK", "0") != "0":
        return
    if made.complaint:
        print(f"warning: not used: {made.complaint}", file=sys.stderr)
    if terminal.as_json:
        print_json({"model": made.model}, steps=content.steps, unused=made.complaint)
    else:
        print(f"model   {made.model}")


def _launched(count: int, arguments: list[str]) -> int:
    """Run the same command in so many processes of this machine; the exit code of one that failed, or 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-c", "from seedbed.cli import main; main()", *arguments]
    with ExitStack() as undo:
        # The first one shows progress and errors; of another one the last line, should it fail alone.
        said = [undo.enter_context(tempfile.TemporaryFile("w+")) for _ in range(1, count)]
        children = []
        for rank, stderr in enumerate([None, *said]):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = {"OMP_NUM_THREADS": threads, **os.environ, **shared, **own}
            children.append(subprocess.Popen(command, env=environment, stderr=stderr))
            undo.callback(children[-1].kill)
        try:
            while all(child.poll() in (None, 0) for child in children):
                if all(child.poll() == 0 for child in children):
                    return 0
                time.sleep(0.1)
        except KeyboardInterrupt:  # the first one says what is kept
            for child in children:
                child.send_signal(signal.SIGINT)
        for child in children:  # those that meet the same mistake end by themselves
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
        failed = next((rank for rank, child in enumerate(children) if child.returncode), 0)
        if failed:
            said[failed - 1].seek(0)
            print(*said[failed - 1].read().splitlines()[-1:], sep="\n", file=sys.stderr)
        return children[failed].returncode or 0
