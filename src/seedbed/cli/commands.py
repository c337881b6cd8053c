"""How a function becomes a command: its options, its random seed, how it loads a model and is interrupted."""

import functools
import inspect
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

# What the libraries below read when they are imported.
_SILENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def grouped(run: Callable[..., None]) -> Callable[..., None]:
    """What typer makes a command of: a parameter whose type is a dataclass becomes an option for each field.

    Interrupted, the command says what is kept (the interrupt's own message, else nothing) and exits with 130.
    """
    groups: dict[str, Any] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(run, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = kind = parameter.annotation
            options += inspect.signature(kind, eval_str=True).parameters.values()  # type: ignore[arg-type]
        else:
            options.append(parameter)

    @functools.wraps(run)
    def command(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        if "seed" in given:
            given["seed"] = drawn(given["seed"])
        try:
            run(**given)
        except KeyboardInterrupt as interrupt:
            print(f"interrupted: {str(interrupt) or 'nothing was written'}", file=sys.stderr)
            raise typer.Exit(130) from None

    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def drawn(seed: int) -> int:
    """The seed, or for -1 a random one, which is shown."""
    if seed != -1:
        return seed
    seed = secrets.randbelow(2**31)
    print(f"seed    {seed}", file=sys.stderr)
    return seed


def load_pipeline(model: str | None, progress: bool, **how: Any) -> Any:
    """`seedbed.pipelines.loading.load`, with a spinner, and with the libraries below silent for good.

    The embedded models are computed on one thread: their tensors are tiny, and on a busy machine threads that
    wait for one another are many times slower.
    """
    silence_libraries()
    with Console(stderr=True, quiet=not progress).status("loading the model"):
        from seedbed.pipelines.loading import RECORDED, load, recorded_name, silence

        silence()
        pipe = load(model, **how)
        if recorded_name(pipe.name_or_path).startswith(RECORDED):
            import torch

            torch.set_num_threads(1)
        return pipe


def silence_libraries() -> None:
    """Keep the libraries below silent for good; before they are imported."""
    os.environ.update({**_SILENT, **os.environ})


@contextmanager
def resumable(progress: bool, kept: Path) -> Iterator[Callable[[str, float, float], None]]:
    """Yield a function (what, done, total) that shows progress; interrupted, say what is kept, and where."""
    from seedbed.progress import reporting

    last: list[Any] = []
    try:
        with reporting(progress) as bar:

            def show(*now: Any) -> None:
                last[:] = now
                bar(*now)

            yield show
    except KeyboardInterrupt:
        if not last:
            raise  # before the work began
        what, done, total = last
        left = f"{done:g} of {total:g} {what} are kept in {kept}; run again to go on"
        raise KeyboardInterrupt(left) from None
