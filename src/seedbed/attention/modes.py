"""Arithmetic that does not depend on the modes of torch in which a caller runs the model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Inside, and in a function decorated with it, a caller's autocast, gradients and default device are off.

    The model runs as its user wants it. What is computed about it must be the same in every mode: under
    autocast, products of float32 would come out in bfloat16.
    """
    accelerator = torch.accelerator.current_accelerator()
    with torch.no_grad(), ExitStack() as modes:
        for kind in {"cpu", accelerator.type if accelerator else "cpu"}:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield
