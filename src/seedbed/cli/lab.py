"""The commands of `seedbed lab`: run an experiment, read what it found."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbed.cli.exits import one_line_errors
from seedbed.errors import BadInput

if TYPE_CHECKING:
    from seedbed.lab.tables import Figure, Table

lab = typer.Typer(
    help="Experiments: which signal chooses well, how surely, at what cost.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.", show_default=False)]


@lab.command()
def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="JSON file that says what to run.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run (else runs/NAME of the recipe).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Run a recipe; run it again to go on after an interruption."""
    with one_line_errors():
        from seedbed.lab.recipe import Recipe
        from seedbed.lab.work import run as work

        content = Recipe.load(recipe)
        folder = out or Path("runs") / content.name
        last = [0, 0]
        with ExitStack() as stack:
            show = stack.enter_context(_bar(content.name)) if sys.stderr.isatty() and not quiet else None

            def progress(done: int, total: int) -> None:
                last[:] = done, total
                if show is not None:
                    show(done, total)

            try:
                rows = work(content, folder, workers, progress)
            except KeyboardInterrupt:
                if not last[1]:
                    raise  # before the folder was opened
                stack.close()
                print(
                    f"interrupted: {last[0]} of {last[1]} rows are kept in {folder}; run again to go on",
                    file=sys.stderr,
                )
                raise typer.Exit(130) from None
        print(f"{len(rows)} rows in {folder / 'rows.parquet'}")


@lab.command()
def table(folder: Folder) -> None:
    """Print the tables of a run."""
    with one_line_errors():
        from seedbed.lab.tables import Table, cell_text

        for found in _found(folder)[2]:
            if not isinstance(found, Table):
                continue
            texts = [list(found.columns), *([cell_text(cell) for cell in row] for row in found.rows)]
            widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
            print(f"\n{found.title}\n")
            for row in texts:
                print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
            if found.note:
                print(f"\n{found.note}")


@lab.command()
def report(folder: Folder) -> None:
    """Write the tables and figures of a run as one HTML page, report.html in its folder."""
    with one_line_errors():
        from seedbed.files import write_bytes_atomically
        from seedbed.lab.page import page

        recipe, rows, found = _found(folder)
        path = write_bytes_atomically(folder / "report.html", page(recipe, rows, found).encode())
        print(f"report  {path}")


def _found(folder: Path) -> "tuple[Any, list[dict[str, Any]], list[Table | Figure]]":
    """The recipe of a run, the rows of its finished prompts, and their tables and figures."""
    from seedbed.lab.recipe import Recipe
    from seedbed.lab.store import Store
    from seedbed.lab.tables import tables_of, whole_prompts

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


def _bar(name: str) -> Any:
    """A context that shows a bar with the time left on stderr, and gives the function that moves it."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # A unit may take minutes: the speed is that of the whole run.
        with Progress(
            *columns, console=Console(stderr=True), transient=True, speed_estimate_period=1e9
        ) as bar:
            task = None

            def show(done: int, total: int) -> None:
                nonlocal task
                if task is None:
                    task = bar.add_task("", total=total, completed=done)
                bar.update(task, completed=done)

            yield show

    return shown()
