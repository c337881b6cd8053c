"""The command `seedbed calibrate`: what the choice of the noise is worth on a model, and a profile of it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from seedbed.cli import options as opt
from seedbed.cli.outputs import checked, print_json
from seedbed.errors import BadInput

# As many lines of the table as fit a terminal; the report has all.
_LINES = 12
_WORLD = "shapes"


def calibrate(
    *,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with a prompt on each line.", show_default=False),
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(help="Take captions of this world instead: shapes.", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the world's captions.")] = 80,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="What judges the videos: shapes, clip:FOLDER or aesthetic:FOLDER (else the world's own).",
            show_default=False,
        ),
    ] = None,
    ratings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Ratings by people instead: columns prompt, seed, candidate, rating.",
            show_default=False,
        ),
    ] = None,
    acquisition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Acquisition function to try at t = T, options after a colon; repeatable (else entropy and "
            "bansa in three variants).",
            show_default=False,
        ),
    ] = None,
    noises: Annotated[int, typer.Option(help="Noises of each prompt, at least 4.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the noises: prompt number p has seed + p.")] = 0,
    after: Annotated[
        str, typer.Option(metavar="S,S,...", help="Denoising steps after which signals are read; 0 is none.")
    ] = "0,1,3,6,9",
    out: Annotated[Path, opt.writing(metavar="FILE.json", help="Profile to write.")] = Path(
        "seedbed-profile.json"
    ),
    report: opt.Report = True,
    run: opt.Run,
) -> None:
    """Measure which choice of the noise helps on a model, and write it down as a profile.

    Generates and judges every noise of every prompt. Interrupted, it goes on where it was when run again:
    what is measured so far lies in FILE.json.rows. A profile named seedbed-profile.json in the folder of the
    model is what generate, select and score follow; elsewhere, name it with --acquisition.
    """
    path = checked(out, ".json", beside=(".html",) if report else ())
    texts, judge = _texts(prompts, world, count), _judge(verifier, ratings, world)
    moments = opt.whole_numbers("--after", after)
    pipe = run.load()
    from seedbed.lab.calibration import FUNCTIONS
    from seedbed.lab.calibration import calibrate as measure
    from seedbed.lab.presentation import cell_text

    with opt.resumable(run.progress, Path(f"{path}.rows")) as progress:
        found = measure(
            pipe,
            texts,
            noises,
            verifier=judge,
            seed=seed,
            steps=tuple(moments),
            acquisitions=acquisition or FUNCTIONS,
            batch_size=run.batch_size or "auto",
            save=path,
            progress=progress,
            **run.call,
        )
    files = {"profile": path}
    if report:
        files["report"] = found.report(path.with_suffix(".html"))
    if run.as_json:
        print_json(files, profile=json.loads(path.read_bytes()))
        return
    print(f"random noise {cell_text(found.random)}, best of the pool {cell_text(found.oracle)}\n")
    print(found.table.to_text(_LINES))
    print(f"\nchoice  {found.profile.acquisition.name}: {found.profile.why}")
    for what, file in files.items():
        print(f"{what:<7} {file}")


def _texts(prompts: Path | None, world: str | None, count: int) -> list[str]:
    if (prompts is None) == (world is None):
        raise BadInput("say what to calibrate on: either --prompts FILE or --world shapes")
    if prompts is not None:
        try:
            lines = prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"cannot read {prompts}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
            ) from error
        return [line.strip() for line in lines if line.strip()]
    if world != _WORLD:
        raise BadInput(f"there is no world {world!r}: use {_WORLD}")
    from seedbed.worlds.shapes import captions

    # Captions that training knows: the held-out ones stay fresh for whoever tests the choice.
    return captions(count, objects=2, seed=0, held=False)


def _judge(verifier: str | None, ratings: Path | None, world: str | None) -> Any:
    from seedbed.verifiers import resolve
    from seedbed.verifiers.ratings import Ratings

    if verifier is not None and ratings is not None:
        raise BadInput("--verifier and --ratings cannot both judge: leave one out")
    if ratings is not None:
        return Ratings.load(ratings)
    if verifier is None and world is None:
        raise BadInput("say what judges the videos: --verifier NAME or --ratings FILE.csv")
    resolve(verifier or _WORLD)  # a mistake is one before the model is loaded
    return verifier or _WORLD
