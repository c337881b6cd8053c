"""What a denoiser returns, as tensors that can be kept by candidate, and given back as if it had run."""

from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from seedbed.attention.kinds import Arguments, parameter_names
from seedbed.errors import NotSupported

Parts = tuple[Tensor, ...]
"""The tensors that one call of a denoiser returns, (rows, ...) each: video and audio, for instance."""


def parts_of(result: Any, rows: int, module: nn.Module, given: Arguments) -> Parts:
    """The tensors in a denoiser's result.

    Args:
        given: the arguments of the call by name.

    Raises:
        NotSupported: the result holds something else than tensors, or lists of them, with `rows` rows.
    """
    if isinstance(result, Tensor):
        result = (result,)
    values = result.values() if isinstance(result, dict) else result
    parts = tuple(torch.stack(value) if _same_shapes(value) else value for value in values)
    if not all(isinstance(part, Tensor) and len(part) == rows for part in parts) or (
        len(parts) > 1 and given.get("return_dict", True)
    ):
        raise NotSupported(
            f"{type(module).__name__} returns other things than tensors of {rows} rows: it cannot be "
            "remembered; generate without previews"
        )
    return parts


def result_of(parts: Parts, module: nn.Module, given: Arguments) -> Any:
    """The tensors as the denoiser would return them: one that is given its rows as a list returns such."""
    as_list = isinstance(next(iter(given.values())), list)
    values = tuple(list(part.unbind()) if as_list else part for part in parts)
    if not given.get("return_dict", True):
        return values
    has_choice = "return_dict" in parameter_names(type(module))
    return Transformer2DModelOutput(sample=values[0]) if has_choice else values[0]


def joined(pieces: list[Tensor]) -> Tensor:
    """The rows of a batch, candidates fastest, as pipelines stack them; a copy, which they may write into."""
    if len(pieces) == 1:
        return pieces[0].clone()
    return torch.stack(pieces, 1).flatten(0, 1)


def _same_shapes(value: Any) -> bool:
    return isinstance(value, list) and len({row.shape for row in value if isinstance(row, Tensor)}) == 1
