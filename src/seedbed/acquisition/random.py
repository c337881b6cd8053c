"""The control: a choice that knows nothing of the model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.acquisition.base import NoiseScore, whole


@dataclass(frozen=True, kw_only=True)
class Random(NoiseScore):
    """A uniform number in [0, 1) per noise, from a hash of its values: no evaluation of the model.

    Hashing rather than drawing keeps a candidate's number the same whatever pool it is in.

    Args:
        seed: another seed gives another order.
    """

    name = "random"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("seed", self.seed, least=0)

    def judge(self, noises: Tensor) -> Tensor:
        """(candidates, *shape) -> (candidates,) float64 in [0, 1)."""
        numbers = []
        for noise in noises:
            digest = hashlib.sha256(f"random {self.seed} ".encode())
            digest.update(noise.detach().float().cpu().contiguous().numpy().tobytes())
            # 53 bits: as many as a float64 holds, so that 1.0 cannot come out.
            numbers.append((int.from_bytes(digest.digest()[:8], "big") >> 11) / 2**53)
        return torch.tensor(numbers, dtype=torch.float64)
