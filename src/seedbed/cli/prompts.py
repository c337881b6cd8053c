"""`seedbed generate --prompts FILE`: a video for each line; what is finished is not made again."""

import functools
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from seedbed.cli.options import Run, drawn
from seedbed.cli.outputs import VIDEOS, named_after, print_json
from seedbed.errors import BadInput, SeedbedError
from seedbed.files import read_text, write_bytes_atomically

# Other files of the folder are named after a number and a prompt.
_OPTIONS = "options.json"
# What does not change the videos, and so may change between a run and the next that goes on.
_FREE = ("as_json", "quiet", "device", "offload")


def settled(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run, whose random seed is drawn once; those with which its folder was begun.

    Args:
        asked: the options as they were given, by name.

    Raises:
        BadInput: it is no folder, or was begun with other options.
    """
    path = folder / _OPTIONS
    now: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in asked.items() if name not in _FREE}, default=str)
    )
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is no folder: name one with --out")
    if not path.exists():
        return now | {"seed": drawn(now["seed"])}
    try:
        then = json.loads(read_text(path, "the options of the run"))
        begun = then["seed"]
        now["seed"] = begun if now["seed"] == -1 else now["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not the file of a run: give another folder with --out") from error
    if now != then:
        from seedbed.pipelines.loading import changed

        differing = "; ".join(changed(then, now))
        raise BadInput(f"{folder} was begun with other options ({differing}): give these, or another --out")
    return now


def generate_each(
    texts: list[str],
    folder: Path,
    options: Mapping[str, Any],
    run: Run,
    make: Callable[[Any, int, str, Path], None],
) -> None:
    """Make the videos that are not there yet, then show a table of all.

    Args:
        options: as `settled` gives them, kept in the folder.
        make: called with the pipeline, the number of a line from 0, its prompt and its video's path; it
            writes the record last.

    Raises:
        BadInput: the folder cannot be made.
        KeyboardInterrupt: says how many videos are kept.
    """
    videos = [folder / f"{number:03}-{named_after(text, '.mp4')}" for number, text in enumerate(texts, 1)]
    records = [_finished(*each) for each in zip(videos, texts, strict=True)]
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        pipe = None if all(records) else run.load()
        if pipe is not None:
            run.call(pipe)  # a mistake is one before there is a folder
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"cannot make the folder {folder}: {error.strerror or error}") from error
            write_bytes_atomically(folder / _OPTIONS, (json.dumps(options, indent=1) + "\n").encode())
        for number, (video, text) in enumerate(zip(videos, texts, strict=True)):
            if records[number]:
                continue
            if run.progress:
                print(f"{number + 1} of {len(texts)}: {text}", file=sys.stderr)
            make(pipe, number, text, video)
            signal.signal(signal.SIGINT, interrupt)  # which is ignored from when files are moved
            records[number] = _finished(video, text)
    except KeyboardInterrupt:
        done = sum(record is not None for record in records)
        left = f"{done} of {len(texts)} videos are kept in {folder}; run again to go on"
        raise KeyboardInterrupt(left) from None
    found = [each for each in records if each is not None]
    if run.as_json:
        print_json({}, videos=[{"video": str(video), "record": record} for video, record in found])
        return
    from seedbed.report.page import amount, origin

    right = functools.partial(Column, justify="right")
    columns = Column("video", no_wrap=True), "noise", right("NFE"), right("seconds")
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for video, record in found:
        noise = " of ".join(part for part in origin(record["recipes"][record["best"]])[:2] if part)
        spent, seconds = sum(record["ledger"].values()), sum(record["seconds"].values())
        table.add_row(str(video), noise, amount(spent), f"{seconds:.1f}")
    Console(highlight=False).print(table)


def _finished(video: Path, text: str) -> tuple[Path, dict[str, Any]] | None:
    """The video, or image, and the record of a prompt; None where they are not there, or not whole."""
    from seedbed.report.video import read_record
    from seedbed.selection.record import check

    found = next((path for end in VIDEOS if (path := video.with_suffix(end)).is_file()), None)
    try:
        record = read_record(video.with_suffix(".json"))
        check(record)
    except SeedbedError:
        return None
    return (found, record) if found and record["prompt"] == text else None
