"""Where a command writes, checked before the work and written together after it, and what it prints."""

import json
import math
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from seedbed.errors import BadInput

Writer = Callable[[Path], object]


def named_after(prompt: str, ending: str) -> Path:
    """A file name in the current folder made of the prompt's words, e.g. a-red-circle.mp4."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # File names are limited in bytes, of which a letter of some scripts takes four.
    words = words[:60].encode(errors="ignore")[:180].decode(errors="ignore")
    return Path((words.rstrip("-") or "video") + ending)


def checked(path: Path, *suffixes: str, beside: Iterable[str] = ()) -> Path:
    """The path, if a file of one of these kinds can be created there; BadInput if not.

    beside: suffixes of the files that are written with it, which are checked too.
    """
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    files = (path, *map(path.with_suffix, beside))
    try:
        with tempfile.TemporaryDirectory(prefix=".seedbed-", dir=path.parent) as staging:
            for file in files:
                Path(staging, file.name).touch()
    except OSError as error:
        where = f"{path.name} in the folder {path.parent}"
        raise BadInput(f"cannot write {where}: {error.strerror or error}") from error
    for file in files:
        if file.is_dir():
            raise BadInput(f"cannot write {file}: it is a folder")
    return path


def checked_video(path: Path, fps: float, beside: Iterable[str]) -> Path:
    """The same for a video, or an image, of so many frames per second."""
    from seedbed.report.video import ENDINGS, check_rate  # loads more than --help needs

    check_rate(path.suffix, fps)
    return checked(path, *ENDINGS, beside=beside)


def write_together(writers: Mapping[Path, Writer]) -> None:
    """Call each writer with a path to write to, and move the files into place once all of them are whole.

    The paths share one folder; the record comes last. If a writer fails or is interrupted, none of the files
    appears or changes. Once they are being moved, which takes no time, Ctrl-C is ignored until the command
    ends: its files are there. A process killed meanwhile leaves files that are whole, the record only if all
    others are there, and the rest in a folder whose name begins with .seedbed-.

    Raises:
        BadInput: the system refuses; says which files are there all the same.
    """
    folder = next(iter(writers)).parent
    try:
        staging = tempfile.TemporaryDirectory(prefix=".seedbed-", dir=folder)
    except OSError as error:
        raise BadInput(f"cannot write in {folder}: {error.strerror or error}") from error
    with staging:
        staged = {path: Path(staging.name, path.name) for path in writers}
        for path, write in writers.items():
            try:
                write(staged[path])
            except BadInput as error:
                raise BadInput(str(error).replace(str(staged[path]), str(path))) from error
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for path in writers:
                os.replace(staged[path], path)
        except (OSError, KeyboardInterrupt) as error:
            moved = ", ".join(str(done) for done, source in staged.items() if not source.exists())
            there = f"only {moved} was written" if moved else "nothing was written"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(there) from None
            raise BadInput(f"cannot write {path}: {error.strerror or error}; {there}") from error


def print_json(files: Mapping[str, Path], **content: Any) -> None:
    """One JSON object: where the files lie, and what else there is."""
    content = {"files": {what: str(path) for what, path in files.items()}, **content}
    print(json.dumps(_plain(content), allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no nan: None in its place."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def deliver(
    record: dict[str, Any],
    writers: Mapping[str, tuple[Path, Writer]],
    as_json: bool,
    *,
    ranking: bool = False,
    then: str | None = None,
) -> None:
    """Write the files of a record, if any, and show it: as JSON, or the choice, its cost and the files.

    writers: of each file, the record's as the last; ranking: show all candidates, best first; then: a last
    line, for people.
    """
    if writers:
        write_together(dict(writers.values()))
    files = {what: path for what, (path, _) in writers.items()}
    if as_json:
        print_json(files, record=record)
        return
    from seedbed.report.page import amount, origin  # loads more than --help needs

    console = Console(highlight=False)
    if ranking:
        console.print(_ranking(record))
    recipe, ledger, count = record["recipes"][record["best"]], record["ledger"], len(record["recipes"])
    noise, seed, made = origin(recipe)
    noise += f" of {seed}" * (recipe["seed"] is not None and bool(seed)) + f" ({made})" * bool(made)
    end = "one" if "picked" in record["options"] else {"low": "lowest", "high": "highest"}[record["prefer"]]
    choice = f"{noise}, {end} of {count} by {record['acquisition']} ({record['reason']})"
    items = ", ".join(f"{what} {amount(evaluations)}" for what, evaluations in ledger.items())
    lines = [
        f"{count} {record['reason']}" if "sheet" in record else choice,
        f"{amount(sum(ledger.values()))} NFE ({items or 'none'}) in {sum(record['seconds'].values()):.1f} s",
        *(f"{what:<7} {path}" for what, path in files.items()),
        *([then] if then else []),
    ]
    if record.get("confidence", 1) < 1:
        lines.insert(1, f"{record['confidence']:.0%} sure that all query rows would choose the same")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _ranking(record: dict[str, Any]) -> Table:
    """The candidates of a record, best first."""
    from seedbed.report.page import figure, origin

    headings = [Column(heading, justify="right") for heading in ("rank", "seed", "noise", "score")]
    table = Table(*headings, "", box=None, pad_edge=False, header_style="dim")
    totals = [math.nan if total is None else total for total in record["totals"]]
    seen = [sum(score is not None for score in row) for row in record["scores"]]
    known = list(filter(math.isfinite, totals))
    spread = max(known) - min(known) if known else 0.0
    for rank, index in enumerate(record["order"], 1):
        recipe, total, chosen = record["recipes"][index], totals[index], index == record["best"]
        dropped = f"dropped after layer {seen[index]}" if seen[index] < max(seen) else ""
        table.add_row(
            str(rank),
            "–" if recipe["seed"] is None else (origin(recipe)[1] or origin(recipe)[0]).removeprefix("seed "),
            str(recipe["candidate"]),
            figure(total, spread),
            "chosen" if chosen else dropped,
            style="bold green" if chosen else "",
        )
    return table
