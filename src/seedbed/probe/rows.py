"""Which rows of a guided forward have the prompt, and which another text or none."""

from typing import Any

import torch
from torch import Tensor

from seedbed.attention.kinds import main_tensor, named_arguments, parameter_names
from seedbed.errors import NotSupported
from seedbed.probe.probe import Probe


def prompt_parts(probe: Probe, given: dict[str, Any], rows: int, count: int) -> list[int | None]:
    """Which part of a forward's rows has the prompt, and which another text; None for no such part.

    Pipelines stack what guidance needs as whole batches of candidates, in one forward or in several. The
    prompt's rows are those whose text is that of the pipeline's unguided call.

    Args:
        given: the denoiser's arguments by name; of `rows` rows, for `count` candidates.

    Raises:
        NotSupported: the text cannot be compared, or parts of it are not whole batches.
    """
    contact = probe._contact
    names = parameter_names(type(probe.denoiser))
    own, text = _text(named_arguments(names, contact.args, contact.kwargs)), _text(given)
    if own is None or text is None or len(text) != rows * len(own) or own.shape[-1] != text.shape[-1]:
        raise NotSupported(
            f"the rows of the prompt cannot be told in the {probe.denoiser_name}: its text is no tensor "
            "with a row for each of them"
        )
    same = _same_text(text.unflatten(0, (rows, -1)), own.to(text.device)[None])
    parts = same.reshape(-1, count).tolist()
    if any(any(part) and not all(part) for part in parts):
        raise NotSupported("the rows of the candidates are not stacked as whole batches: use batch_size=1")
    return [
        next((number for number, part in enumerate(parts) if all(part)), None),
        next((number for number, part in enumerate(parts) if not any(part)), None),
    ]


def _same_text(text: Tensor, own: Tensor) -> Tensor:
    """Which rows of `text` (rows, ..., tokens, channels) are `own` (1, ..., tokens, channels): (rows,) bool.

    A longer text of the other half may have padded them. A pipeline that works on both halves at once rounds
    differently from one that has the prompt alone.
    """
    if text.ndim > 2 and text.shape[-2] > own.shape[-2]:
        text = text[..., : own.shape[-2], :]
    if text.shape[1:] != own.shape[1:]:
        return torch.zeros(len(text), dtype=torch.bool)
    tolerance = torch.finfo(text.dtype).eps ** 0.5 * own.abs().max()
    return ((text - own).abs() <= tolerance).flatten(1).all(1)


def _text(given: dict[str, Any]) -> Tensor | None:
    """The largest of a denoiser's arguments that hold the text, of whatever name."""
    main = main_tensor(given)
    texts = [
        value
        for name, value in given.items()
        if isinstance(value, Tensor)
        and value is not main
        and value.is_floating_point()
        and any(part in name for part in ("encoder_hidden_states", "text", "prompt", "context"))
    ]
    return max(texts, key=Tensor.numel, default=None)
