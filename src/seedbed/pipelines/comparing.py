"""Whether tensors that a pipeline prepared mean the same: for several candidates, and as it drew them."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seedbed.attention.kinds import Arguments, batch_size, named_arguments

# Parts of the names of arguments that hold a text.
TEXT = ("encoder_hidden_states", "text", "prompt", "context")


def is_drawn(latents: Tensor, drawn: list[Tensor]) -> bool:
    """Whether prepared latents are nothing but a noise that was drawn, packed or scaled in whatever way.

    Then they have its values in another order, up to a factor, or some of them several times: FreeNoise
    repeats the frames of its first window.
    """
    values = latents.double().cpu().flatten().sort().values
    for noise in drawn:
        own = noise[:1].double().cpu().flatten().sort().values
        if bool(torch.isin(values, own).all()):
            return True
        if own.shape == values.shape and own.abs().max() > 0:
            near = max(1e-5, 2 * torch.finfo(latents.dtype).eps)
            if torch.allclose(values, own * (values @ own / (own @ own)), rtol=near, atol=near):
                return True
    return False


def alike(given: Any, count: int) -> bool:
    """Whether everything with a row for each of `count` candidates holds the same for all."""
    rows = (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and leaf.shape[:1] == (count,))
    return all(_near(leaf[:1], leaf) for leaf in rows)


def times(one: Any, many: Any, count: int) -> bool:
    """Whether `many` holds for each of `count` candidates what `one` holds; what has no batch stays."""
    if isinstance(one, Tensor) and isinstance(many, Tensor):
        if one.ndim and one.shape != many.shape:  # rows of one are the same, or one alone
            one = torch.cat([one] * count)
        return one.shape == many.shape and _near(one, many)
    if isinstance(one, dict) and isinstance(many, dict):
        return one.keys() == many.keys() and all(times(one[name], many[name], count) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(many, (list, tuple)):
        return len(many) in (len(one), count * len(one)) and all(
            times(one[index % len(one)], item, count) for index, item in enumerate(many)
        )
    return type(one) is type(many)


def _near(one: Tensor, two: Tensor) -> bool:
    """Only what means something else is told from what is rounded otherwise."""
    if not (one.is_floating_point() or one.is_complex()):
        one, two = one.double(), two.double()
    return not one.numel() or bool(((one - two).abs() <= 0.02 * one.abs().max()).all())


def digests(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> list[str]:
    """A digest of every row that goes into a denoiser, to tell whether two noises give it the same."""
    given = named_arguments(module, args, kwargs)
    rows = batch_size(given)
    inputs = (
        value
        for name, value in given.items()
        if not any(part in name for part in TEXT)
        and (isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 2))
        and len(value) == rows
    )
    return [_digest(row) for row in next(inputs, ())]


def values_digest(noise: Tensor) -> str:
    """A digest of a noise's values in ascending order: the same however they are packed."""
    return _digest(noise.detach().float().flatten().sort().values)


def _digest(tree: Any) -> str:
    values = (leaf.detach().float().cpu().contiguous().numpy().tobytes() for leaf in tree_leaves(tree))
    return hashlib.sha256(b"".join(values)).hexdigest()
