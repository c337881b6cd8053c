"""How many candidates share a forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from seedbed.attention.tap import SplitBatch
from seedbed.errors import BadInput

BatchSize = int | Literal["auto"]

# Latent values per batch where memory cannot be measured: two candidates at CogVideoX's full size, which is
# what one of its guided steps holds, and every candidate of a small model.
_VALUES = 2_500_000
# What a forward may take in bytes, unless one row takes more: large models are not faster with more rows, and
# would take more memory than the generation itself.
_SMALL = 2 * 2**30
# Of the free memory; kernels of other sizes may take a little more for each row.
_MARGIN = 0.8


@dataclass(frozen=True)
class Memory:
    """A device's memory in bytes, as its allocator counts it.

    Attributes:
        begin: begins a new peak, and returns what is taken now.
        peak: the most that was taken since.
        free: what can still be taken.
    """

    begin: Callable[[], int]
    peak: Callable[[], int]
    free: Callable[[], int]


def memory_of(device: torch.device) -> Memory | None:
    """That of a CUDA device; None where nothing counts."""
    if device.type != "cuda":
        return None

    def begin() -> int:
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)

    def free() -> int:
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept

    return Memory(begin, lambda: torch.cuda.max_memory_allocated(device), free)


class Batches:
    """Cuts candidates into forwards.

    With "auto" on a device whose memory can be measured, the first forward holds one candidate, and its peak
    says how many fit in 2 GiB, and in what is free. A batch for which memory does not suffice is halved.
    Elsewhere "auto" is what fits in 2.5 million latent values.

    Args:
        batch_size: rows of a forward, or "auto".
        shape: of one candidate's latents.
        copies: rows of one candidate.
        memory: of the device, None where it cannot be measured.
        limit: the most candidates that the model takes, None for any number.

    Attributes:
        most: candidates of the next forward, at most.
    """

    def __init__(
        self,
        batch_size: BatchSize,
        shape: Sequence[int],
        copies: int,
        memory: Memory | None = None,
        limit: int | None = None,
    ) -> None:
        self._auto = batch_size == "auto"
        self._memory = memory if self._auto else None
        rows = rows_that_fit(batch_size, shape)
        self._limit = math.inf if limit is None else limit
        self.most = 1 if self._memory is not None else self._allowed(rows // copies)

    def run(self, candidates: Sequence[int], forward: Callable[[Sequence[int]], None]) -> None:
        """Calls `forward` with consecutive parts of the candidates, as even as may be."""
        waiting = candidates
        while waiting:
            batch = evenly(waiting, self.most)[0]
            if self.fits(batch, forward):
                waiting = waiting[len(batch) :]

    def fits(self, batch: Sequence[int], forward: Callable[[Sequence[int]], None]) -> bool:
        """Calls `forward` with a batch; False if memory did not suffice, or the model takes the batch apart,
        and the next is to be smaller.
        """
        memory, self._memory = self._memory, None
        before = memory.begin() if memory is not None else 0
        try:
            forward(batch)
        except torch.OutOfMemoryError:
            if not self._auto or len(batch) == 1:
                raise
            self.most = len(batch) // 2
            return False
        except SplitBatch:
            if len(batch) == 1:
                raise
            self.most = self._limit = 1
            return False
        if memory is not None:
            each = max(1, (memory.peak() - before) // len(batch))
            self.most = self._allowed(min(_SMALL, int(_MARGIN * memory.free())) // each)
        return True

    def _allowed(self, candidates: int) -> int:
        return int(max(1, min(candidates, self._limit)))


def rows_that_fit(batch_size: BatchSize, shape: Sequence[int]) -> int:
    """Rows of latents of this shape that share a forward, without a look at the memory."""
    return max(1, _VALUES // math.prod(shape)) if batch_size == "auto" else batch_size


def evenly(candidates: Sequence[int], most: int) -> list[Sequence[int]]:
    """Consecutive candidates that share a forward, in batches as even as possible."""
    count = math.ceil(len(candidates) / most)
    edges = [len(candidates) * index // count for index in range(count + 1)]
    return [candidates[start:end] for start, end in pairwise(edges)]


def checked(batch_size: object) -> None:
    """Refuse anything but "auto" and whole numbers from 1."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    if not whole and batch_size != "auto":
        raise BadInput(f"batch_size must be 'auto' or a whole number of at least 1, not {batch_size!r}")
