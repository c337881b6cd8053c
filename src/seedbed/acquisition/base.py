"""What an acquisition function is: `score(session, pool)` says how promising each noise of a pool is.

Three bases: of the noise alone (`NoiseScore`), of candidates that are denoised further (`RolloutScore`), and
of the attention calls of the first evaluations (`seedbed.acquisition.scoring.AttentionScore`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput, shown, whole
from seedbed.halving import Prefer, Rung, Rungs, ranked
from seedbed.noise import Pool
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.progress import Show, silent

BatchSize = int | Literal["auto"]

# Latent values per batch: two candidates at CogVideoX's full size and one of larger videos, which is what a
# guided step holds, and every candidate of a small model.
_VALUES = 2_500_000


@dataclass(frozen=True, eq=False)
class Scores:
    """What an acquisition function says of a pool.

    Attributes:
        totals: (candidates,) float64; nan where nothing was evaluated.
        order: candidates, best first; those that stayed longer in a race come first.
        table: (candidates, layers) float64; no columns if the function needs no layer, nan where a candidate
            had been dropped.
        layers: the names of the scored layers.
        race: pairs of scored layers seen, and how many candidates then stayed.
        rungs: the pauses of a selection by previews, in their order.
        confidence: that all query rows would have chosen the same; 1.0 where all were seen, None for
            functions that tell no rows apart.
        notes: what is to be said of how it was done, a few words each.
        previews: one decoded video (frames, height, width, 3) uint8 per candidate, where there are any.
        rollout: of the candidates that were denoised for it, to go on from.
        seconds: wall time of parts that are told apart from scoring.
    """

    totals: Tensor
    order: tuple[int, ...]
    table: Tensor
    layers: tuple[str, ...] = ()
    race: Rungs = ()
    rungs: tuple[Rung, ...] = ()
    confidence: float | None = None
    notes: tuple[str, ...] = ()
    previews: list[np.ndarray[Any, Any]] | None = None
    rollout: Rollout | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, totals: Tensor, order: tuple[int, ...], **others: Any) -> Scores:
        """Of a function that needs no layer."""
        return cls(totals, order, torch.zeros(len(totals), 0, dtype=torch.float64), **others)

    @classmethod
    def unranked(cls, candidates: int, **others: Any) -> Scores:
        """Of a pool in which nothing was evaluated."""
        nothing = torch.full((candidates,), torch.nan, dtype=torch.float64)
        return cls.of(nothing, tuple(range(candidates)), **others)


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One idea of how promising an initial noise is.

    A subclass names itself and derives from one of the three bases. It must not keep state between calls: the
    pool decides how many candidates share a forward.

    Attributes:
        name: how reports and records call it.
        unit: of its scores, for axes; "" for a bare number.
        better: "low" or "high", the end of its scale that is better.

    Args:
        prefer: "low" or "high" instead of `better`.

    Raises:
        BadInput: `prefer` is neither.
    """

    name: ClassVar[str] = "unnamed"
    unit: ClassVar[str] = ""
    better: ClassVar[Prefer] = "low"

    prefer: Prefer | None = None

    def __post_init__(self) -> None:
        if self.prefer not in ("low", "high", None):
            raise BadInput(f"prefer must be 'low' or 'high', not {shown(self.prefer)}")

    @property
    def end(self) -> Prefer:
        """The end that is chosen."""
        return self.prefer or self.better

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """Score every noise of a pool; the session's ledger counts what it costs.

        Args:
            batch_size: rows of one forward; "auto": what fits.
            show: called with (what, done, total).

        Raises:
            BadInput: a score of another shape than one per candidate, or an option that does not fit.
            BadOutput: a score that is not finite; names the candidate.
            NotSupported: a model or pipeline that cannot be asked this.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement score")

    def options(self) -> dict[str, Any]:
        """The settings that go into a record: the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _scores(self, totals: Tensor, count: int) -> Scores:
        """Scores without layers, checked."""
        totals = torch.as_tensor(totals).detach().double().cpu()
        if tuple(totals.shape) != (count,):
            raise BadInput(
                f"{self.name} returned scores of shape {tuple(totals.shape)}, not one for each of the "
                f"{count} candidates"
            )
        for index in (~totals.isfinite()).nonzero().flatten().tolist():
            raise BadOutput(f"{self.name} of candidate {index} is {totals[index].item()}")
        return Scores.of(totals, ranked(totals, self.end))


class NoiseScore(Acquisition):
    """A function of the noise alone, which costs no evaluation: implement `judge`."""

    def judge(self, noises: Tensor) -> Tensor:
        """The score of each noise, (candidates, *shape) -> (candidates,)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement judge")

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """See `Acquisition.score`."""
        return self._scores(torch.cat([self.judge(noise[None]) for noise in pool.noises]), len(pool))


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


class RolloutScore(Acquisition):
    """A function of candidates that are denoised by the caller's own call: implement `foresee`."""

    def foresee(self, rollout: Rollout) -> Tensor:
        """The score of each candidate of a rollout at its start: (candidates,)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement foresee")

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """See `Acquisition.score`."""
        show("scoring", 0, len(pool))
        rows = rows_that_fit(batch_size, pool.noises)
        totals = self.foresee(Rollout(session, pool.noises, batch_size=rows, what="scoring"))
        show("scoring", len(pool), len(pool))
        return self._scores(totals, len(pool))


def rows_that_fit(batch_size: BatchSize, noises: Tensor) -> int:
    """Rows of latents like these, (candidates, *shape), that share a forward."""
    if batch_size != "auto":
        return batch_size
    return max(1, _VALUES // noises[0].numel())
