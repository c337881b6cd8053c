"""The noises that a pipeline draws while it prepares its latents: seen, and replaced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seedbed.errors import NotSupported


class _Draws(TorchFunctionMode):
    """Passes every noise that is drawn through `answer`."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.answer(result) if func is torch.randn else result


def replace_draws(twin: Any, answer: Callable[[Tensor], Tensor]) -> None:
    """While `twin` prepares latents, it gets `answer(noise)` for every noise that it draws."""
    prepare = twin.prepare_latents

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        with _Draws(answer):
            return prepare(*args, **kwargs)

    vars(twin)["prepare_latents"] = prepare_latents


def draw_instead(twin: Any, noises: Tensor) -> None:
    """While `twin` prepares latents, it draws these noises (candidates, ...) where it draws their shape.

    Pipelines draw them at once, or one after the other where each candidate has a generator.
    """
    left = [noise[None] for noise in noises]

    def answer(drawn: Tensor) -> Tensor:
        if drawn.shape[1:] != noises.shape[1:] or len(drawn) > len(left):
            return drawn
        taken, left[:] = left[: len(drawn)], left[len(drawn) :]
        return torch.cat(taken).to(drawn.device, drawn.dtype)

    replace_draws(twin, answer)
    prepare = twin.prepare_latents

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        if left:
            raise NotSupported(
                f"{type(twin).__name__} draws no noise of shape {tuple(noises.shape[1:])} for each of "
                f"{len(noises)} candidates"
            )
        return prepared

    vars(twin)["prepare_latents"] = prepare_latents
