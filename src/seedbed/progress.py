"""Telling the caller how far the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[str, float, float], None]
"""(what, done, total), the latter two in denoiser evaluations or steps."""
Progress = bool | Show


def silent(what: str, done: float, total: float) -> None:
    """Shows nothing."""


@contextmanager
def reporting(progress: Progress) -> Iterator[Show]:
    """Yield a function that takes (what, done, total), done and total in denoiser evaluations.

    Args:
        progress: True shows a bar with the time left on stderr, False nothing; a callable is used as it is.
    """
    if callable(progress) or not progress:
        yield progress if callable(progress) else silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def show(what: str, done: float, total: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show
