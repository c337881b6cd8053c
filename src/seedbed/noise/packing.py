"""How a pipeline lays out the noise that it draws in its latents: plain numbers, which a recipe can hold."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from seedbed.errors import BadInput, shown, whole


@dataclass(frozen=True)
class Packing:
    """A permutation of the elements of a drawn noise, as packing patches into tokens is one.

    `latents = drawn.flatten().as_strided(extents, strides)`, reshaped to the latents' shape.

    Attributes:
        shape: of the noise as it is drawn, without a batch axis.
        extents, strides: of equal length; the strides are counted in elements of the drawn noise.

    Raises:
        BadInput: no whole numbers of at least 1, or no permutation.
    """

    shape: tuple[int, ...]
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, (tuple, list)) or not values:
                raise BadInput(f"a packing's {field.name} must be whole numbers, not {shown(values)}")
            numbers = tuple(whole(f"each of a packing's {field.name}", value) for value in values)
            object.__setattr__(self, field.name, numbers)
        # From the shortest stride on, each must lead just beyond what the axes before it reach.
        axes = sorted(zip(self.strides, self.extents, strict=False))
        reached = [*itertools.accumulate((extent for _, extent in axes), operator.mul, initial=1)]
        fits = reached == [*(stride for stride, _ in axes), math.prod(self.shape)]
        if not fits or len(self.extents) != len(self.strides):
            raise BadInput(
                f"a packing of {shown(self.extents)} and {shown(self.strides)} is no permutation of "
                f"{shown(self.shape)}"
            )

    def pack(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A noise of `self.shape` as latents of `shape`, both without a batch axis."""
        return drawn.contiguous().flatten().as_strided(self.extents, self.strides).reshape(shape)

    def unpack(self, latents: Tensor) -> Tensor:
        """What `pack` makes latents of: a noise of `self.shape`."""
        order = self.pack(torch.arange(latents.numel(), device=latents.device), tuple(latents.shape))
        drawn = torch.empty_like(latents).flatten()
        drawn[order.flatten()] = latents.flatten()
        return drawn.view(self.shape)

    @classmethod
    def of(cls, shape: tuple[int, ...], order: Tensor) -> Packing | None:
        """The packing that puts element `order[i]` of a drawn noise in place i; None where none does.

        Args:
            shape: of the drawn noise, without a batch axis.
            order: (elements,) whole numbers.
        """
        extents, strides, rest = [], [], order
        while len(rest) > 1:
            # The longest run of equal distances is one axis, as the next would otherwise belong to it.
            stride = int(rest[1] - rest[0])
            breaks = (rest.diff() != stride).nonzero()
            extent = int(breaks[0]) + 1 if len(breaks) else len(rest)
            if stride < 1 or len(rest) % extent:
                return None
            extents.append(extent)
            strides.append(stride)
            rest = rest[::extent]
        try:
            found = cls(tuple(shape), tuple(extents[::-1]) or (1,), tuple(strides[::-1]) or (1,))
        except BadInput:
            return None
        return found if torch.equal(found.pack(torch.arange(len(order)), (len(order),)), order) else None
