"""The commands of the lab: experiments from recipes, and audits of verifiers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typer import Argument, Option, Typer

from seedbed.cli import options as opt
from seedbed.cli.commands import grouped, resumable, silence_libraries
from seedbed.cli.outputs import checked, print_json
from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically

if TYPE_CHECKING:
    from seedbed.lab.presentation import Table

lab = Typer(help="Experiments: which signal chooses well, how surely, at what cost.", no_args_is_help=True)
verifier = Typer(help="Look at what judges videos.", no_args_is_help=True)
FOLDER = Argument(metavar="DIR", help="Folder of a run.")


@lab.command()
@grouped
def run(
    recipe: Path = Argument(metavar="RECIPE", help="JSON file that says what to run."),
    out: Path | None = Option(None, metavar="DIR", help="Folder of the run (else runs/NAME of the recipe)."),
    workers: int | None = Option(None, min=1, help="Processes that share the work (else 1)."),
    cluster: str | None = Option(
        None, metavar="ADDRESS", help="Of a dask scheduler, whose workers do the work."
    ),
    quiet: bool = opt.QUIET,
) -> None:
    """Run a recipe; run it again to go on after an interruption."""
    if workers and cluster:
        raise BadInput("--workers is for work on this machine, a --cluster has its own: leave one out")
    from seedbed.lab.experiment import Recipe
    from seedbed.lab.work import run as work

    content = Recipe.load(recipe)
    folder = out or Path("runs") / content.name
    with resumable(not quiet and sys.stderr.isatty(), folder) as show:
        rows = work(content, folder, workers or 1, lambda done, total: show("rows", done, total), cluster)
    print(f"{len(rows)} rows in {folder / 'rows.jsonl'}")


@lab.command()
@grouped
def table(folder: Path = FOLDER) -> None:
    """Print the tables of a run."""
    for found in _found(folder)[2]:
        print(f"\n{found.title}\n\n{found.to_text()}")
        if found.note:
            print(f"\n{found.note}")


@lab.command()
@grouped
def report(folder: Path = FOLDER) -> None:
    """Write the tables of a run, with their intervals drawn, as one HTML page, report.html in its folder."""
    from seedbed.lab.presentation import page

    recipe, rows, found = _found(folder)
    path = write_bytes_atomically(folder / "report.html", page(recipe, rows, found).encode())
    print(f"report  {path}")


@lab.command()
@grouped
def export(
    videos: list[Path] = Argument(
        None, metavar="[VIDEO]...", help="Videos that carry their record, or folders of them."
    ),
    vbench: Path = Option(..., metavar="DIR", help="Folder that VBench reads."),
) -> None:
    """Copy videos to a folder as VBench names them, PROMPT-INDEX.mp4; show its results once it has run."""
    from seedbed.lab.vbench import command, results
    from seedbed.lab.vbench import export as copy

    if videos:
        print(f"videos  {len(copy(videos, vbench))} in {vbench}")
    found = results(vbench)
    print(f"{found.to_text()}\n\n{found.note}" if found else f"\nTo evaluate them:\n{command(vbench)}")


def _found(folder: Path) -> "tuple[Any, list[dict[str, Any]], list[Table]]":
    """The recipe of a run, the rows of its finished prompts, and their tables."""
    from seedbed.lab.experiment import Recipe
    from seedbed.lab.presentation import tables_of, whole_prompts
    from seedbed.lab.work import Store

    store = Store(folder)
    if not store.recipe.is_file():
        raise BadInput(f"{folder} is not the folder of a run: it has no recipe.json")
    recipe = Recipe.load(store.recipe)
    rows = store.rows()
    whole = whole_prompts(recipe, rows)
    found = tables_of(recipe.task, whole)
    prompts, asked = len({row["prompt"] for row in whole}), len(recipe.captions())
    if prompts < asked:
        print(f"unfinished: {prompts} of {asked} prompts are finished", file=sys.stderr)
    return recipe, whole, found


@verifier.command()
@grouped
def audit(
    *,
    name: str = Argument(
        metavar="NAME",
        help="shapes, digits, artifacts, clip:FOLDER, reward:FOLDER, vlm:FOLDER, several by +.",
    ),
    world: Literal["shapes", "digits"] | None = Option(
        None, help="Sound videos are held-out ones of this world."
    ),
    videos: Path | None = Option(
        None, metavar="PATH", help="Sound videos with captions NAME.txt beside them, or a .jsonl list."
    ),
    frames: int | None = Option(None, min=6, help="Of each of --videos (else 9)."),
    fps: float | None = Option(None, min=0.01, max=1000, help="At which --videos are read (else 8)."),
    height: int | None = Option(None, min=8, help="Of --videos, pixels (else 256)."),
    width: int | None = Option(None, min=8, help="Of --videos, pixels (else 256)."),
    count: int = Option(60, min=8, help="At most so many videos."),
    seed: int = opt.seed_of("the videos of a world, and of what is made wrong with them", Option),
    out: Path | None = opt.writing(None, metavar="FILE.html", help="Page to write."),
    as_json: bool = opt.AS_JSON,
) -> None:
    """Tell whether a verifier orders sound videos before wrong ones, before you trust it.

    Another prompt, no motion, shuffled or reversed frames, noise and seven more faults, each against the
    sound video; and whether a sound one still wins at another frame rate or size.
    """
    if (videos is None) == (world is None):
        raise BadInput("say which videos are sound: either --world NAME or --videos PATH")
    if world is not None and any((frames, fps, height, width)):
        raise BadInput(
            "the videos of a world have their length, rate and size: leave --frames, --fps, --height and "
            "--width out"
        )
    path = out and checked(out, ".html")
    silence_libraries()
    from seedbed.lab.audit import audit as hold
    from seedbed.lab.audit import moving
    from seedbed.lab.presentation import document
    from seedbed.verifiers import resolve

    judge = resolve(name)
    if world is not None:
        clips = moving(world, count, seed)
    else:
        from seedbed.training.config import Videos
        from seedbed.training.data import FileClips

        asked = Videos(videos=str(videos), fps=fps or 8, height=height or 256, width=width or 256)
        found, clips = FileClips.of(asked, frames or 9), []
        unused = [found.complaint()]
        for number in found.firsts():
            if len(clips) == count:
                break
            try:
                clips.append((found.read(number, found.frames, 0.0), found.caption(number)))
            except BadInput as problem:
                unused.append(str(problem))
        if complaint := "; ".join(filter(None, unused)):
            print(f"warning: not used: {complaint}", file=sys.stderr)
    table = hold(judge, clips, seed).table
    facts = {"verifier": name, "videos": f"{len(clips)} of {world or videos}", "seed": str(seed)}
    lead = f"{name} on {len(clips)} videos of {world or videos}, seed {seed}."
    if path:
        write_bytes_atomically(path, document("Audit of a verifier", lead, facts, [table]).encode())
    if as_json:
        lines = {
            str(trap): {"right": [*share], "equal": equal}  # type: ignore[misc]
            for trap, share, equal, _ in table.rows
        }
        print_json({"page": path} if path else {}, verifier=name, videos=len(clips), seed=seed, traps=lines)
        return
    print(f"{lead}\n\n{table.to_text()}\n\n{table.note}" + (f"\n\npage    {path}" if path else ""))
