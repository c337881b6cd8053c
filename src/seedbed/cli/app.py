"""The commands. Nothing heavy is imported before a command runs, so that --help answers at once."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seedbed import __version__
from seedbed.cli import options as opt
from seedbed.cli.calibrate import calibrate
from seedbed.cli.exits import one_line_errors
from seedbed.cli.lab import lab
from seedbed.cli.outputs import checked, named_after, write_together
from seedbed.cli.previews import followed, instead_of_scores, write_sheet
from seedbed.cli.replay import replay
from seedbed.cli.shared import call_of, loaded, pool_of, show, shown
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
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many noises to choose from (else what the profile says, 6 for previews, 10).",
            rich_help_panel=opt.CHOICE,
        ),
    ] = None,
    seed: opt.Seed = 0,
    acquisition: opt.Acquisition = "auto",
    profile: opt.Profile = None,
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    race: opt.Race = "auto",
    steps: opt.Steps = None,
    guidance_scale: opt.Guidance = None,
    frames: opt.Frames = None,
    height: opt.Height = None,
    width: opt.Width = None,
    model: opt.Model = None,
    batch_size: opt.Batch = None,
    dtype: opt.Precision = None,
    device: opt.Device = None,
    verifier: opt.Verifier = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video to write: .mp4, or .png for an image (else named after the prompt).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    fps: Annotated[
        float,
        typer.Option(min=0.01, max=1000, help="Frames per second of the video.", rich_help_panel=opt.OUTPUT),
    ] = 8,
    report: Annotated[
        bool,
        typer.Option(help="Decode one-step previews and write an HTML report.", rich_help_panel=opt.OUTPUT),
    ] = True,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Choose the best of several noises and generate the video from it.

    With --verifier, or where the model's profile says so, the noises are denoised a while, judged by what
    they will become, and the best goes on.
    Writes the video, a report (.html) and a record (.json) side by side; the video carries the record too.
    """
    with one_line_errors():
        beside = (".html", ".json") if report else (".json",)
        video = checked(out or named_after(prompt, ".mp4"), ".mp4", ".png", beside=beside)
        pool = pool_of(prompt, acquisition, profile, keep, masks, layers, depth, race, batch_size, quiet)
        judge = None
        if verifier is not None:
            instead_of_scores("--verifier", acquisition, race, profile, keep, masks, layers, depth)
            from seedbed.verifiers import resolve

            judge = resolve(verifier)
        from seedbed.selection import generate as run
        from seedbed.selection import preview
        from seedbed.selection.profile import find_profile, read_profile

        call = call_of(steps, guidance_scale, frames, height, width)
        pipe = loaded(model, dtype and dtype.value, device, quiet)
        call |= {"seed": seed, "fps": fps}
        follows = None
        if verifier is None and acquisition == race == "auto" and not layers and depth is None:
            follows = read_profile(profile) if profile is not None else find_profile(pipe)
            judge = followed(follows, prompt)
        if judge is None:
            result = run(pipe, prompt, candidates=candidates or 10, previews=report, **pool, **call)
        else:
            call |= {"batch_size": batch_size or 1, "progress": shown(quiet)}
            rungs = follows.preview if follows is not None else None
            if candidates is not None:
                call["candidates"] = candidates
            elif rungs is not None:
                call["candidates"] = rungs.candidates
                # It was measured on the model's own number of steps.
                call["schedule"] = rungs.schedule if steps is None else None
            result = preview(pipe, prompt, verifier=judge, **call)
            if rungs is not None:
                says = f"as the model's profile says: {rungs.why}"
                if candidates is not None or steps is not None:
                    says = f"which the profile measured with {rungs.candidates} noises on its own steps"
                reason = f"auto: {result.selection.reason}, {says}"
                result = replace(result, selection=replace(result.selection, reason=reason))
        if out is None and len(result.frames) == 1:
            video = video.with_suffix(".png")
        page, record = video.with_suffix(".html"), video.with_suffix(".json")
        writers, files = {video: result.save, record: result.save}, {"video": video, "record": record}
        if report:
            command = f"seedbed replay {shlex.quote(video.name)}"
            writers[page] = lambda path: result.report(path, replay=command)
            files["report"] = page
        write_together(writers)
        show(result.record(), files, as_json)


@app.command()
def select(
    prompt: opt.Prompt,
    candidates: opt.Candidates = 10,
    seed: opt.Seed = 0,
    acquisition: opt.Acquisition = "auto",
    profile: opt.Profile = None,
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    race: opt.Race = "auto",
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
            min=1, help="Denoising steps before the previews (else half).", rich_help_panel=opt.PREVIEW
        ),
    ] = None,
    verifier: opt.Verifier = None,
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
            instead_of_scores("--preview", acquisition, race, profile, keep, masks, layers, depth)
            path = out or named_after(prompt, "-previews.json")
            path = checked(path, ".json", beside=(".html", ".safetensors"))
            call = call_of(steps, guidance_scale, frames, height, width)
            call |= {"candidates": candidates, "seed": seed, "batch_size": batch_size or 1}
            call |= {"steps": preview_steps, "progress": shown(quiet)}
            write_sheet(
                path,
                lambda: loaded(model, dtype and dtype.value, device, quiet),
                prompt,
                verifier,
                call,
                as_json,
            )
            return
        if preview_steps is not None or verifier is not None:
            raise BadInput("--preview-steps and --verifier are settings of --preview: add it")
        path = checked(out or named_after(prompt, "-selection.json"), ".json")
        pool = pool_of(prompt, acquisition, profile, keep, masks, layers, depth, race, batch_size, quiet)
        from seedbed.selection import select as run

        call = call_of(steps, guidance_scale, frames, height, width)
        pipe = loaded(model, dtype and dtype.value, device, quiet)
        result = run(pipe, prompt, candidates=candidates, seed=seed, **pool, **call)
        write_together({path: result.save})
        show(result.to_dict(), {"record": path}, as_json, ranking=True)


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
    profile: opt.Profile = None,
    keep: opt.Keep = None,
    masks: opt.Masks = None,
    layers: opt.Layers = None,
    depth: opt.Depth = None,
    race: opt.Race = "auto",
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
        pool = pool_of(prompt, acquisition, profile, keep, masks, layers, depth, race, batch_size, quiet)
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

        call = call_of(steps, guidance_scale, frames, height, width)
        saved = [Selection.load(path).recipe for path in noise or ()]
        known = [recipe if isinstance(recipe, NoiseRecipe) else recipe.draw() for recipe in saved]
        pipe = loaded(model, dtype and dtype.value, device, quiet)
        from seedbed.probe import Probe

        spec = Probe(pipe, prompt, **call).spec
        shape: dict[str, Any] = {"shape": tuple(spec.shape), "frame_axis": spec.frame_axis}
        recipes = [NoiseRecipe(seed=number, candidate=0, **shape) for number in numbers]
        show(run(pipe, prompt, [*recipes, *known], **pool, **call).to_dict(), {}, as_json, ranking=True)


app.command()(replay)
app.command()(calibrate)
