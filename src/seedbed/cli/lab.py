"""The commands of `seedbed lab`: run an experiment, read what it found."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Argument, Option, Typer

from seedbed.cli.options import grouped, resumable
from seedbed.errors import BadInput

if TYPE_CHECKING:
    from seedbed.lab.presentation import Table

lab = Typer(
    help="Experiments: which signal chooses well, how surely, at what cost.",
    no_args_is_help=True,
)

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
    quiet: bool = Option(False, "--quiet", "-q", help="No progress bar."),
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
    from seedbed.files import write_bytes_atomically
    from seedbed.lab.presentation import page

    recipe, rows, found = _found(folder)
    path = write_bytes_atomically(folder / "report.html", page(recipe, rows, found).encode())
    print(f"report  {path}")


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
