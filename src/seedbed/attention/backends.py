"""The attention backends that diffusers' processors choose: inside a tap, all use torch's own."""

from collections.abc import Callable
from typing import Any

from torch import nn


def force_native(processor: Any, undo: list[Callable[[], None]]) -> set[str]:
    """Makes a processor use torch's own attention until undone; the name of the one it had, if any."""
    if not hasattr(processor, "_attention_backend"):
        return set()
    chosen = processor._attention_backend
    if "_attention_backend" in vars(processor):
        undo.append(lambda: setattr(processor, "_attention_backend", chosen))
    else:
        undo.append(lambda: delattr(processor, "_attention_backend"))
    processor._attention_backend = "native"
    name = str(getattr(chosen, "value", chosen))
    return set() if name in ("None", "native") else {name}


def needs(module: nn.Module, chosen: set[str]) -> str:
    """What to say where a module fails without the backend that was chosen for it."""
    return (
        f"{type(module).__name__} needs the attention backend {' and '.join(sorted(chosen))}: its attention "
        "does not go through torch's scaled_dot_product_attention and cannot be seen"
    )
