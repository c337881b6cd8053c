"""How a pipeline lays out the noise that it drew as its latents: other axes over the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from torch import Tensor

from seedbed.errors import BadInput, shown, whole


@dataclass(frozen=True)
class Packing:
    """From the noise as it is drawn to the latents, as LTX packs patches into tokens.

    Attributes:
        shape: of the drawn noise, without a batch axis.
        extents, strides: `drawn.flatten().as_strided(extents, strides)` has the latents' order of elements.

    Raises:
        BadInput: no lengths of at least 1 and steps of at least 0, or they lead beyond the noise.
    """

    shape: tuple[int, ...]
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, (tuple, list)):
                raise BadInput(f"a packing's {field.name} must be whole numbers, not {shown(values)}")
            least = 0 if field.name == "strides" else 1
            numbers = tuple(whole(f"each of a packing's {field.name}", value, least) for value in values)
            object.__setattr__(self, field.name, numbers)
        if len(self.extents) != len(self.strides) or math.prod(self.extents) != math.prod(self.shape):
            raise BadInput(f"a packing of {self.extents} and {self.strides} does not fit {self.shape}")
        last = sum((extent - 1) * stride for extent, stride in zip(self.extents, self.strides, strict=True))
        if last >= math.prod(self.shape):
            raise BadInput(f"a packing of {self.extents} and {self.strides} leads beyond {self.shape}")

    def pack(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The latents, of `shape`, from the drawn noise, of `self.shape`."""
        return drawn.flatten().as_strided(self.extents, self.strides).reshape(shape)
