"""Distributions of the initial noise: how the frames of a video are correlated, each element being N(0, 1).

A prior over frames is one matrix, the correlation of any two frames; its noise is `L z` with `L L^T` that
matrix and z independent. A sampler that adds noise in its steps must add such noise too, `correlate(z)`: with
independent noise the marginals of training and sampling differ (arXiv 2305.10474).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed.errors import BadInput, finite, whole

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """A distribution over noises, each of whose elements is N(0, 1) on its own.

    A subclass implements `correlation`, or `factor` where its random numbers decide about the correlation.
    """

    name: ClassVar[str]

    def correlation(self, frames: int) -> Matrix:
        """The correlation of any two of so many frames, (frames, frames) float64."""
        raise NotImplementedError(f"{type(self).__name__} does not implement correlation")

    def factor(self, frames: int, generator: np.random.Generator) -> Matrix:
        """L, (frames, frames) float64: frame i of the noise is the sum over j of `L[i, j]` times z's frame j.

        Args:
            generator: for priors that draw which frames belong together; they draw it before any noise.
        """
        return cholesky(self.correlation(frames))

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """Draw one noise, in float64 until the end: then it is the same on every machine.

        Args:
            shape: of the noise, without a batch axis.
            frame_axis: the axis of `shape` that counts latent frames.
            generator: the only source of randomness; what is taken from it, and in which order, depends on
                `shape` and `frame_axis` alone.

        Returns:
            float32 CPU tensor of `shape`.

        Raises:
            BadInput: there is no frame axis.
        """
        if frame_axis is None:
            raise BadInput(f"the prior {self.name} correlates frames, and this noise has no axis of frames")
        factor = self.factor(shape[frame_axis], generator)
        noise = apply_factor(factor, generator.standard_normal(shape), frame_axis)
        return torch.from_numpy(noise.astype(np.float32))


@dataclass(frozen=True)
class Gaussian(Prior):
    """Independent N(0, 1) in every element: what diffusion models are trained on."""

    name = "gaussian"

    def correlation(self, frames: int) -> Matrix:
        """The identity."""
        return np.eye(frames)

    def draw(self, shape: tuple[int, ...], frame_axis: int | None, generator: np.random.Generator) -> Tensor:
        """See `Prior.draw`; `frame_axis` plays no part in an independent prior."""
        # Drawn in float64: rounding then hides a last-digit difference between two C libraries' logarithms.
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


@dataclass(frozen=True)
class Torch(Gaussian):
    """The noise that a pipeline draws for `torch.Generator("cpu").manual_seed(seed)`, independent too.

    For seeds that people know from other tools. Torch may draw otherwise on another machine.

    Args:
        dtype: in which it is drawn: "float32" (None), "float16", "bfloat16" or "float64".

    Raises:
        BadInput: another dtype.
    """

    name = "torch"

    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "float16", "bfloat16", "float64"):
            raise BadInput(
                f"the prior torch draws in float32, float16, bfloat16 or float64, not {self.dtype!r:.40}"
            )

    def seeded(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """One noise, float32 (*shape), of a seed below 2**64."""
        generator = torch.Generator("cpu").manual_seed(whole("the seed of torch", seed, 0, 2**64 - 1))
        dtype = getattr(torch, self.dtype or "float32")
        return torch.randn((1, *shape), generator=generator, dtype=dtype, device="cpu")[0].float()


@dataclass(frozen=True)
class Mixed(Prior):
    """A noise common to all frames, and one of each frame's own (arXiv 2305.10474, section 3.2).

    Any two frames correlate by α²/(1 + α²). The paper recommends α = 1 for training with it; a model that was
    trained on independent noise is off its distribution.

    Args:
        alpha: weight of the common noise against the frame's own, 0 for independent frames.

    Raises:
        BadInput: alpha is negative or not finite.
    """

    name = "mixed"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", finite("a prior's alpha", self.alpha, 0))

    def correlation(self, frames: int) -> Matrix:
        """α²/(1 + α²) off the diagonal."""
        return np.where(np.eye(frames, dtype=bool), 1.0, 1 - 1 / (1 + self.alpha * self.alpha))


@dataclass(frozen=True)
class Progressive(Prior):
    """Each frame's noise grows from the one before it (arXiv 2305.10474, section 3.2).

    Frames k apart correlate by (α/√(1 + α²))^k. The paper recommends α = 2 for training with it; a model that
    was trained on independent noise is off its distribution.

    Args:
        alpha: weight of the frame before against the frame's own noise, 0 for independent frames.

    Raises:
        BadInput: alpha is negative or not finite.
    """

    name = "progressive"

    alpha: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", finite("a prior's alpha", self.alpha, 0))

    def correlation(self, frames: int) -> Matrix:
        """(α/√(1 + α²))^k at lag k."""
        lag = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
        correlation: Matrix = (self.alpha / math.hypot(1, self.alpha)) ** lag
        return correlation


@dataclass(frozen=True)
class Repeated(Prior):
    """One noise for all frames."""

    name = "repeated"

    def correlation(self, frames: int) -> Matrix:
        """All ones."""
        return np.ones((frames, frames))


@dataclass(frozen=True)
class Shuffled(Prior):
    """The noise of a first window, repeated in shuffled order, for videos longer than trained (FreeNoise).

    arXiv 2310.15169, section 3.2: each stride of frames after the window takes the noises of the stride one
    window before it, in another order.

    Args:
        window: latent frames with noises of their own.
        stride: latent frames that are shuffled among themselves.

    Raises:
        BadInput: not whole numbers with 1 <= stride <= window.
    """

    name = "shuffled"

    window: int = 16
    stride: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", whole("shuffled's window", self.window))
        object.__setattr__(self, "stride", whole("shuffled's stride", self.stride, 1, self.window))

    def factor(self, frames: int, generator: np.random.Generator) -> Matrix:
        """One 1 in each row: the frame of z that this frame repeats."""
        source = list(range(min(frames, self.window)))
        while len(source) < frames:
            start = len(source) - self.window
            source += generator.permutation(source[start : start + self.stride]).tolist()
        return np.eye(frames)[source[:frames]]


@dataclass(frozen=True)
class Covariance(Prior):
    """Any correlation between frames.

    Args:
        matrix: (frames, frames), symmetric, ones on its diagonal, no negative eigenvalue.

    Raises:
        BadInput: the matrix is none of that; later, a video with another number of latent frames.
    """

    name = "covariance"

    matrix: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        try:
            values = np.array(self.matrix, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            values = np.empty(0)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
            raise BadInput("the prior covariance needs a square matrix of numbers, a row for each frame")
        if not np.isfinite(values).all() or not np.array_equal(values, values.T):
            raise BadInput("the prior covariance needs a symmetric matrix of finite numbers")
        if (np.diag(values) != 1).any():
            raise BadInput("the prior covariance needs ones on the diagonal: each element is to be N(0, 1)")
        if np.linalg.eigvalsh(values)[0] < -1e-8:
            raise BadInput("the prior covariance needs a matrix without negative eigenvalues")
        object.__setattr__(self, "matrix", tuple(map(tuple, values.tolist())))

    def correlation(self, frames: int) -> Matrix:
        """The matrix. Raises BadInput where it is of another number of frames."""
        if len(self.matrix) != frames:
            raise BadInput(
                f"the prior covariance is of {len(self.matrix)} frames, but the latents have {frames}"
            )
        return np.array(self.matrix)


PRIORS: dict[str, type[Prior]] = {
    kind.name: kind for kind in (Gaussian, Torch, Mixed, Progressive, Repeated, Shuffled, Covariance)
}


def cholesky(matrix: Matrix) -> Matrix:
    """The lower triangular L with `L L^T = matrix`, also where some eigenvalues are 0.

    In plain products and sums, since LAPACK rounds differently from machine to machine.
    """
    size = len(matrix)
    factor = np.zeros((size, size))
    for column in range(size):
        rest = matrix[column:, column].copy()
        for before in range(column):
            rest -= factor[column:, before] * factor[column, before]
        # What is left of a frame that the ones before it determine is rounding.
        if rest[0] > 1e-12:
            factor[column:, column] = rest / math.sqrt(rest[0])
    return factor


def apply_factor(factor: Matrix, noise: Any, frame_axis: int) -> Any:
    """L applied to the frames of independent noise, an array of numpy or torch; of the same kind and shape.

    Frame by frame, since a matrix product rounds differently from machine to machine.
    """
    frames = noise.swapaxes(0, frame_axis)
    mixed = frames * 0
    for row, weights in enumerate(factor.tolist()):
        for source, weight in enumerate(weights):
            if weight:
                mixed[row] += frames[source] * weight
    return mixed.swapaxes(0, frame_axis)
