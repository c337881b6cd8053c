"""The commands. Nothing heavy is imported before a command runs, so that --help answers at once."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from seedbed import __version__
from seedbed.cli import options as opt
from seedbed.cli.exits import one_line_errors
from seedbed.cli.lab import lab
from seedbed.cli.outputs import checked, named_after, write_together
from seedbed.cli.tables import print_ranking, print_summary
from seedbed.errors import BadInput

app = typer.Typer(
    help="Choose the initial noise of a video diffusion model, and make the very same video again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(lab, name="lab")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"seedbed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    prompt: opt.Prompt,
    candidates: opt.Candidates = 10,
    seed: opt.Seed = 0,
    acquisition: opt.Acquisition = "auto",
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    frames: opt.Frames = None,
    height: opt.Height = None,
    width: opt.Width = None,
    model: opt.Model = None,
    batch_size: opt.Batch = None,
    dtype: opt.Precision = None,
    device: opt.Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video to write: .mp4, or .png for an image (else named after the prompt).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    fps: Annotated[
        float, typer.Option(help="Frames per second of the video.", rich_help_panel=opt.OUTPUT)
    ] = 8,
    report: Annotated[
        bool,
        typer.Option(help="Decode one-step previews and write an HTML report.", rich_help_panel=opt.OUTPUT),
    ] = True,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Choose the best of several noises and generate the video from it.

    Writes the video, a report (.html) and a record (.json) side by side; the video carries the record too.
    """
    with one_line_errors():
        video = checked(out or named_after(prompt, ".mp4"), ".mp4", ".png")
        pool = _pool(prompt, acquisition, keep, masks, layers, depth, batch_size, quiet)
        from seedbed.selection import generate as run

        pipe = _load(model, dtype and dtype.value, device, quiet)
        call = _call(steps, guidance_scale, frames, height, width)
        result = run(pipe, prompt, candidates=candidates, seed=seed, previews=report, fps=fps, **pool, **call)
        if out is None and len(result.frames) == 1:
            video = video.with_suffix(".png")
        page, record = video.with_suffix(".html"), video.with_suffix(".json")
        writers, files = {video: result.save, record: result.save}, {"video": video, "record": record}
        if report:
            command = f"seedbed replay {shlex.quote(video.name)}"
            writers[page] = lambda path: result.report(path, replay=command)
            files["report"] = page
        write_together(writers)
        _print(result.record(), files, as_json)


@app.command()
def select(
    prompt: opt.Prompt,
    candidates: opt.Candidates = 10,
    seed: opt.Seed = 0,
    acquisition: opt.Acquisition = "auto",
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    frames: opt.Frames = None,
    height: opt.Height = None,
    width: opt.Width = None,
    model: opt.Model = None,
    batch_size: opt.Batch = None,
    dtype: opt.Precision = None,
    device: opt.Device = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Write a page with what every noise will become, to pick from: `seedbed replay --pick N`.",
            rich_help_panel=opt.PREVIEW,
        ),
    ] = False,
    preview_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Denoising steps before the previews (else 30 %).", rich_help_panel=opt.PREVIEW
        ),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="Score the previews too: shapes, clip:FOLDER or aesthetic:FOLDER.",
            show_default=False,
            rich_help_panel=opt.PREVIEW,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Record to write (else named after the prompt).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Choose the best of several noises and stop there: a ranking, and a record for `seedbed replay`.

    With --preview nothing is chosen: a page shows what each noise will become, for you to pick from.
    """
    with one_line_errors():
        if preview:
            if (acquisition, keep, masks, layers, depth) != ("auto", None, None, None, None):
                raise BadInput(
                    "--preview lets you pick and scores no attention: leave out --acquisition, --keep, "
                    "--masks, --layers and --depth"
                )
            from seedbed.cli.previews import write_sheet

            path = checked(out or named_after(prompt, "-previews.json"), ".json")
            call = _call(steps, guidance_scale, frames, height, width)
            call |= {"candidates": candidates, "seed": seed, "batch_size": batch_size or 1}
            call |= {"steps": preview_steps, "progress": _shown(quiet)}
            write_sheet(
                path,
                lambda: _load(model, dtype and dtype.value, device, quiet),
                prompt,
                verifier,
                call,
                as_json,
            )
            return
        if preview_steps is not None or verifier is not None:
            raise BadInput("--preview-steps and --verifier are settings of --preview: add it")
        path = checked(out or named_after(prompt, "-selection.json"), ".json")
        pool = _pool(prompt, acquisition, keep, masks, layers, depth, batch_size, quiet)
        from seedbed.selection import select as run

        pipe = _load(model, dtype and dtype.value, device, quiet)
        call = _call(steps, guidance_scale, frames, height, width)
        result = run(pipe, prompt, candidates=candidates, seed=seed, **pool, **call)
        write_together({path: result.save})
        _print(result.to_dict(), {"record": path}, as_json, ranking=True)


@app.command()
def score(
    prompt: opt.Prompt,
    seeds: Annotated[
        str | None, typer.Option(metavar="S,S,...", help="Seeds to score, the first noise of each.")
    ] = None,
    noise: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Record or video whose noise to score; repeatable."),
    ] = None,
    acquisition: opt.Acquisition = "auto",
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    frames: opt.Frames = None,
    height: opt.Height = None,
    width: opt.Width = None,
    model: opt.Model = None,
    batch_size: opt.Batch = None,
    dtype: opt.Precision = None,
    device: opt.Device = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score noises of your own for a prompt: those of some seeds, or those of earlier records."""
    with one_line_errors():
        pool = _pool(prompt, acquisition, keep, masks, layers, depth, batch_size, quiet)
        try:
            numbers = [int(number) for number in seeds.split(",")] if seeds else []
        except ValueError:
            raise BadInput(
                f"cannot read --seeds {seeds}: write whole numbers with commas, as in 1,2,3"
            ) from None
        if not numbers and not noise:
            raise BadInput("there is no noise to score: give --seeds 1,2,3 or --noise FILE")
        from seedbed.noise import NoiseRecipe
        from seedbed.selection import Selection
        from seedbed.selection import score as run

        saved = [Selection.load(path).recipe for path in noise or ()]
        known = [recipe if isinstance(recipe, NoiseRecipe) else recipe.draw() for recipe in saved]
        pipe = _load(model, dtype and dtype.value, device, quiet)
        from seedbed.probe import Probe

        call = _call(steps, guidance_scale, frames, height, width)
        spec = Probe(pipe, prompt, **call).spec
        shape: dict[str, Any] = {"shape": tuple(spec.shape), "frame_axis": spec.frame_axis}
        recipes = [NoiseRecipe(seed=number, candidate=0, **shape) for number in numbers]
        _print(run(pipe, prompt, [*recipes, *known], **pool, **call).to_dict(), {}, as_json, ranking=True)


@app.command()
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
        from seedbed.cli.pipeline import silence
        from seedbed.report.video import read_record
        from seedbed.selection import Selection
        from seedbed.selection import replay as run
        from seedbed.selection.origin import locate

        content = read_record(record)
        recorded = Selection.load(record).model
        suffix = ".png" if content.get("frames_shape", [0])[0] == 1 else ".mp4"
        stem = f"{record.stem.removesuffix('-previews')}-{'replay' if pick is None else pick}"
        video = checked(out or Path(stem + suffix), ".mp4", ".png")
        if pick is None and "sheet" in content and "rungs" not in content:
            raise BadInput(f"nobody has picked from {record} yet: add --pick N")
        place = locate(recorded.model)
        if not model and (not place or (Path(place).is_absolute() and not Path(place).is_dir())):
            raise BadInput(
                f"the record's model {place or '(unnamed)'} is not here: say where with --model PATH"
            )
        pipe = _load(model, recorded.dtypes, None, quiet) if model else None
        silence()
        if pick is not None:
            from seedbed.cli.previews import write_picked

            write_picked(record, pick, pipe, video, out is None, as_json, _shown(quiet))
            return
        result = run(content, pipe, progress=_shown(quiet))
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


def _shown(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _load(model: str | None, dtype: Any, device: str | None, quiet: bool) -> Any:
    with Console(stderr=True, quiet=not _shown(quiet)).status("loading the model"):
        from seedbed.cli.pipeline import load

        return load(model, dtype, device)


def _pool(
    prompt: str,
    acquisition: str,
    keep: float | None,
    masks: int | None,
    layers: list[str] | None,
    depth: int | None,
    batch_size: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """How to score, as `select`, `score` and `generate` take it; checked before a model is loaded."""
    if not prompt.strip():
        raise BadInput("the prompt is empty: say what to generate")
    given = [f"{name}={value}" for name, value in (("keep", keep), ("masks", masks)) if value is not None]
    if given and acquisition == "auto":
        raise BadInput("--keep and --masks are settings of bansa: add --acquisition bansa")
    if given:
        acquisition += ("," if ":" in acquisition else ":") + ",".join(given)
    from seedbed.selection.acquisitions import resolve

    return {
        "acquisition": acquisition if acquisition == "auto" else resolve(acquisition),
        "layers": layers or None,
        "depth": depth,
        "batch_size": batch_size,
        "progress": _shown(quiet),
    }


def _call(
    steps: int | None, guidance: float | None, frames: int | None, height: int | None, width: int | None
) -> dict[str, Any]:
    """The pipeline's arguments that were given; the pipeline has its own defaults for the others."""
    call = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_frames": frames,
        "height": height,
        "width": width,
    }
    return {name: value for name, value in call.items() if value is not None}


def _print(record: dict[str, Any], files: dict[str, Path], as_json: bool, ranking: bool = False) -> None:
    names = {what: str(path) for what, path in files.items()}
    if as_json:
        print(json.dumps({"files": names, "record": record}))
        return
    console = Console(highlight=False)
    if ranking:
        print_ranking(console, record)
    print_summary(console, record, names)
