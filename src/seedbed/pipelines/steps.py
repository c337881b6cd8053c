"""The steps of a pipeline's scheduler: counted, seen, and ended early to decode what a step predicts."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from seedbed.errors import NotSupported
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.prediction import clean_latents


class Watch:
    """Stands in for the `step` of a scheduler that is used once, and counts the steps of the pipeline.

    A pipeline that calls its scheduler twice with the very same timestep has done one step. One that copies
    its scheduler, for a second kind of latents or for every frame, has done a step when all of those have
    that it steps at all: frames that were given stay as they are.

    Attributes:
        met: the timesteps of the steps begun.
        clean: x0-hat of the last step that was wanted. A pipeline may call its scheduler twice for a step:
            the second one counts.
        under_way: whether an evaluation has followed a step.
    """

    def __init__(
        self, pipe: Any, take: Any, pause: int | None, wanted: Callable[[], bool] | None = None
    ) -> None:
        self.pipe, self.take, self.pause, self.wanted = pipe, take, pause, wanted
        self.pipe_name = type(pipe).__name__
        self.met: list[Any] = []
        self.clean: Tensor | None = None
        self.under_way = False
        self._own: list[Any] = []
        self._paused = False
        self._first = self
        self._copies: list[Watch] = []
        self._last: Any = None
        functools.update_wrapper(self, take)

    @property
    def ended(self) -> bool:
        """Whether the run was ended: what comes after changes nothing any more."""
        begun = [copy._paused for copy in self._copies if copy._own]
        return self._paused or (bool(begun) and all(begun))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(self.take).bind(*args, **kwargs).arguments
        timestep = given["timestep"]
        again = bool(self._own) and isinstance(timestep, Tensor) and timestep is self._own[-1]
        if self._paused and not again:
            return self._last
        if self.pause and not self._own and self._first is not self and self._first.under_way:
            raise NotSupported(
                f"no preview: {self.pipe_name} begins some frames later than others, and they "
                "depend on how those go on: denoise all frames together"
            )
        if not again:
            self._own.append(timestep)
        number = len(self._own) - 1
        if number == len(self._first.met):
            self._first.met.append(timestep)
        pausing = number + 1 == self.pause
        if not pausing and not (self.wanted is not None and self.wanted()):
            return self.take(*args, **kwargs)
        as_tuple = not given.pop("return_dict", True)
        output = self.take(**given, return_dict=True)
        as_tuple = as_tuple or isinstance(output, tuple)  # some schedulers give one whatever they are asked
        self.clean = clean_latents(self.take.__self__, number, output, given)
        if not pausing:
            return output.to_tuple() if as_tuple and not isinstance(output, tuple) else output
        clean = self.clean.to(given["sample"].dtype)
        self._paused = True
        if self._first is self:  # or other copies may yet have to step
            self.pipe._interrupt = True
        self._last = (clean, clean) if as_tuple else type(output)(**{**output, "prev_sample": clean})
        return self._last

    def close(self) -> None:
        """Lets go of those who asked: they refer to the watch themselves."""
        for watch in (self, *self._copies):
            watch.wanted = watch._last = None
            del watch._first

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        """For a pipeline that copies its scheduler: the copy pauses too."""
        watch = Watch(self.pipe, copy.deepcopy(self.take, memo), self.pause)
        watch._first = self._first
        self._first._copies.append(watch)
        return watch


def watch_steps(run: Run, undo: ExitStack, pause: int | None, wanted: Callable[[], bool]) -> Watch:
    """Watches the scheduler of a run.

    Args:
        undo: takes the watch off the scheduler again.
        pause: the step (from 1) for which the scheduler gives back the clean latents it implies; the pipeline
            is then interrupted, so that it decodes those as it decodes its own, and where it goes on all the
            same, as it looks at no `interrupt`, its last evaluation stands for the others. None for no pause.
        wanted: asked in every step whether its x0-hat is wanted besides.

    Raises:
        NotSupported: the pipeline has no scheduler; later, where it goes on to other latents after the pause.
    """
    scheduler: Any = getattr(run.pipe, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "step"):
        name = type(run.pipe).__name__
        raise NotSupported(f"no preview: {name} has no scheduler whose steps could be seen")
    watch = Watch(run.pipe, scheduler.step, pause, wanted)
    replace(scheduler, "step", watch, undo)
    undo.callback(watch.close)

    def refuse() -> None:
        if watch.ended:
            raise NotSupported(
                f"no preview: {watch.pipe_name} makes this video in pieces, each from another noise, and "
                "would show the first alone: ask for as few frames as one piece has"
            )

    run.preparation.refuse = refuse
    last: list[tuple[int, Any]] = []

    def forward(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        rows = rows_of(module, args, kwargs)
        watch.under_way = any(each._own for each in (watch, *watch._copies))
        if not watch.ended:
            last[:] = [(rows, own(*args, **kwargs))]
        elif last[0][0] != rows:
            raise NotSupported(
                f"no preview: {watch.pipe_name} cannot be interrupted between steps, and calls its "
                "denoiser with other rows at later steps"
            )
        return last[0][1]

    for module in dict.fromkeys(run.denoisers.values()):
        replace(module, "forward", functools.partial(forward, module, module.forward), undo)
    return watch
