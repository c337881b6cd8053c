"""A task without a model, for processes that tests start and kill; its options name files to talk through."""

import time
import zlib
from pathlib import Path

VERSION = 2


def work(pipe, prompt, draws, options):
    """One row per noise; logs the call, then waits until the number in the file `gate` exceeds the prompt."""
    if "log" in options:
        with open(options["log"], "a") as log:
            log.write(prompt + "\n")
    while "gate" in options and int(prompt) >= int(Path(options["gate"]).read_text() or 0):
        with open(options["beat"], "a") as beat:
            beat.write(".")
        time.sleep(0.002)
    return [
        {"value": zlib.crc32(f"{prompt} {draw.seed} {draw.candidate}".encode()) / 2**32, "word": prompt * 2}
        for draw in draws
    ]


def odd(pipe, prompt, draws, options):
    """Whatever the options say is returned."""
    return options["rows"]


def broken(pipe, prompt, draws, options):
    raise ZeroDivisionError("a bug of the task")
