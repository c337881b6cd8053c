"""How the noises of candidates enter a run of a pipeline."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seedbed.errors import NotSupported
from seedbed.probe.drawing import draw_instead

# What schedulers call the addition of noise to clean latents.
_ADDING = ("add_noise", "scale_noise")


@dataclass(frozen=True)
class Entry:
    """Where a pipeline's initial noise comes in, as the pipeline showed when it drew one itself.

    Attributes:
        added: the pipeline adds the noise to a given picture or video, and would take `latents` for the sum.
            The candidates' noises are then put in place of the one that it draws.
        several: it prepares other things together with the latents.
        drawn: it mixes other things into the noise that it draws, and would take `latents` for the mixture,
            or not at all. The candidates' noises are then put in place of the one that it draws first.
    """

    added: bool = False
    several: bool = False
    drawn: bool = False

    def put(self, twin: Any, noises: Tensor) -> dict[str, Tensor]:
        """Prepares a pipeline that is used once for these noises; returns what to call it with besides."""
        if self.added:
            replace_added_noise(twin, lambda drawn: _in_place_of(drawn, noises))
            return {}
        if self.drawn:
            draw_instead(twin, noises)
            return {}
        if self.several:
            _prepare_all(twin)
        return {"latents": noises}


def replace_added_noise(twin: Any, answer: Callable[[Tensor], Tensor]) -> None:
    """While `twin` prepares latents, its scheduler adds `answer(noise)` where it was told to add a noise.

    A pipeline that also returns the noise, to add it again in its steps, gets the answer there too.
    """
    prepare, scheduler = twin.prepare_latents, getattr(twin, "scheduler", None)

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        answers: list[tuple[Tensor, Tensor]] = []

        def remember(noise: Tensor) -> Tensor:
            answers.append((noise, answer(noise)))
            return answers[-1][1]

        with ExitStack() as undo:
            for name in _ADDING:
                if hasattr(scheduler, name):
                    undo.enter_context(_answering(scheduler, name, remember))
            prepared = prepare(*args, **kwargs)
        if not isinstance(prepared, tuple):
            return prepared
        return tuple(next((new for old, new in answers if old is part), part) for part in prepared)

    vars(twin)["prepare_latents"] = prepare_latents


@contextmanager
def _answering(scheduler: Any, name: str, answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    add = getattr(scheduler, name)
    signature = inspect.signature(add)

    def added(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if isinstance(given.get("noise"), Tensor):
            given["noise"] = answer(given["noise"])
        return add(**given)

    vars(scheduler)[name] = added
    try:
        yield
    finally:
        del vars(scheduler)[name]


def _in_place_of(drawn: Tensor, noises: Tensor) -> Tensor:
    if drawn.ndim < noises.ndim:  # frames are folded into the batch
        noises = noises.flatten(0, 1)
    if drawn.shape != noises.shape:
        raise NotSupported(
            f"the pipeline adds noise of shape {tuple(drawn.shape)} for noises of shape {tuple(noises.shape)}"
        )
    return noises.to(drawn.device, drawn.dtype)


def _prepare_all(twin: Any) -> None:
    """Some pipelines forget all but the latents where these are given; the rest is what it is without."""
    prepare = twin.prepare_latents
    signature = inspect.signature(prepare)

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        if isinstance(prepared, tuple):
            return prepared
        given = signature.bind(*args, **kwargs)
        given.arguments["latents"] = None
        return (prepared, *prepare(*given.args, **given.kwargs)[1:])

    vars(twin)["prepare_latents"] = prepare_latents
