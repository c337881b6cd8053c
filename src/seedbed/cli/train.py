"""The command `seedbed train`."""

import os
import subprocess
import sys
from pathlib import Path

import typer

from seedbed.cli import options as opt
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

    opt.silence_libraries()
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
        print_json({"model": made.model}, steps=made.steps, unused=made.complaint)
    else:
        print(f"model   {made.model}")


def _launched(count: int, arguments: list[str]) -> int:
    """Run the same command in so many processes of this machine; its exit code."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, "-c", "from seedbed.cli import main; main()"]
    return subprocess.run([*launcher, "--no-python", *command, *arguments], check=False).returncode
