"""`seedbed replay`: the video of a record, again or for the first time."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli import options as opt
from seedbed.cli.exits import one_line_errors
from seedbed.cli.outputs import checked, write_together
from seedbed.cli.shared import loaded, prepare_process, shown
from seedbed.errors import BadInput


def replay(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A .json record, or an .mp4 or .png that carries one.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Where the model is now (else where it was).", rich_help_panel=opt.MACHINE
        ),
    ] = None,
    pick: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Go on with this noise of `seedbed select --preview`, from the steps it has done.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video to write (else RECORD-replay.mp4 here, RECORD-N.mp4 with --pick N).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Make the video of a record again, or that of a selection or of previews for the first time.

    Exits with 1 if the frames are not bit by bit those of the record.
    """
    with one_line_errors():
        from seedbed.report.video import read_record
        from seedbed.selection import Selection
        from seedbed.selection import replay as run

        content = read_record(record)
        recorded = Selection.load(record).model
        suffix = ".png" if content.get("frames_shape", [0])[0] == 1 else ".mp4"
        stem = f"{record.stem.removesuffix('-previews')}-{'replay' if pick is None else pick}"
        beside = () if pick is None else (".html", ".json")
        video = checked(out or Path(stem + suffix), ".mp4", ".png", beside=beside)
        if pick is None and "sheet" in content and "rungs" not in content:
            raise BadInput(f"nobody has picked from {record} yet: add --pick N")
        place = recorded.model
        if not model and (not place or (Path(place).is_absolute() and not Path(place).is_dir())):
            raise BadInput(
                f"the record's model {place or '(unnamed)'} is not here: say where with --model PATH"
            )
        pipe = loaded(model, recorded.dtypes, None, quiet) if model else None
        if not model:
            prepare_process(place)
        if pick is not None:
            from seedbed.cli.previews import write_picked

            write_picked(record, pick, pipe, video, out is None, as_json, shown(quiet))
            return
        result = run(content, pipe, progress=shown(quiet))
        write_together({video: result.save})
        if as_json:
            files = {"video": str(video)}
            print(json.dumps({"identical": result.identical, "files": files, "record": result.record()}))
        else:
            verdict = {True: "identical frames", False: "other frames", None: "new"}[result.identical]
            print(f"video   {video} ({verdict})")
        if result.identical is False:
            then = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
            print(
                f"warning: the frames differ from the record's, made on {recorded.device} with {then}",
                file=sys.stderr,
            )
            raise typer.Exit(1)
