"""`seedbed generate --prompts FILE`: a video for each line; what is finished is not made again."""

import functools
import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from seedbed.cli.commands import drawn
from seedbed.cli.options import Run
from seedbed.cli.outputs import named_after, print_json
from seedbed.errors import BadInput, SeedbedError, shown
from seedbed.files import read_text, write_json

# Other files of the folder are named after a number and a prompt.
_OPTIONS = "options.json"
# A larger file of a model is known by so many blocks, evenly spaced from its first byte to its last.
_BLOCK, _BLOCKS = 2**16, 64
# What may change between a run and the next that goes on: it changes no video, or only by the dtypes that
# follow from it, which are compared once the model is loaded.
_FREE = ("as_json", "quiet", "device", "offload")


def settled(
    folder: Path,
    asked: Mapping[str, Any],
    texts: list[str],
    files: Sequence[str | None],
    models: Sequence[str | None] = (),
) -> dict[str, Any]:
    """The options of a run, whose random seed is drawn once; those with which its folder was begun.

    Args:
        asked: the options as they were given, by name.
        texts: the prompts; those of before come first.
        files: what the videos are made from, known by its sha256; names of anything else are passed over.
        models: checkpoints and folders of models, known by `_model_sha256`, and by the profile where that may
            choose; names on the Hub are not.

    Raises:
        BadInput: it is no folder, or was begun with other options, prompts or files; there is no such model.
    """
    from seedbed.pipelines.loading import changed, locate
    from seedbed.report.video import ENDINGS
    from seedbed.selection.profile import FILENAME

    path = folder / _OPTIONS
    now: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in asked.items() if name not in _FREE}, default=str)
    )
    if folder.suffix.lower() in ENDINGS:
        raise BadInput(f"{folder} is the name of a video, and --prompts makes a folder: give --out DIR")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is no folder: name one with --out")
    random, then, dtypes = now["seed"] == -1, None, {}
    if path.exists():
        try:
            then = json.loads(read_text(path, "the options of the run"))
            now["seed"] = then["seed"] if random else now["seed"]
            before, dtypes = list(then.pop("prompts")), {"dtypes": dict(then.pop("dtypes"))}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(f"{path} is not the file of a run: give another folder with --out") from error
    now["sha256"] = {file: _sha256(file) for file in files if file and os.path.isfile(file)}
    now["models"] = {}
    for model in filter(None, models):
        if os.path.exists(place := model if os.path.isfile(model) else locate(model)):
            now["models"][model] = _model_sha256(Path(place))
            profile = os.path.join(place, FILENAME)
            if asked.get("acquisition") == "auto" and os.path.isfile(profile):
                now["models"][profile] = _sha256(profile)
    if then is None:
        return now | {"seed": drawn(now["seed"]), "prompts": texts}
    if "models" not in then:
        raise BadInput(f"{folder} was begun by an earlier version: give another --out")
    # An option that the folder's version did not have was as good as not given.
    known = {name: value for name, value in now.items() if name in then or value}
    if differing := "; ".join(changed(then, known)):
        raise BadInput(f"{folder} was begun with other options ({differing}): give these, or another --out")
    for number, (was, text) in enumerate(itertools.zip_longest(before, texts[: len(before)]), 1):
        if was != text:
            became = "missing" if text is None else shown(text)
            raise BadInput(
                f"{folder} was begun with other prompts (number {number} was {shown(was)}, now {became}): "
                "add new ones at the end, or give another --out"
            )
    if random:
        print(f"seed    {now['seed']}", file=sys.stderr)
    return now | {"prompts": texts} | dtypes


def _model_sha256(place: Path) -> str:
    """A digest of a checkpoint, or of a model's folder: names, sizes and contents of what decides its output.

    Files of up to 4 MiB, as settings are, count in full; of larger ones, the weights, 64 blocks of 64 KiB do.
    So a model of any size is known in a moment; a copy is the same model wherever and whenever it was made,
    other than by times of modification; and weights that were trained further are others, other than by the
    headers of safetensors. What lies between the blocks is not seen: a model of which so little was trained,
    a single layer of many, is to be kept under a name of its own.

    Raises BadInput where a file cannot be read.
    """
    from seedbed.lab.experiment import model_files

    digest = hashlib.sha256()
    for file in [place] if place.is_file() else model_files(place):
        name, size = file.relative_to(place).as_posix(), file.stat().st_size
        digest.update(f"{name} {size} {_sha256(file, _BLOCKS)}\n".encode())
    return digest.hexdigest()


def _sha256(file: str | Path, blocks: int | None = None) -> str:
    """Of a file, or, where it is larger than `blocks` blocks, of so many that are evenly spaced in it."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            size = os.stat(file).st_size
            if blocks is None or size <= blocks * _BLOCK:
                while block := opened.read(2**20):
                    digest.update(block)
            else:
                for number in range(blocks):
                    opened.seek((size - _BLOCK) * number // (blocks - 1))
                    digest.update(opened.read(_BLOCK))
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest()


def generate_each(
    folder: Path,
    options: Mapping[str, Any],
    run: Run,
    acquisition: Any,
    make: Callable[[Any, int, str, Path], None],
) -> None:
    """Make the videos that are not there yet, then show a table of all.

    Args:
        options: as `settled` gives them, kept in the folder.
        acquisition: what chooses; where it has a verifier, this has to be able to judge every prompt.
        make: called with the pipeline, the number of a line from 0, its prompt and its video's path; it
            writes the record last.

    Raises:
        BadInput: the folder cannot be made, or was begun with other dtypes; a prompt that cannot be judged.
        SeedbedError: whatever `make` raises; says of which prompt, and how many videos are kept.
        KeyboardInterrupt: says how many videos are kept.
    """
    texts = options["prompts"]
    videos = [folder / f"{number:03}-{named_after(text, '.mp4')}" for number, text in enumerate(texts, 1)]
    records = [_finished(*each) for each in zip(videos, texts, strict=True)]
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        pipe = None if all(records) else run.load()
        if pipe is not None:
            # Mistakes are found before there is a folder.
            todo = [(n, text) for n, text in enumerate(texts, 1) if not records[n - 1]]
            _check_judged(pipe, todo, acquisition, run.call(pipe))
            options = {**options, "dtypes": _dtypes(pipe, folder, options.get("dtypes"))}
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"cannot make the folder {folder}: {error.strerror or error}") from error
            write_json(folder / _OPTIONS, options)
        for number, (video, text) in enumerate(zip(videos, texts, strict=True)):
            if records[number]:
                continue
            if run.progress:
                print(f"{number + 1} of {len(texts)}: {text}", file=sys.stderr)
            try:
                make(pipe, number, text, video)
            except SeedbedError as error:
                left = f"{_count(records)} of {len(texts)} videos are kept in {folder}"
                raise type(error)(f"prompt {number + 1}: {error}; {left}") from error
            signal.signal(signal.SIGINT, interrupt)  # which is ignored from when files are moved
            records[number] = _finished(video, text)
    except KeyboardInterrupt:  # also between the moving of a video's files and the line after it
        records = [_finished(*each) for each in zip(videos, texts, strict=True)]
        left = f"{_count(records)} of {len(texts)} videos are kept in {folder}; run again to go on"
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


def _count(records: list[Any]) -> int:
    return sum(record is not None for record in records)


def _check_judged(pipe: Any, texts: list[tuple[int, str]], acquisition: Any, call: dict[str, Any]) -> None:
    """BadInput where the function's verifier, if it has one, cannot judge one of the numbered prompts."""
    verifier = getattr(acquisition, "verifier", None)
    if verifier is None:
        return
    from seedbed.pipelines.session import Session
    from seedbed.verifiers import judged_text

    session = Session(pipe, texts[0][1], **call)
    for number, text in texts:
        try:
            judged_text(verifier, session, acquisition.verifier_prompt or text)
        except BadInput as error:
            raise BadInput(f"prompt {number}: {error}") from error


def _dtypes(pipe: Any, folder: Path, begun: dict[str, str] | None) -> dict[str, str]:
    """Those of the model; BadInput where a folder was begun with others, on another device."""
    from seedbed.pipelines.loading import changed
    from seedbed.selection.provenance import Model

    dtypes = Model.of(pipe).dtypes
    if differing := [] if begun is None else changed(begun, dtypes):
        raise BadInput(
            f"{folder} was begun with other dtypes ({'; '.join(differing)}): give --dtype, or another --out"
        )
    return dtypes


def _finished(video: Path, text: str) -> tuple[Path, dict[str, Any]] | None:
    """The video, or image, and the record of a prompt; None where they are not there, or not whole."""
    from seedbed.report.video import ENDINGS, read_record
    from seedbed.selection.record import check

    found = next((path for end in ENDINGS if (path := video.with_suffix(end)).is_file()), None)
    try:
        record = read_record(video.with_suffix(".json"))
        check(record)
    except SeedbedError:
        return None
    return (found, record) if found and record["prompt"] == text else None
