"""The recipe of a noise: the few numbers from which the very same tensor is drawn anywhere, at any time.

And the distributions that it is drawn from: each element is N(0, 1) on its own under all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadRecord, shown, whole
from seedbed.files import write_bytes_atomically

SCHEMA = "seedbed.noise-recipe"
SCHEMA_VERSION = 1

_LARGEST = 2**64 - 1  # of seed and candidate, eight bytes each of what keys the generator
_MOST_ELEMENTS = 2**30  # 4 GiB of float32: far above any latent, far below what would exhaust a machine


class Prior(Protocol):
    """A distribution over noises, each of whose elements is N(0, 1) on its own.

    `draw` takes every random number from `generator`, in an order that depends on `shape` and `frame_axis`
    alone, and computes in float64 until the end: then its noise is the same on every machine.
    """

    name: str

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """Draw one noise.

        Args:
            shape: of the noise, without a batch axis.
            frame_axis: the axis of `shape` that counts latent frames, or None where there is none.
            generator: the only source of randomness.

        Returns:
            float32 CPU tensor of `shape`.
        """
        ...


class Gaussian:
    """Independent N(0, 1) in every element: what diffusion models are trained on."""

    name = "gaussian"

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """See `Prior.draw`; `frame_axis` plays no part in an independent prior."""
        # Drawn in float64: rounding then hides a last-digit difference between two C libraries' logarithms.
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


_PRIORS: dict[str, Prior] = {prior.name: prior for prior in (Gaussian(),)}


def prior_named(name: str) -> Prior:
    """The prior that a recipe calls `name`.

    Raises:
        BadInput: there is no such prior.
    """
    if not isinstance(name, str) or name not in _PRIORS:
        raise BadInput(
            f"there is no noise prior {shown(name)}; choose one of: {', '.join(map(repr, _PRIORS))}"
        )
    return _PRIORS[name]


@dataclass(frozen=True, slots=True)
class NoiseRecipe:
    """What an initial noise is made of; `draw()` makes it.

    The random numbers come from numpy's counter-based Philox generator (Salmon et al., SC 2011), keyed by a
    hash of `seed` and `candidate`, in float64, rounded to float32. They do not come from `torch.randn`: its
    CPU kernels compute other last digits under another instruction set and take another path below 16
    elements, and its CUDA generator is another stream altogether. So the noise depends on the recipe alone:
    not on batch size, drawing order, device, dtype, threads or processes, and a candidate never changes
    when others are added.

    Attributes:
        seed: 0 <= seed < 2**64.
        candidate: index of the noise among those of one seed, 0 <= candidate < 2**64.
        shape: of the noise, without a batch axis; every length at least 1.
        prior: name of the distribution, see `seedbed.noise.prior_named`.
        frame_axis: the axis of `shape` that counts latent frames, 0 <= frame_axis < len(shape); None for
            images and for packed tokens.
        refinements: what was done to the noise after drawing it; this version knows none: it must be empty.
        sha256: of the noise's little-endian float32 bytes in C order, 64 hexadecimal digits; None until
            `sealed`.

    Raises:
        BadInput: a field is of the wrong type or out of its range.
    """

    seed: int
    candidate: int
    shape: tuple[int, ...]
    prior: str = "gaussian"
    frame_axis: int | None = None
    refinements: tuple[()] = ()
    sha256: str | None = None

    def __post_init__(self) -> None:
        lengths, own = self.shape, "a noise recipe's"
        if not isinstance(lengths, (tuple, list)) or not lengths:
            raise BadInput(f"{own} shape must be a tuple of lengths, not {shown(lengths)}")
        found: dict[str, Any] = {
            "seed": whole(f"{own} seed", self.seed, 0, _LARGEST),
            "candidate": whole(f"{own} candidate", self.candidate, 0, _LARGEST),
            "shape": tuple(whole(f"each length of {own} shape", length) for length in lengths),
            "frame_axis": whole(f"{own} frame_axis", self.frame_axis, 0, len(lengths) - 1, optional=True),
            "refinements": (),
        }
        if math.prod(found["shape"]) > _MOST_ELEMENTS:
            raise BadInput(f"{own} shape must have at most 2**30 elements, not {shown(lengths)}")
        prior_named(self.prior)
        if self.refinements not in ((), []):
            raise BadInput(
                f"this version knows no refinements of noise, the recipe has {shown(self.refinements)}"
            )
        # Written as Python writes it, so that what is no text does not fit either.
        if self.sha256 is not None and not re.fullmatch("'[0-9a-f]{64}'", repr(self.sha256)):
            raise BadInput(f"{own} sha256 must be 64 hexadecimal digits, not {shown(self.sha256)}")
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def draw(self) -> Tensor:
        """Draw the noise.

        Returns:
            float32 CPU tensor of `shape`, the same on every call.

        Raises:
            BadRecord: the recipe is sealed and the noise is not the one it was sealed with.
        """
        key = hashlib.sha256(b"seedbed noise" + struct.pack("<QQ", self.seed, self.candidate)).digest()
        philox = np.random.Philox(key=int.from_bytes(key[:16], "little"))
        noise = prior_named(self.prior).draw(self.shape, self.frame_axis, np.random.Generator(philox))
        if self.sha256 is not None and (found := sha256_of(noise)) != self.sha256:
            raise BadRecord(
                f"the noise of seed {self.seed}, candidate {self.candidate}, shape {self.shape} has sha256 "
                f"{found[:12]}…, but its recipe says {self.sha256[:12]}…: the recipe was altered"
            )
        return noise

    def drawn(self) -> tuple[NoiseRecipe, Tensor]:
        """The same recipe with `sha256` filled in, and its noise; a sealed one is checked. See `draw`."""
        noise = self.draw()
        return dataclasses.replace(self, sha256=sha256_of(noise)), noise

    def sealed(self) -> NoiseRecipe:
        """The same recipe with `sha256` filled in; one that is sealed already is checked by drawing it."""
        return self.drawn()[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the schema's name and version among them; `from_dict` reads it back."""
        schema = {"name": SCHEMA, "version": SCHEMA_VERSION}
        return {"schema": schema, **dataclasses.asdict(self), "shape": list(self.shape), "refinements": []}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> NoiseRecipe:
        """Read what `to_dict` wrote. The noise itself is checked later, when it is drawn.

        Raises:
            BadRecord: not a noise recipe, of a newer schema, or with fields missing, unknown or out of range.
        """
        schema = record.get("schema") if isinstance(record, Mapping) else None
        if not isinstance(schema, Mapping) or schema.get("name") != SCHEMA:
            raise BadRecord(f"not a noise recipe: its schema's name is not {SCHEMA!r}")
        version = schema.get("version")
        if repr(version) != str(SCHEMA_VERSION):
            raise BadRecord(
                f"the noise recipe has schema version {shown(version)}, this seedbed reads {SCHEMA_VERSION}: "
                "if that is a later one, update seedbed"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        wrong = [f"{name!r} is missing" for name in names if name not in record]
        wrong += [f"{name!r} is unknown" for name in record if name not in (*names, "schema")]
        if wrong:
            raise BadRecord(f"the noise recipe is damaged: {', '.join(wrong)}")
        try:
            return cls(**{name: record[name] for name in names})
        except BadInput as error:
            raise BadRecord(f"the noise recipe is damaged: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sealed recipe as JSON, whole or not at all.

        Raises:
            BadInput: the folder does not exist, or the system refuses to write there.
        """
        text = json.dumps(self.sealed().to_dict(), indent=2) + "\n"
        return write_bytes_atomically(path, text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseRecipe:
        """Read what `save` wrote, and check that its noise can still be drawn bit by bit.

        Raises:
            BadInput: there is no such file, or it cannot be read.
            BadRecord: the file is no JSON, cut short, altered, of another kind or of a newer schema.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
        try:
            recipe = cls.from_dict(json.loads(content))
            if recipe.sha256 is None:
                raise BadRecord("the noise recipe is damaged: it has no sha256")
            recipe.draw()
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{path}: not a noise recipe: it is no JSON, or was cut short") from error
        except BadRecord as error:
            raise BadRecord(f"{path}: {error}") from error
        return recipe


@dataclass(frozen=True)
class GivenNoise:
    """A noise that the caller brought: a record knows its hash, but cannot redraw it.

    Attributes:
        candidate: its index in the pool.
        shape: without a batch axis.
        sha256: of its float32 bytes.
        values: float32 of `shape`; None after loading from a record.
    """

    candidate: int
    shape: tuple[int, ...]
    sha256: str
    values: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, values: Tensor, candidate: int) -> GivenNoise:
        """Describe one noise, float32 without a batch axis."""
        return cls(candidate, tuple(values.shape), sha256_of(values), values)

    @property
    def seed(self) -> None:
        """None: no seed draws it."""
        return None

    def draw(self) -> Tensor:
        """The values; BadRecord if they are not at hand."""
        if self.values is None:
            raise BadRecord(
                f"noise {self.candidate} was the caller's own and is not in the record: "
                f"pass it as latents= yourself (sha256 {self.sha256[:12]}…)"
            )
        return self.values

    def drawn(self) -> tuple[GivenNoise, Tensor]:
        """Itself and its values."""
        return self, self.draw()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        noise = {"candidate": self.candidate, "shape": list(self.shape), "sha256": self.sha256}
        return {"given": True, "seed": None, **noise}


def sha256_of(noise: Tensor) -> str:
    """sha256, in hexadecimal, of a float32 tensor's little-endian bytes in C order.

    Raises:
        BadInput: the tensor is not float32, so that its hash would not be the recipe's.
    """
    if noise.dtype != torch.float32:
        raise BadInput(f"a noise's sha256 is that of its float32 values, but the tensor is {noise.dtype}")
    return hashlib.sha256(noise.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()
