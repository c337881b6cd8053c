"""What an attention call attends over, told from shapes and from the arguments of the modules around it."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

Arguments = dict[str, Any]


def parameter_names(kind: type[nn.Module]) -> list[str]:
    """Names of what the forward of a class of modules takes.

    The class's own forward: offloading replaces an instance's by one that names nothing.
    """
    code = inspect.unwrap(kind.forward).__code__
    return list(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """The arguments of a module's forward by name, in its order, then those that it does not name."""
    names = parameter_names(type(module))
    given = dict(zip(names, args, strict=False)) | kwargs
    return {name: given[name] for name in names if name in given} | kwargs


def processors_of(modules: Iterable[nn.Module]) -> dict[nn.Module, Any]:
    """What those of the modules attend with that attend."""
    # Not by `getattr`, which takes long to find nothing in a module.
    found = {module: vars(module).get("processor", module._modules.get("processor")) for module in modules}
    return {module: processor for module, processor in found.items() if processor is not None}


def batch_size(arguments: Arguments) -> int | None:
    """Batch rows of a module's input, None for a module without one.

    That is one batched tensor, or in a few a list with one tensor per row. A model that packs everything into
    one sequence takes the numbers of its words before such a list.
    """
    values = [value for value in arguments.values() if isinstance(value, (Tensor, list))]
    if values and isinstance(values[0], Tensor) and values[0].ndim == 1 and not values[0].is_floating_point():
        values = [value for value in values if isinstance(value, list)] or values
    return len(values[0]) if values else None


def main_tensor(arguments: Arguments) -> Tensor | None:
    """The first tensor among a module's arguments: what it transforms."""
    return next((value for value in arguments.values() if isinstance(value, Tensor)), None)


def kind_of(around: Sequence[Arguments], channels: int | None, fold: int, rows: int, keys: int) -> str:
    """`self`, `cross`, `joint` (text and video in one sequence) or `temporal` (the sequence is the frames).

    Text that the model joined to the video before its blocks cannot be told from more video: that is `self`.

    Args:
        around: arguments by name of the modules around the call, from the denoiser to the calling module.
        channels: channels of the denoiser's input, which tell the frame axis of a video; None if unknown.
        fold: batch rows of the call per candidate.
        rows, keys: lengths of its two sequences.
    """
    for depth, arguments in enumerate(reversed(around)):
        main, text = main_tensor(arguments), arguments.get("encoder_hidden_states")
        if main is None or main.ndim not in (3, 4) or not isinstance(text, Tensor) or text is main:
            continue
        own = main.shape[1] if main.ndim == 3 else main.shape[2] * main.shape[3]
        other = text.shape[1]
        if keys == own + other:
            return "joint"
        if depth == 0:
            # Given to the calling module itself. A model may drop padded text from a joint sequence.
            if rows == keys and rows > own:
                return "joint"
            if not (rows == keys == own != other):
                return "cross"
        break
    if rows != keys:
        return "cross"
    return "temporal" if _along_frames(around, channels, fold, rows) else "self"


def _along_frames(around: Sequence[Arguments], channels: int | None, fold: int, rows: int) -> bool:
    """Whether the sequence is the frames, and the positions are folded into the batch, not the reverse."""
    video = main_tensor(around[0])
    if video is not None and video.ndim == 5 and channels in video.shape[1:3]:
        frames = video.shape[2] if video.shape[1] == channels else video.shape[1]
        if rows == frames and rows > 1 and fold not in (1, frames):
            return True
    # As many positions as frames: only the module that folds the video can tell which of the two it kept.
    for arguments in reversed(around[1:]):
        folded = main_tensor(arguments)
        if folded is not None and folded.ndim >= 4:
            return rows > 1 and arguments.get("num_frames") == rows
    return False
