"""The recipe of a noise: the few numbers from which the very same tensor is drawn anywhere, at any time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadRecord, shown, whole
from seedbed.files import write_bytes_atomically
from seedbed.noise.packing import Packing
from seedbed.noise.priors import PRIORS, Gaussian, Prior, Torch, apply_factor
from seedbed.texts import parse, text_of

SCHEMA = "seedbed.noise-recipe"
# Version 1, before packing and refinements, is still written where there are none, under the Gaussian prior.
SCHEMA_VERSION = 2

MOST_CANDIDATES = 10_000  # of one choice
_LARGEST = 2**64 - 1  # of seed and candidate, eight bytes each of what keys the generator
_MOST_ELEMENTS = 2**30  # 4 GiB of float32: far above any latent, far below what would exhaust a machine


def prior_named(prior: object) -> Prior:
    """The prior that a text such as "mixed:alpha=1.0" stands for; a prior as it is.

    Raises:
        BadInput: there is no such prior, or it refuses an option.
    """
    return prior if isinstance(prior, Prior) else parse(PRIORS, "noise prior", prior)


@dataclass(frozen=True, slots=True)
class NoiseRecipe:
    """What an initial noise is made of; `draw()` makes it.

    The random numbers come from numpy's counter-based Philox generator (Salmon et al., SC 2011), keyed by a
    hash of `seed` and `candidate`, in float64, rounded to float32. They do not come from `torch.randn`: its
    CPU kernels compute other last digits under another instruction set and take another path below 16
    elements, and its CUDA generator is another stream altogether. So the noise depends on the recipe alone:
    not on batch size, drawing order, device, dtype, threads or processes, and a candidate never changes
    when others are added. The prior "torch" is the exception: its noise is what `torch.randn` draws from
    `torch.Generator("cpu").manual_seed(seed + candidate)`.

    Attributes:
        seed: 0 <= seed < 2**64.
        candidate: index of the noise among those of one seed, 0 <= candidate < 2**64.
        shape: of the noise, without a batch axis; every length at least 1.
        prior: the distribution as a text, see `seedbed.noise.prior_named`; given as an object, or shorter,
            it is kept in full ("mixed:1" as "mixed:alpha=1.0").
        frame_axis: the axis of the drawn shape that counts latent frames; None for images, and where nothing
            tells.
        refinements: what was done to the noise after drawing it, in this order: each a dictionary with
            "refiner", the refiner as a text, and where that needs the model "model", the sha256 of
            `seedbed.refinement.refiner.model_sha256`.
        sha256: of the finished noise's little-endian float32 bytes in C order, 64 hexadecimal digits; None
            until `sealed`.
        packing: how the noise, drawn in another shape, is laid out in this one; None if it is drawn so.

    Raises:
        BadInput: a field is of the wrong type or out of its range.
    """

    seed: int
    candidate: int
    shape: tuple[int, ...]
    prior: str = "gaussian"
    frame_axis: int | None = None
    refinements: tuple[dict[str, str], ...] = field(default=(), hash=False)
    sha256: str | None = None
    packing: Packing | None = None

    def __post_init__(self) -> None:
        lengths, own = self.shape, "a noise recipe's"
        if not isinstance(lengths, (tuple, list)) or not lengths:
            raise BadInput(f"{own} shape must be a tuple of lengths, not {shown(lengths)}")
        packing: Any = self.packing
        if isinstance(packing, dict) and {*packing} == {each.name for each in dataclasses.fields(Packing)}:
            packing = Packing(**packing)
        if packing is not None and not isinstance(packing, Packing):
            raise BadInput(f"{own} packing must have shape, extents and strides, not be {shown(packing)}")
        axes = len(packing.shape if packing else lengths)
        found: dict[str, Any] = {
            "seed": whole(f"{own} seed", self.seed, 0, _LARGEST),
            "candidate": whole(f"{own} candidate", self.candidate, 0, _LARGEST),
            "shape": tuple(whole(f"each length of {own} shape", length) for length in lengths),
            "prior": text_of(prior_named(self.prior)),
            "frame_axis": whole(f"{own} frame_axis", self.frame_axis, 0, axes - 1, optional=True),
            "refinements": _refinements(self.refinements),
            "packing": packing,
        }
        if math.prod(found["shape"]) > _MOST_ELEMENTS:
            raise BadInput(f"{own} shape must have at most 2**30 elements, not {shown(lengths)}")
        if packing and math.prod(packing.shape) != math.prod(found["shape"]):
            raise BadInput(f"{own} packing of {packing.shape} does not fit its shape {found['shape']}")
        # Written as Python writes it, so that what is no text does not fit either.
        if self.sha256 is not None and not re.fullmatch("'[0-9a-f]{64}'", repr(self.sha256)):
            raise BadInput(f"{own} sha256 must be 64 hexadecimal digits, not {shown(self.sha256)}")
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def torch_seed(self) -> int | None:
        """The number that any tool draws this noise for, under the prior "torch"; else None."""
        return self.seed + self.candidate if isinstance(prior_named(self.prior), Torch) else None

    @property
    def plain(self) -> NoiseRecipe:
        """The recipe of the noise before its refinements; itself where there are none."""
        return dataclasses.replace(self, refinements=(), sha256=None) if self.refinements else self

    def draw(self) -> Tensor:
        """Draw the noise.

        Returns:
            float32 CPU tensor of `shape`, the same on every call.

        Raises:
            BadInput: a prior over frames, and the shape has no axis of them.
            BadRecord: the recipe is sealed and the noise is not the one it was sealed with, unless torch drew
                it, which may draw otherwise elsewhere; or the noise was refined, which
                `seedbed.refinement.rebuilt` repeats.
        """
        if self.refinements:
            refiners = ", ".join(entry["refiner"] for entry in self.refinements)
            raise BadRecord(
                f"the noise of seed {self.seed}, candidate {self.candidate} was refined by {refiners}: "
                "replay(record) makes it again, or seedbed.refinement.rebuilt(recipe, session)"
            )
        prior = prior_named(self.prior)
        if isinstance(prior, Torch):
            return self._packed(prior.seeded(self._drawn_shape, self.seed + self.candidate))
        noise = self._packed(prior.draw(self._drawn_shape, self.frame_axis, self._numbers()))
        if self.sha256 is not None and (found := sha256_of(noise)) != self.sha256:
            raise BadRecord(
                f"the noise of seed {self.seed}, candidate {self.candidate}, shape {self.shape} has sha256 "
                f"{found[:12]}…, but its recipe says {self.sha256[:12]}…: the recipe was altered"
            )
        return noise

    def beside(self, number: int) -> Tensor:
        """A companion of this noise, for what needs further ones: another noise of the same prior.

        Its numbers are keyed by the seed, the candidate, how often the noise has been refined, and `number`
        (from 1); they come from numpy under the prior "torch" too.

        Returns:
            float32 CPU tensor of `shape`.
        """
        number = whole("number", number, 1, _LARGEST)
        key = struct.pack("<QQQQ", self.seed, self.candidate, len(self.refinements), number)
        prior, numbers = prior_named(self.prior), _numbers(b"seedbed noise beside" + key)
        return self._packed(prior.draw(self._drawn_shape, self.frame_axis, numbers))

    def correlate(self, noise: Tensor) -> Tensor:
        """Independent noise, (*shape), with the correlation that this noise's frames have.

        It is what a stochastic sampler has to add in its steps: with independent noise there, the marginals
        differ from those of training (arXiv 2305.10474). An independent prior changes nothing.
        """
        prior = prior_named(self.prior)
        if isinstance(prior, Gaussian) or self.frame_axis is None:
            return noise
        drawn = self.packing.unpack(noise.float()) if self.packing else noise.float()
        factor = prior.factor(drawn.shape[self.frame_axis], self._numbers())
        mixed: Tensor = apply_factor(factor, drawn, self.frame_axis)
        return self._packed(mixed).to(noise.dtype)

    def _numbers(self) -> np.random.Generator:
        return _numbers(b"seedbed noise" + struct.pack("<QQ", self.seed, self.candidate))

    @property
    def _drawn_shape(self) -> tuple[int, ...]:
        return self.packing.shape if self.packing else self.shape

    def _packed(self, noise: Tensor) -> Tensor:
        return self.packing.pack(noise, self.shape) if self.packing else noise

    def refined(self, how: dict[str, str], noise: Tensor) -> NoiseRecipe:
        """The sealed recipe of the noise that this one's was refined to; `how` as in `refinements`."""
        return dataclasses.replace(self, refinements=(*self.refinements, how), sha256=sha256_of(noise))

    def drawn(self) -> tuple[NoiseRecipe, Tensor]:
        """The recipe with the `sha256` of its noise, and the noise; a sealed one is checked. See `draw`."""
        noise = self.draw()
        return dataclasses.replace(self, sha256=sha256_of(noise)), noise

    def sealed(self) -> NoiseRecipe:
        """The same recipe with `sha256` filled in; one that is sealed already is checked by drawing it."""
        return self.drawn()[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the schema's name and version among them; `from_dict` reads it back."""
        content = {**dataclasses.asdict(self), "shape": list(self.shape), "refinements": [*self.refinements]}
        version = SCHEMA_VERSION
        if self.packing is None and not self.refinements and self.prior == Gaussian.name:
            version = 1
            del content["packing"]
        return {"schema": {"name": SCHEMA, "version": version}, **content}

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
        if repr(version) not in ("1", "2"):
            raise BadRecord(
                f"the noise recipe has schema version {shown(version)}, this seedbed reads 1 and 2: if that "
                "is a later one, update seedbed"
            )
        names = [field.name for field in dataclasses.fields(cls) if version == 2 or field.name != "packing"]
        wrong = [f"{name!r} is missing" for name in names if name not in record]
        wrong += [f"{name!r} is unknown" for name in record if name not in (*names, "schema")]
        if wrong:
            raise BadRecord(f"the noise recipe is damaged: {', '.join(wrong)}")
        try:
            return cls(**{name: record[name] for name in names})
        except (BadInput, TypeError) as error:
            raise BadRecord(f"the noise recipe is damaged: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sealed recipe as JSON, whole or not at all.

        Raises:
            BadInput: the folder does not exist, or the system refuses to write there.
            BadRecord: a refined noise whose recipe is not sealed.
        """
        sealed = self if self.refinements and self.sha256 else self.sealed()
        text = json.dumps(sealed.to_dict(), indent=2) + "\n"
        return write_bytes_atomically(path, text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseRecipe:
        """Read what `save` wrote, and check that its noise, unrefined, can still be drawn bit by bit.

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
            recipe.plain.draw()
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{path}: not a noise recipe: it is no JSON, or was cut short") from error
        except BadRecord as error:
            raise BadRecord(f"{path}: {error}") from error
        return recipe


def _refinements(entries: Any) -> tuple[dict[str, str], ...]:
    """Checked, and their own: what the caller does with the dictionaries plays no part."""
    fits = isinstance(entries, (tuple, list)) and all(
        isinstance(entry, Mapping)
        and isinstance(entry.get("refiner"), str)
        and {*entry} <= {"refiner", "model"}
        and ("model" not in entry or re.fullmatch("'[0-9a-f]{64}'", repr(entry["model"])))
        for entry in entries
    )
    if not fits:
        raise BadInput(
            "a noise recipe's refinements must be dictionaries of a refiner and a model's sha256, not "
            + shown(entries)
        )
    return tuple(dict(entry) for entry in entries)


def _numbers(key: bytes) -> np.random.Generator:
    """The generator of numpy that a key starts."""
    philox = np.random.Philox(key=int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))
    return np.random.Generator(philox)


@dataclass(frozen=True)
class GivenNoise:
    """A noise that the caller brought: a record knows its hash, but cannot redraw it.

    Attributes:
        candidate: its index in the pool.
        shape: without a batch axis.
        sha256: of its float32 bytes.
        values: float32 of `shape`; None after loading from a record.
        refinements: what was then done to it, as in `NoiseRecipe`.
    """

    candidate: int
    shape: tuple[int, ...]
    sha256: str
    values: Tensor | None = field(default=None, repr=False, compare=False)
    refinements: tuple[dict[str, str], ...] = field(default=(), hash=False)

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

    @property
    def plain(self) -> GivenNoise:
        """Itself: what it was before its refinements is not kept."""
        return self

    def beside(self, number: int) -> Tensor:
        """A companion of this noise, Gaussian, keyed by its values and `number`; see `NoiseRecipe.beside`."""
        key = bytes.fromhex(self.sha256) + struct.pack("<Q", whole("number", number, 1, _LARGEST))
        return Gaussian().draw(self.shape, None, _numbers(b"seedbed noise beside" + key))

    def refined(self, how: dict[str, str], noise: Tensor) -> GivenNoise:
        """The noise that this one was refined to; `how` as in `refinements`."""
        found = GivenNoise.of(noise, self.candidate)
        return dataclasses.replace(found, refinements=(*self.refinements, how))

    def drawn(self) -> tuple[GivenNoise, Tensor]:
        """Itself and its values."""
        return self, self.draw()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        noise = {"candidate": self.candidate, "shape": list(self.shape), "sha256": self.sha256}
        refined = {"refinements": [*self.refinements]} if self.refinements else {}
        return {"given": True, "seed": None, **noise, **refined}


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidate noises, drawn once.

    Attributes:
        recipes: sealed with the noise's sha256, or `GivenNoise`.
        noises: (candidates, *shape) float32 on the CPU.
    """

    recipes: tuple[NoiseRecipe | GivenNoise, ...]
    noises: Tensor

    @classmethod
    def of(cls, recipes: Sequence[NoiseRecipe | GivenNoise]) -> Pool:
        """Draw and seal; BadRecord where a sealed recipe draws another noise."""
        drawn = [recipe.drawn() for recipe in recipes]
        return cls(tuple(recipe for recipe, _ in drawn), torch.stack([noise for _, noise in drawn]))

    def __len__(self) -> int:
        return len(self.recipes)


def sha256_of(noise: Tensor) -> str:
    """sha256, in hexadecimal, of a float32 tensor's little-endian bytes in C order.

    Raises:
        BadInput: the tensor is not float32, so that its hash would not be the recipe's.
    """
    if noise.dtype != torch.float32:
        raise BadInput(f"a noise's sha256 is that of its float32 values, but the tensor is {noise.dtype}")
    return hashlib.sha256(noise.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()
