"""The commands. Nothing heavy is imported before a command runs, so that --help answers at once."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

import seedbed
from seedbed.cli import options as opt
from seedbed.cli.attention import edit, maps, study
from seedbed.cli.commands import grouped, load_pipeline
from seedbed.cli.doctor import doctor
from seedbed.cli.lab import lab, verifier
from seedbed.cli.measuring import calibrate, fit, spread
from seedbed.cli.outputs import (
    Writer,
    checked,
    checked_video,
    deliver,
    named_after,
    print_json,
    write_together,
)
from seedbed.cli.prompts import generate_each, settled
from seedbed.cli.train import train
from seedbed.cli.ui import ui
from seedbed.errors import BadInput
from seedbed.pipelines.offloading import Offload

if TYPE_CHECKING:
    from seedbed import Generation

_SHEET = "-sheet"

app = typer.Typer(
    help="Choose the initial noise of a video diffusion model, and make the very same video again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"seedbed {seedbed.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


@app.command()
@grouped
def generate(
    *,
    prompt: str | None = opt.ONE_PROMPT,
    prompts: Path | None = opt.calling(
        None,
        metavar="FILE",
        help="Text file with a prompt on each line, instead: prompt i has the noises of SEED + i. Run again, "
        "it goes on.",
    ),
    choice: opt.Choice,
    out: Path | None = opt.writing(
        None,
        metavar="FILE",
        help="Video to write: .mp4, .webm, .gif, or .png for an image (else named after the prompt); with "
        "--prompts a folder (else named after that file).",
    ),
    fps: float = opt.FPS,
    report: bool = opt.REPORT,
    metadata: bool = opt.METADATA,
    run: opt.Run,
) -> None:
    """Choose the best of several noises and generate the video from it.

    With --verifier, or where the model's profile says so, the noises are denoised a while, judged by what
    they will become, and the best goes on.
    Writes the video, a report (.html) and a record (.json) side by side; the video carries the record too.
    """
    if prompt is not None and prompts is not None:
        raise BadInput("say what to generate: either a PROMPT, or --prompts FILE with one on each line")
    beside = (".html", ".json") if report else (".json",)
    if prompts is not None:
        from seedbed.pipelines.loading import DEFAULT

        texts, folder = opt.read_prompts(prompts), out or Path(prompts.stem)
        if run.unconditional:
            raise BadInput("--unconditional is for an empty PROMPT, and a file has none: leave it out")
        shared = dataclasses.replace(choice, seed=0).arguments()
        asked = dataclasses.asdict(choice) | dataclasses.asdict(run)
        asked |= {"fps": fps, "report": report, "metadata": metadata}
        files = [*run.texts.values(), *(file for file, _ in run.loras), choice.acquisition]
        options = settled(folder, asked, texts, files, (run.model or DEFAULT, run.config))

        def make(pipe: Any, number: int, text: str, video: Path) -> None:
            own = {**shared, "seed": options["seed"] + number}
            made = seedbed.generate(pipe, text, **own, **run.arguments(pipe))
            write_together(dict(_files(made, video, True, fps, report, metadata).values()))

        generate_each(folder, options, run, shared["acquisition"], make)
        return
    video = checked_video(out or named_after(run.subject(prompt), ".mp4"), fps, beside)
    chosen = choice.arguments()
    pipe = run.load()
    result = seedbed.generate(pipe, prompt, **chosen, **run.arguments(pipe))
    deliver(result.record(fps), _files(result, video, out is None, fps, report, metadata), run.as_json)


@app.command()
@grouped
def select(
    *, prompt: str | None = opt.ONE_PROMPT, choice: opt.Choice, out: Path | None = opt.OUT, run: opt.Run
) -> None:
    """Choose the best of several noises and stop there: a ranking, and a record for `seedbed replay`."""
    path = checked(out or named_after(run.subject(prompt), "-selection.json"), ".json")
    chosen = choice.arguments()
    pipe = run.load()
    result = seedbed.select(pipe, prompt, **chosen, **run.arguments(pipe))
    deliver(result.to_dict(), {"record": (path, result.save)}, run.as_json, ranking=True)


@app.command()
@grouped
def score(
    *,
    prompt: str | None = opt.ONE_PROMPT,
    seeds: str | None = opt.choosing(
        None, metavar="S,S,...", help="Seeds to score, the first noise of each."
    ),
    noise: list[Path] | None = opt.choosing(
        None, metavar="FILE", help="Record or video whose noise to score; repeatable."
    ),
    acquisition: str = opt.ACQUISITION,
    run: opt.Run,
) -> None:
    """Score noises of your own for a prompt: those of some seeds, or those of earlier records."""
    from seedbed.selection.pools import draw_pool
    from seedbed.selection.profile import acquisition_named

    run.subject(prompt)
    function = acquisition_named(acquisition)
    numbers = opt.whole_numbers("--seeds", seeds) if seeds else []
    if not numbers and not noise:
        raise BadInput("there is no noise to score: give --seeds 1,2,3 or --noise FILE")
    saved = [seedbed.Selection.load(path).recipe for path in noise or ()]
    known = [recipe if isinstance(recipe, seedbed.NoiseRecipe) else recipe.draw() for recipe in saved]
    pipe = run.load()
    from seedbed.pipelines.session import Session

    arguments = run.arguments(pipe)
    session = Session(pipe, prompt, **arguments["call"])
    drawn: list[Any] = [draw_pool(session, 1, number).recipes[0] for number in numbers]
    result = seedbed.score(pipe, prompt, [*drawn, *known], acquisition=function, **arguments)
    deliver(result.to_dict(), {}, run.as_json, ranking=True)


@app.command()
@grouped
def contact_sheet(
    *,
    prompt: str | None = opt.ONE_PROMPT,
    candidates: int = opt.choosing(10, min=1, max=10_000, help="How many noises to choose from."),
    seed: int = opt.SEED,
    after: int | None = opt.choosing(
        None, min=1, metavar="STEPS", help="Denoising steps before the previews (else half)."
    ),
    verifier: str | None = opt.choosing(
        None, metavar="NAME", help=f"Scores the previews too: {opt.VERIFIERS}."
    ),
    decode: str | None = opt.DECODE,
    prior: str | None = opt.PRIOR,
    refine: list[str] | None = opt.REFINE,
    enhance: str | None = opt.ENHANCE,
    guide: str | None = opt.GUIDE,
    out: Path | None = opt.OUT,
    fps: float = opt.FPS,
    run: opt.Run,
) -> None:
    """Show what every noise will become, for you to choose from: `seedbed replay RECORD --candidate N`.

    Writes a page (.html), a record (.json) and the evaluations made so far (.safetensors) side by side.
    """
    path = out or named_after(run.subject(prompt), f"{_SHEET}.json")
    path = checked(path, ".json", beside=(".html", ".safetensors"))
    from seedbed.pipelines.decoding import decode_named
    from seedbed.verifiers import resolve

    judge = None if verifier is None else resolve(verifier)
    asked: dict[str, Any] = {"candidates": candidates, "after": after, "verifier": judge}
    asked["decode"] = decode_named(decode or "exact")
    asked |= {"seed": seed} | opt.shaping(prior, refine, enhance, guide)
    pipe = run.load()
    sheet = seedbed.contact_sheet(pipe, prompt, **asked, **run.arguments(pipe))
    command = f"seedbed replay {shlex.quote(path.name)} --candidate"  # from beside the page
    then = f"finish  seedbed replay {shlex.quote(str(path))} --candidate N"
    files: dict[str, tuple[Path, Writer]] = {
        "page": (path.with_suffix(".html"), lambda at: sheet.page(at, fps, command)),
        "memory": (path.with_suffix(".safetensors"), lambda at: None),
        "record": (path, sheet.save),  # which writes the memory too
    }
    deliver(sheet.record(), files, run.as_json, ranking=judge is not None, then=then)


@app.command()
@grouped
def replay(
    *,
    record: Path = typer.Argument(
        metavar="RECORD", help="A .json record, or a video or image that carries one."
    ),
    candidate: int | None = opt.choosing(
        None, min=0, help="Finish this noise of a contact sheet, from the steps that it has done."
    ),
    model: str | None = opt.running(
        None,
        metavar="PATH",
        help="Where the model, or the checkpoint in one file, is now (else where it was).",
    ),
    config: str | None = opt.running(
        None, metavar="PATH", help="Where the pipeline of a checkpoint in one file is now."
    ),
    lora: list[str] | None = opt.running(
        None, metavar="FILE", help="Where a LoRA is now; for each of the record's, in their order."
    ),
    device: str | None = opt.DEVICE,
    offload: Offload | None = opt.OFFLOAD,
    vae_tiling: bool = opt.VAE_TILING,
    out: Path | None = opt.writing(
        None,
        metavar="FILE",
        help="Video to write (else RECORD-replay.mp4 here, RECORD-N.mp4 with --candidate N, ending as the "
        "record does).",
    ),
    fps: float | None = opt.writing(
        None, min=0.01, max=1000, help="Frames per second of the video (else the record's, or 8)."
    ),
    metadata: bool = opt.METADATA,
    given: opt.Inputs,
) -> None:
    """Make the video of a record again, or that of a selection or of a contact sheet for the first time.

    Exits with 1 if the frames are not bit by bit those of the record. With --candidate it writes a report and
    a record beside the video, as `seedbed generate` does. What was made from a video, by an edit too,
    needs that --video again.
    """
    from seedbed.report.video import ENDINGS, read_record
    from seedbed.selection.provenance import recorded_model

    content = read_record(record)
    made = recorded_model(content) if "target" in content else seedbed.Selection.load(record).model
    if candidate is None and "sheet" in content and "rungs" not in content:
        raise BadInput(f"nobody has chosen from {record} yet: add --candidate N")
    if "told" in (content.get("origin") or ()) and given.from_video is None:  # an edit of a file
        raise BadInput(f"{record} was edited from a video: add --video {content['origin']['name']}")
    sheet = None if candidate is None else seedbed.ContactSheet.load(record)
    suffix = ".png" if content.get("frames_shape", [0])[0] == 1 else ".mp4"
    suffix = record.suffix if record.suffix.lower() in ENDINGS else suffix
    fps = fps or content.get("fps", 8)
    stem = f"{record.stem.removesuffix(_SHEET)}-{'replay' if candidate is None else candidate}"
    video = checked_video(out or Path(stem + suffix), fps, (".html", ".json") if sheet else ())
    how = made.moved(model, config, lora or ())
    base = how["config"] or how["model"]
    gone = base == made.model and Path(base).is_absolute() and not Path(base).is_dir()
    if not base or gone:
        where = "--config" if how["config"] else "--model"
        raise BadInput(f"the record's model {base or '(unnamed)'} is not here: say where with {where} PATH")
    how |= {"device": device} if device else {}
    pipe = load_pipeline(how.pop("model"), given.progress, offload=offload, vae_tiling=vae_tiling, **how)
    from seedbed.pipelines.arguments import typed

    missing: dict[str, Any] = {}
    for name, text in given.texts.items():
        if name == "video" and "target" in content:
            missing["original"] = text
        else:
            count = str(content["missing"].get(name)).partition(" picture")[0]
            limit = {"num_frames": int(count)} if count.isdecimal() else {}
            missing[name] = typed(pipe, {name: text}, limit)[name]
    if sheet and candidate is not None:
        finished = sheet.finish(candidate, pipe, progress=given.progress, **missing)
        files = _files(finished, video, out is None, fps, True, metadata)
        deliver(finished.record(fps), files, given.as_json)
        return
    result = seedbed.replay(content, pipe, progress=given.progress, **missing)
    rate = () if isinstance(result, seedbed.Edit) else (fps,)  # of an edit it is the record's
    write_together({video: lambda path: result.save(path, *rate, metadata=metadata)})
    if given.as_json:
        print_json({"video": video}, identical=result.identical, record=result.record(*rate))
    else:
        verdict = {True: "identical frames", False: "other frames", None: "new"}[result.identical]
        print(f"video   {video} ({verdict})")
    if result.identical is None and result.changes:
        print(f"warning: not as recorded: {'; '.join(result.changes)}", file=sys.stderr)
    if result.identical is False:
        then = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        line = f"warning: the frames differ from the record's, made on {made.device} with {then}"
        line += "".join(f"; {change}" for change in result.changes)
        print(line, file=sys.stderr)
        raise typer.Exit(1)


noise = typer.Typer(help="Look at initial noises.", no_args_is_help=True)


@noise.command()
@grouped
def inspect(
    *,
    file: Path = typer.Argument(
        metavar="FILE", help="A .json record or noise recipe, or a video or image that carries a record."
    ),
    candidate: int | None = opt.choosing(None, min=0, help="Of a record (else the chosen one)."),
    as_json: bool = opt.AS_JSON,
) -> None:
    """Compare a noise with N(0, I): moments, spectrum by axis and correlation of frames, each with its p."""
    from seedbed.noise.gaussianity import gaussianity
    from seedbed.refinement import rebuilt
    from seedbed.report.video import read_record

    content = read_record(file)
    recipe: Any
    if "recipes" in content:
        selection = seedbed.Selection.load(file)
        index = selection.best if candidate is None else candidate
        if index >= len(selection.recipes):
            raise BadInput(
                f"there is no candidate {index}: choose one from 0 to {len(selection.recipes) - 1}"
            )
        recipe = selection.recipes[index]
    elif candidate is not None:
        raise BadInput(f"{file} is the recipe of one noise: leave --candidate out")
    else:
        # What ComfyUI saved carries a recipe where our own files carry a record (docs/comfyui.md).
        plain = file.suffix.lower() == ".json"
        recipe = seedbed.NoiseRecipe.load(file) if plain else seedbed.NoiseRecipe.from_dict(content)
    values, change = rebuilt(recipe)
    packed = getattr(recipe, "packing", None) is not None
    found = gaussianity(values, None if packed else getattr(recipe, "frame_axis", None))
    if as_json:
        rows = [vars(statistic) for statistic in found]
        print_json({}, recipe=recipe.to_dict(), statistics=rows, changes=[change] * bool(change))
        return
    table = Table("", "value", "N(0, I)", "p", box=None, pad_edge=False, header_style="dim")
    for one in found:
        table.add_row(one.name, f"{one.value:.4g}", f"{one.expected:.4g}", f"{one.p:.2g}")
    Console(highlight=False).print(table)
    if change:
        print(f"warning: {change}", file=sys.stderr)


noise.command()(grouped(spread))
noise.command()(grouped(fit))
app.command()(grouped(edit))
app.command()(grouped(calibrate))
app.command()(grouped(study))
app.command()(grouped(maps))
app.command()(grouped(train))
app.command()(grouped(ui))
app.command()(grouped(doctor))
app.add_typer(noise, name="noise")
app.add_typer(lab, name="lab")
app.add_typer(verifier, name="verifier")


def _files(
    result: "Generation", video: Path, unnamed: bool, fps: float, report: bool, metadata: bool
) -> dict[str, tuple[Path, Writer]]:
    """A video, its report and its record, and what writes each; an image whose file is unnamed is a .png."""
    if unnamed and len(result.frames) == 1:
        video = video.with_suffix(".png")
    command = f"seedbed replay {shlex.quote((video if metadata else video.with_suffix('.json')).name)}"
    files: dict[str, tuple[Path, Writer]] = {
        "video": (video, lambda path: result.save(path, fps, metadata=metadata)),
        "report": (video.with_suffix(".html"), lambda path: result.report(path, fps, replay=command)),
        "record": (video.with_suffix(".json"), lambda path: result.save(path, fps)),
    }
    if not report:
        del files["report"]
    return files
