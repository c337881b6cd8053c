"""The command `seedbed edit`."""

import functools
from pathlib import Path
from typing import Literal

import typer

import seedbed
from seedbed.cli import options as opt
from seedbed.cli.outputs import Writer, checked, print_json, write_together
from seedbed.errors import BadInput

_acting = functools.partial(typer.Option, rich_help_panel="How to edit")


def edit(
    *,
    video: Path = typer.Argument(metavar="IN.mp4", help="A video of any size and frame rate, long enough."),
    source: str = _acting(..., metavar="TEXT", help="What the video shows."),
    target: str = _acting(..., metavar="TEXT", help="What it shall show."),
    layers: str = _acting(
        "entropy:low",
        metavar="TEXT",
        help="Where the source is injected: entropy:low, entropy:high, all, or kinds and globs on names, "
        "with commas.",
    ),
    stop: float = _acting(0.8, help="Share of the steps in which it is, from the first on."),
    method: Literal["inject", "flowedit"] = _acting(
        "inject", help="flowedit, the baseline: flow matching only."
    ),
    seed: int = _acting(0, min=0, help="Of the noise that flowedit adds."),
    out: Path = opt.writing(
        ..., metavar="FILE.mp4", help="Video to write; its record (.json) lies beside it."
    ),
    report: Path | None = opt.writing(
        None, metavar="FILE.html", help="Page to write, source and edit side by side."
    ),
    fps: float = opt.writing(
        8, min=0.01, max=1000, help="Frames per second, at which the video is taken too."
    ),
    run: opt.Machine,
) -> None:
    """Change what a video shows by changing the words for it."""
    path = checked(out, ".mp4", ".png", beside=(".json",))
    page = None if report is None else checked(report, ".html")
    if page is not None and page.resolve().parent != path.resolve().parent:
        raise BadInput(f"cannot write {page}: the report lies in the folder of the video, {path.parent}")
    named = layers.split(",") if "," in layers else layers
    result = seedbed.edit(
        run.load(),
        video,
        source=source,
        target=target,
        layers=named,
        stop=stop,
        method=method,
        seed=seed,
        fps=fps,
        progress=run.progress,
        call=run.call,
    )
    files: dict[str, tuple[Path, Writer]] = {"video": (path, result.save)}
    if page is not None:
        files["report"] = page, result.report
    files["record"] = path.with_suffix(".json"), result.save
    write_together(dict(files.values()))
    written = {what: file for what, (file, _) in files.items()}
    if run.as_json:
        print_json(written, record=result.record())
        return
    spent = ", ".join(f"{what} {evaluations:g}" for what, evaluations in result.ledger.items())
    for line in (
        *result.notes,
        f"{sum(result.ledger.values()):g} NFE ({spent}) in {sum(result.seconds.values()):.1f} s",
        *(f"{what:<7} {file}" for what, file in written.items()),
    ):
        print(line)
