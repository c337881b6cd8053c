"""How a pipeline lays out the noise that it draws in its latents: plain numbers, which a recipe can hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """A permutation of the elements of a drawn noise, as packing patches into tokens is one.

    `latents = drawn.flatten().as_strided(extents, strides)`, reshaped to the latents' shape.

    Attributes:
        shape: of the noise as it is drawn, without a batch axis.
        extents, strides: of equal length; the strides are counted in elements of the drawn noise.
    """

    shape: tuple[int, ...]
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    def pack(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A noise of `self.shape` as latents of `shape`, both without a batch axis."""
        return drawn.contiguous().flatten().as_strided(self.extents, self.strides).reshape(shape)

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
        found = cls(tuple(shape), tuple(extents[::-1]) or (1,), tuple(strides[::-1]) or (1,))
        numbers = torch.arange(len(order))
        reach = sum((extent - 1) * stride for extent, stride in zip(extents, strides, strict=True))
        if reach >= len(order) or not torch.equal(found.pack(numbers, (len(order),)), order):
            return None
        return found if torch.equal(order.sort().values, numbers) else None
