"""The commands that look at attention, and edit by it: `seedbed study`, `seedbed maps`, `seedbed edit`."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from typer import Argument, Option

import seedbed
from seedbed.cli import options as opt
from seedbed.cli.outputs import Writer, checked, checked_video, named_after, print_json, write_together
from seedbed.errors import BadInput

_acting = functools.partial(Option, rich_help_panel="How to edit")


def study(
    *,
    prompts: Path = Argument(metavar="PROMPTS.txt", help="Text file with a prompt on each line."),
    looked: str | None = Option(
        None, "--at", metavar="N,N,...", help="Steps that are looked at, from 0 (else four of the schedule)."
    ),
    layers: list[str] | None = Option(
        None, help="Kind of layers, or a glob on their names (else all); repeatable."
    ),
    perturb: list[str] | None = Option(
        None, help="What replaces a layer: identity, uniform (else both) or none; repeatable."
    ),
    window: str = Option("0,1", metavar="FROM,TO", help="When it is replaced, as shares of the steps."),
    verifier: str | None = Option(
        None, metavar="NAME", help=f"Its numbers are effects too: {opt.VERIFIERS}."
    ),
    rows: int = Option(256, min=1, help="Rows of a layer that are looked at, of text and of video each."),
    seed: int = opt.SEED,
    out: Path = opt.writing(Path("study.html"), metavar="FILE.html", help="Report to write."),
    table: Path | None = opt.writing(
        None, metavar="FILE", help="Table to write too: .parquet, or .json, in the folder of the report."
    ),
    fps: float = opt.FPS,
    run: opt.Run,
) -> None:
    """Look at a model's attention layer by layer, and at what becomes of videos without each layer."""
    # Before torch is loaded, which takes longer.
    texts = opt.read_prompts(prompts)
    page = checked(out, ".html")
    if table is not None and checked(table, ".parquet", ".json").parent.resolve() != page.parent.resolve():
        raise BadInput(f"the table {table} must lie in the folder of the report {page}")
    from seedbed.adaptation.findings import require
    from seedbed.adaptation.study import study as look
    from seedbed.verifiers import resolve

    require("scipy", "the report")
    if table is not None and table.suffix.lower() == ".parquet":
        require("pyarrow", "a table in Parquet")
    judge = None if verifier is None else resolve(verifier)
    asked: dict[str, Any] = {"seed": seed, "layers": layers or "all", "verifier": judge, "rows": rows}
    asked |= {"steps": None if looked is None else opt.whole_numbers("--at", looked)}
    asked |= {"window": _numbers("--window", window, 2)}
    if perturb:
        if "none" in perturb and {*perturb} != {"none"}:
            raise BadInput("--perturb none stands alone: leave it out, or the others")
        asked["perturb"] = [each for each in perturb if each != "none"]
    pipe = run.load()
    result = look(pipe, texts, **asked, **run.arguments(pipe))
    files: dict[Path, Writer] = {page: lambda path: result.report(path, fps)}
    if table is not None:
        files[table] = result.save
    write_together(files)
    written = {"report": page, **({} if table is None else {"table": table})}
    if run.as_json:
        found = [each._asdict() for each in result.correlations()]
        print_json(written, high=result.high_entropy, low=result.low_entropy, correlations=found)
        return
    print(f"high    {', '.join(result.high_entropy)}")
    print(f"low     {', '.join(result.low_entropy)}")
    for what, path in written.items():
        print(f"{what:<7} {path}")


def maps(
    *,
    prompt: str = opt.PROMPT,
    word: str | None = Option(None, help="Word of the prompt."),
    place: str | None = Option(
        None, metavar="F,R,C", help="Frame, row and column, each a share from 0 to 1: 0.5,0.5,0.5."
    ),
    layers: list[str] | None = Option(
        None, help="Kind of layers, or a glob on their names (else all); repeatable."
    ),
    looked: str | None = Option(
        None, "--at", metavar="N,N,...", help="Steps, from 0 (else three of the schedule)."
    ),
    seed: int = opt.SEED,
    out: Path | None = opt.writing(None, metavar="FILE", help="Page (.html) or picture (.png) to write."),
    run: opt.Run,
) -> None:
    """Show where a word of the prompt, or a place of the video, looks while it is denoised."""
    from seedbed.adaptation.maps import maps as look

    path = checked(out or named_after(prompt, "-maps.html"), ".html", ".png")
    asked: dict[str, Any] = {"word": word, "seed": seed, "layers": layers or "all"}
    asked |= {"place": None if place is None else tuple(_numbers("--place", place, 3))}
    asked |= {"steps": None if looked is None else opt.whole_numbers("--at", looked)}
    pipe = run.load()
    result = look(pipe, prompt, **asked, progress=run.progress, call=run.call(pipe))
    write_together({path: result.save})
    if run.as_json:
        print_json({"maps": path}, target=result.target, layers=sorted({each.layer for each in result.maps}))
        return
    print(f"maps    {path}")


def edit(
    *,
    video: Path = Argument(
        metavar="IN.mp4",
        help="A video of any size and frame rate, long enough; or the record (.json) of a generated one, "
        "whose noise is then known and not inverted.",
    ),
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
    seed: int = opt.seed_of("the noise that flowedit adds", _acting),
    out: Path = opt.writing(
        ..., metavar="FILE", help="Video to write (.mp4, .webm, .gif); its record (.json) lies beside it."
    ),
    report: Path | None = opt.writing(
        None, metavar="FILE.html", help="Page to write, source and edit side by side."
    ),
    fps: float = opt.writing(
        8, min=0.01, max=1000, help="Frames per second, at which the video is taken too."
    ),
    metadata: bool = opt.METADATA,
    run: opt.Calling,
) -> None:
    """Change what a video shows by changing the words for it."""
    from seedbed.report.footage import read_pictures

    path = checked_video(out, fps, (".json",))
    page = None if report is None else checked(report, ".html")
    if page is not None and page.resolve().parent != path.resolve().parent:
        raise BadInput(f"cannot write {page}: the report lies in the folder of the video, {path.parent}")
    given: Any = video
    recorded: dict[str, Any] = {}
    if video.suffix.lower() == ".json":
        from seedbed.report.video import read_record
        from seedbed.selection.replaying import require_choice

        given, recorded = seedbed.Selection.load(video), read_record(video)
        require_choice(recorded, given)
        run = dataclasses.replace(run, model=run.model or given.model.model)
    else:
        read_pictures(video, 1)  # before the model is loaded, which takes longer
    asked: dict[str, Any] = {
        "layers": layers.split(",") if "," in layers else layers,
        "stop": stop,
        "method": method,
    }
    from seedbed.selection.generation import digest_of

    pipe = run.load()
    call = {**(given.call if recorded else {}), **run.call(pipe)}
    asked |= {"seed": seed, "fps": fps, "progress": run.progress, "call": call}
    result = seedbed.edit(pipe, given, source=source, target=target, **asked)
    files: dict[str, tuple[Path, Writer]] = {
        "video": (path, functools.partial(result.save, metadata=metadata)),
    }
    if page is not None:
        files["report"] = page, result.report
    files["record"] = path.with_suffix(".json"), result.save
    write_together(dict(files.values()))
    written = {what: file for what, (file, _) in files.items()}
    if run.as_json:
        print_json(written, record=result.record())
        return
    spent = ", ".join(f"{what} {evaluations:g}" for what, evaluations in result.ledger.items())
    # The record of a choice alone has no video to differ from.
    own = recorded.get("frames_sha256")
    for line in (
        *result.notes,
        *["the video that was edited is not, bit by bit, the recorded one"]
        * (own not in (None, digest_of(result.original))),
        f"{sum(result.ledger.values()):g} NFE ({spent}) in {sum(result.seconds.values()):.1f} s",
        *(f"{what:<7} {file}" for what, file in written.items()),
    ):
        print(line)


def _numbers(option: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise BadInput(f"cannot read {option} {text}: write {count} numbers with commas")
    return numbers
