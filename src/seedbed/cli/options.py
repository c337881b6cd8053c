"""How a command is declared: the options that several share, each once, and the ways it ends other than well."""

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console

from seedbed.errors import BadInput, SeedbedError

if TYPE_CHECKING:
    from seedbed.acquisition import Acquisition as AcquisitionFunction

choosing = functools.partial(typer.Option, rich_help_panel="Which noise")
calling = functools.partial(typer.Option, rich_help_panel="The pipeline's call")
running = functools.partial(typer.Option, rich_help_panel="Model and machine")
writing = functools.partial(typer.Option, rich_help_panel="Output")


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def _finite(number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"must be a finite number, not {number}")
    return number


def _something(prompt: str) -> str:
    if not prompt.strip():
        raise typer.BadParameter("the prompt is empty: say what to generate")
    return prompt


Prompt = Annotated[str, typer.Argument(help="What to generate.", show_default=False, callback=_something)]
Seed = Annotated[int, choosing(help="Of the candidates: noise i of a seed never changes.")]
Acquisition = Annotated[
    str,
    choosing(
        metavar="TEXT",
        help="What chooses: random, entropy, bansa, bansa-dropout or previews, options after a colon "
        "(bansa:keep=0.5,layers=joint); the file of a profile (profile.json); or auto: the profile beside the "
        "model, else bansa.",
    ),
]
Verifier = Annotated[
    str | None,
    choosing(
        metavar="NAME",
        help="Choose by previews that this judges: shapes, clip:FOLDER or aesthetic:FOLDER.",
        show_default=False,
    ),
]
Fps = Annotated[float, writing(min=0.01, max=1000, help="Frames per second of the video.")]
Report = Annotated[bool, writing(help="Write an HTML report beside it.")]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How to choose one of how many noises."""

    candidates: Annotated[
        int | None,
        choosing(
            min=1, help="How many noises to choose from (else what the profile says, 6 for previews, 10)."
        ),
    ] = None
    seed: Seed = 0
    acquisition: Acquisition = "auto"
    verifier: Verifier = None

    def arguments(self) -> dict[str, Any]:
        """The same for `seedbed.select` and `generate`; a mistake is one before a model is loaded."""
        function: str | AcquisitionFunction
        if self.verifier is None:
            function = function_of(self.acquisition)
        elif self.acquisition != "auto":
            raise BadInput(
                "--verifier is short for --acquisition previews:verifier=NAME: leave one of them out"
            )
        else:
            from seedbed.acquisition import Previews

            function = Previews(verifier=self.verifier)
        return {"candidates": self.candidates, "seed": self.seed, "acquisition": function}


def function_of(acquisition: str) -> "str | AcquisitionFunction":
    """The function that a text names; "auto" and the file of a profile as they are, for `selection` to follow."""
    if acquisition == "auto":
        return acquisition
    if acquisition.endswith(".json"):
        from seedbed.selection.profile import Profile

        Profile.load(acquisition)
        return acquisition
    from seedbed.acquisition import resolve

    return resolve(acquisition)


@dataclass(frozen=True, kw_only=True)
class Call:
    """Arguments of the pipeline's call; what is not given has the pipeline's own default."""

    steps: Annotated[int | None, calling(min=1, help="Denoising steps.")] = None
    guidance_scale: Annotated[
        float | None, calling(help="Classifier-free guidance scale.", callback=_finite)
    ] = None
    frames: Annotated[int | None, calling(min=1, help="Number of frames.")] = None
    height: Annotated[int | None, calling(min=1, help="Pixels.")] = None
    width: Annotated[int | None, calling(min=1, help="Pixels.")] = None

    def arguments(self) -> dict[str, Any]:
        """Those that were given, by the pipeline's names."""
        names = {"steps": "num_inference_steps", "frames": "num_frames"}
        given = {names.get(name, name): value for name, value in vars(self).items()}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What a command shows."""

    as_json: Annotated[bool, writing("--json", help="One JSON object on stdout, nothing else.")] = False
    quiet: Annotated[bool, writing("--quiet", "-q", help="No progress bars.")] = False

    @property
    def progress(self) -> bool:
        """Whether progress goes to the terminal."""
        return not self.quiet and sys.stderr.isatty()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The model, and how it runs."""

    model: Annotated[
        str | None,
        running(
            metavar="PATH",
            help="Folder of a diffusers pipeline, its name on the Hugging Face Hub, or an embedded model's "
            "(else shapes-cogvideox).",
        ),
    ] = None
    batch_size: Annotated[
        int | None, running(min=1, help="Candidates per forward (else as many as fit; one for previews).")
    ] = None
    dtype: Annotated[
        Dtype | None, running(help="Of the weights (else float32 on a CPU, bfloat16 on a GPU).")
    ] = None
    device: Annotated[str | None, running(help="cpu, cuda or cuda:1 (else cuda where there is one).")] = None

    def load(self, progress: bool) -> Any:
        """The pipeline."""
        return load_pipeline(self.model, progress, dtype=self.dtype and self.dtype.value, device=self.device)


def load_pipeline(model: str | None, progress: bool, **how: Any) -> Any:
    """`seedbed.pipelines.loading.load`, with a spinner, and with the libraries below silent for good.

    The embedded models are computed on one thread: their tensors are tiny, and on a busy machine threads that
    wait for one another are many times slower.
    """
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with Console(stderr=True, quiet=not progress).status("loading the model"):
        from seedbed.pipelines.loading import RECORDED, load, locate, recorded_name, silence

        name = locate(model)
        silence()
        if recorded_name(name).startswith(RECORDED):
            import torch

            torch.set_num_threads(1)
        return load(name, **how)


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers from a text with commas; BadInput names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"cannot read {option} {text}: write whole numbers with commas, as in 0,1,3") from None


def command(
    app: typer.Typer, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command; what a user can cause to go wrong is one line and an exit code.

    Every parameter whose type is a dataclass stands for that dataclass's fields, an option each.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        groups: dict[str, Any] = {}
        options: list[inspect.Parameter] = []
        kinds = get_type_hints(run, include_extras=True)
        for parameter in inspect.signature(run).parameters.values():
            kind = kinds[parameter.name]
            if not is_dataclass(kind):
                options.append(parameter.replace(annotation=kind))
                continue
            groups[parameter.name] = kind
            inner = get_type_hints(kind, include_extras=True)
            options += [
                parameter.replace(name=field.name, default=field.default, annotation=inner[field.name])
                for field in fields(kind)
            ]

        @functools.wraps(run)
        def spread(**given: Any) -> None:
            with one_line_errors():
                filled = {
                    group: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                    for group, kind in groups.items()
                }
                run(**given, **filled)

        spread.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        spread.__annotations__ = {option.name: option.annotation for option in options}
        app.command(name)(spread)
        return run

    return register


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can cause into a line and an exit code; a bug keeps its traceback."""
    try:
        yield
        return
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    except SeedbedError as error:
        message = str(error)
    except MemoryError:
        message = "out of memory: lower --batch-size, --frames, --height or --width"
    except RuntimeError as error:
        # Named, not imported: torch is not loaded before the first command needs it.
        if type(error).__name__ not in ("OutOfMemoryError", "AcceleratorError") or "memory" not in str(error):
            raise
        message = (
            "out of device memory: lower --batch-size, --frames, --height or --width, or use --device cpu"
        )
    fail(message)
    raise typer.Exit(2)


def fail(message: str) -> None:
    """Print one line, whatever line breaks the message has."""
    print("error:", " ".join(message.split()), file=sys.stderr)


@contextmanager
def resumable(progress: bool, kept: Path) -> Iterator[Callable[[str, float, float], None]]:
    """Yield a function (what, done, total) that shows progress; Ctrl-C says what is kept, and where."""
    from seedbed.progress import reporting

    last = ("", 0.0, 0.0)
    try:
        with reporting(progress) as bar:

            def show(what: str, done: float, total: float) -> None:
                nonlocal last
                last = (what, done, total)
                bar(what, done, total)

            yield show
    except KeyboardInterrupt:
        what, done, total = last
        if not total:
            raise  # before the work began
        print(
            f"interrupted: {done:g} of {total:g} {what} are kept in {kept}; run again to go on",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
