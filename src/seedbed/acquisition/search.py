"""Search: what the noises so far have scored decides which to try next, under a budget of evaluations.

Each visited noise is denoised by the caller's own call and judged by a verifier, on its finished video or on
a preview. A search makes its own pool, all that it visited: recipes of one seed, refined where one noise is
made from others, so that each can be made again. It lies here, with what else chooses, above `refinement/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from seedbed.acquisition.base import Acquisition, BatchSize, Scores
from seedbed.acquisition.previews import counting
from seedbed.errors import BadInput, shown, whole
from seedbed.halving import Rung, ranked
from seedbed.noise import NoiseRecipe, Pool, sha256_of
from seedbed.pipelines.rollout import Parts, Rollout
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import guided_evaluations
from seedbed.progress import Show, silent
from seedbed.refinement import Refiner, correlate_steps, prepare, rebuilt, refine_each, tell
from seedbed.refinement.refiner import positions_of
from seedbed.refinement.variation import CrossEntropy, Variation, continued, variations
from seedbed.verifiers import Verifier, judged, judged_text, name_of, resolve

Seen = Sequence[tuple[NoiseRecipe, float]]
"""Visited noises, not refined, and their scores."""


@dataclass(frozen=True, kw_only=True)
class Search(Acquisition):
    """One way to search; a subclass proposes what to visit next.

    Args:
        verifier, verifier_prompt: as of `seedbed.acquisition.Previews`.
        budget: denoiser evaluations that may be spent, guided ones counting each batch row: on all visited
            noises, their refinement, and where `steps` is given on finishing the best one, as `generate`
            does. A search ends where another noise would exceed it.
        steps: after so many steps the verifier judges what they predict; None: it judges finished videos.

    Raises:
        BadInput: an option that is out of its range.
    """

    better = "high"

    verifier: Verifier | str
    budget: int
    steps: int | None = None
    verifier_prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "verifier", resolve(self.verifier))
        whole("budget", self.budget)
        whole("steps", self.steps, optional=True)
        if self.verifier_prompt is not None and not isinstance(self.verifier_prompt, str):
            raise BadInput(f"verifier_prompt must be a text, not {shown(self.verifier_prompt)}")

    def options(self) -> dict[str, Any]:
        """See `Acquisition.options`: the verifier by its name."""
        return {**super().options(), "verifier": name_of(self.verifier)}

    def propose(self, session: Session, start: NoiseRecipe, seen: Seen) -> Iterable[NoiseRecipe]:
        """The recipes to visit next, at least one.

        Args:
            start: the first candidate of the seed.
            seen: what was visited so far, in its order.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement propose")

    def ranked(self, seen: Seen) -> tuple[int, ...]:
        """The numbers of those visited, best first."""
        return ranked(torch.tensor([score for _, score in seen], dtype=torch.float64), self.end)

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """Raises BadInput: see `search`."""
        raise BadInput(
            f"{self.name} makes its own pool, and its budget says how large: leave candidates and noises out"
        )

    def visits(self, session: Session, refiners: Sequence[Refiner]) -> int:
        """How many noises the budget allows; none is denoised to tell.

        Raises:
            BadInput: not a single one, or more steps than the schedule has.
        """
        every = session.facts.steps
        if (self.steps or 0) > every:
            raise BadInput(
                f"steps={self.steps}, but the schedule has only {every}: raise num_inference_steps"
            )
        steps = guided_evaluations(session)
        judge = sum(steps[: self.steps or every])
        one = judge + sum(refiner.evaluations(session) for refiner in refiners)
        finish = sum(steps) - judge if self.steps else 0
        if self.budget < one + finish:
            raise BadInput(
                f"budget={self.budget} is below one generation, which takes {one + finish:g} evaluations of "
                "the denoiser: raise it, or lower num_inference_steps"
            )
        return int((self.budget - finish) // one)

    def search(
        self,
        session: Session,
        start: NoiseRecipe,
        refiners: Sequence[Refiner] = (),
        *,
        batch_size: BatchSize = "auto",
        show: Show = silent,
    ) -> tuple[Pool, Scores]:
        """Visit as many noises as the budget allows.

        Args:
            start: the first candidate of the seed, not refined.
            refiners: what is done to each visited noise before it is denoised.
            batch_size, show: see `Acquisition.score`; "auto" is one candidate, as for previews.

        Returns:
            All visited noises in their order, and their scores; the rollout is that of the best one.

        Raises:
            BadInput: as `visits`, or a verifier that does not return a number for each video.
            BadOutput: a score that is not finite; names the visited noise.
            NotSupported: a pipeline that cannot be paused, or whose noise has no frequencies.
        """
        count, steps = self.visits(session, refiners), self.steps or session.facts.steps
        start = replace(start, sha256=None)
        verifier = resolve(self.verifier)
        text = judged_text(verifier, session, self.verifier_prompt)
        rows = 1 if batch_size == "auto" else batch_size
        model, notes = prepare(refiners, session, [start])
        progress = counting(show, "preview", count * steps)
        pools: list[Pool] = []
        seen: list[tuple[NoiseRecipe, float]] = []
        columns: dict[str, list[float]] = {}
        previews: list[np.ndarray[Any, Any]] = []
        strayed: list[str] = []
        best, memory = -1, list[Parts]()
        seconds = {"verifier": 0.0, **dict.fromkeys(["refinement"] * bool(refiners), 0.0)}
        while (before := len(seen)) < count:
            proposed = itertools.islice(self.propose(session, start, tuple(seen)), count - before)
            while chunk := list(itertools.islice(proposed, rows)):
                made = [rebuilt(recipe, session)[0] for recipe in chunk]
                drawn = tuple(replace(r, sha256=sha256_of(z)) for r, z in zip(chunk, made, strict=True))
                pool = Pool(drawn, torch.stack(made))
                if refiners:
                    started = perf_counter()
                    pool, those = refine_each(pool, refiners, session, model)
                    strayed += those
                    seconds["refinement"] += perf_counter() - started
                for recipe, noise in zip(pool.recipes, pool.noises, strict=True):
                    correlate_steps(session, recipe, noise)
                rollout = Rollout(session, pool.noises, batch_size=rows, progress=progress)
                frames = rollout.advance(steps)
                started, first = perf_counter(), len(seen)
                verdict = judged(verifier, frames, text, range(first, first + len(chunk)))
                seconds["verifier"] += perf_counter() - started
                seen += zip(chunk, verdict.pop("score").tolist(), strict=True)
                for name, values in verdict.items():
                    columns.setdefault(name, []).extend(values.tolist())
                pools, previews = [*pools, pool], [*previews, *frames]
                if (leader := self.ranked(seen)[0]) >= first:
                    best, memory = leader, rollout.memory(leader - first)
        noises, order = torch.cat([pool.noises for pool in pools]), self.ranked(seen)
        rollout = Rollout(session, noises)
        rollout.keep(order[:1])
        if best == order[0]:
            rollout.recall(best, memory, steps)
        totals, others = tuple(score for _, score in seen), {k: tuple(v) for k, v in columns.items()}
        told = f"{name_of(verifier)} judged {count} noises after {steps} of {session.facts.steps} steps"
        scores = Scores.of(
            torch.tensor(totals, dtype=torch.float64),
            order,
            rungs=(Rung(steps, tuple(range(count)), totals, order[:1], others),),
            notes=(told, *tell(notes, strayed)),
            previews=previews,
            rollout=rollout,
            seconds=seconds,
        )
        return Pool(tuple(recipe for pool in pools for recipe in pool.recipes), noises), scores


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Search):
    """Candidates 0, 1, 2, ... of the seed: the best of as many as the budget allows."""

    name = "random-search"

    def propose(self, session: Session, start: NoiseRecipe, seen: Seen) -> Iterable[NoiseRecipe]:
        """See `Search.propose`."""
        return (replace(start, candidate=start.candidate + index) for index in itertools.count(len(seen)))


@dataclass(frozen=True, kw_only=True)
class Neighbours(Search):
    """Zero-order search (arXiv 2501.09732, section 3): neighbours of the best noise so far, on the sphere.

    It begins with candidate 0. A neighbour is a `Variation` in a direction that was not tried before, of the
    best of all that were visited.

    Args:
        strength: of a variation, from 0 to 1; 0.3 is ours.
        batch: neighbours in a round; 4 is ours.

    Raises:
        BadInput: one of them is out of its range.
    """

    name = "neighbours"

    strength: float = 0.3
    batch: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        Variation(self.strength)
        whole("batch", self.batch)

    def propose(self, session: Session, start: NoiseRecipe, seen: Seen) -> Iterable[NoiseRecipe]:
        """See `Search.propose`."""
        if not seen:
            return [start]
        best, _ = seen[self.ranked(seen)[0]]
        return variations(best, self.strength, self.batch, first=len(seen))


@dataclass(frozen=True, kw_only=True)
class LowFrequencies(Search):
    """Cross-entropy search over the lowest frequencies of the noise alone (SES, arXiv 2602.03208).

    All other frequencies are those of candidate 0. A round's low ones are drawn from a normal distribution
    that is fitted to those of the best noises so far; the first round's from the prior. The authors take the
    low band of a wavelet, whose four levels leave 1/16 of each side, and images alone; here it is of cosines,
    over frames too, and each visited noise keeps the norm of candidate 0.

    Args:
        share: of the frequencies of each axis that are searched, in (0, 1].
        batch: noises of a round.
        elite: noises that the distribution is fitted to, from 2 to `batch`.
        smoothing: how much of the last round's mean and standard deviation stays, from 0 to 1.

    Raises:
        BadInput: one of them is out of its range.
    """

    name = "low-frequencies"

    share: float = 1 / 16
    batch: int = 10
    elite: int = 5
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("elite", self.elite, 2, whole("batch", self.batch, 2))
        CrossEntropy(index=0, batch=self.batch, axes=(0,), share=self.share, smoothing=self.smoothing)

    def propose(self, session: Session, start: NoiseRecipe, seen: Seen) -> Iterable[NoiseRecipe]:
        """See `Search.propose`; NotSupported where the axes of the noise cannot be told."""
        axes, packing = positions_of(session)
        if packing is not None and start.packing is None:
            # Candidate 0 as the pipeline would lay it out, frame by frame.
            start = replace(start, packing=packing, frame_axis=session.drawn.frame_axis)
        rounds = range(self.batch, len(seen) + 1, self.batch)
        options = {name: getattr(self, name) for name in ("batch", "share", "smoothing")}
        options |= {"axes": axes, "elites": [self.ranked(seen[:end])[: self.elite] for end in rounds]}
        numbers = range(len(seen), len(seen) + self.batch)
        return [continued(start, CrossEntropy(index=index, **options)) for index in numbers]
