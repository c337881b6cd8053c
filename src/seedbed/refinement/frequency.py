"""FreeInit: the low frequencies of a finished video, noised again, with the high ones of fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seedbed.errors import BadInput, finite, fraction, whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.noise.filters import Shape, low_pass, mix_frequencies
from seedbed.noise.packing import Packing
from seedbed.pipelines.prediction import Level
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise, guided_evaluations, levels_of
from seedbed.refinement.refiner import Refiner, correlate_steps, positions_of, step_at


@dataclass(frozen=True)
class FreeInit(Refiner):
    """The noise for another round of FreeInit (arXiv 2312.07537).

    On every pipeline whose latents have height and width, or are packed from such, and whose noise is not
    added to given latents.

    A round denoises the noise by the caller's own call, noises the result again with the first noise, and
    replaces what the filter stops by that of a companion (`recipe.beside`): a generation each. With the
    noise of n rounds a pipeline makes what diffusers does with `enable_free_init(num_iters=n + 1)`.

    Args:
        rounds: 0 leaves the noise as it is.
        time: share of the schedule at whose level the result is noised; 0 is its first step. None: at the
            last timestep of training, as the authors do, with which some schedules do not begin; where they
            are of sigmas alone (flow matching), at the first step.
        shape, stop, frame_stop, order: of the filter, see `seedbed.noise.filters.low_pass`.
        keep_variance: as FreqPrior mixes (arXiv 2502.03496); FreeInit itself loses variance where the filter
            passes a part.

    Raises:
        BadInput: an option out of its range; later, noise that the pipeline adds to something else.
        NotSupported: latents whose axes cannot be told.
    """

    name = "freeinit"
    needs_model = True

    rounds: int = 1
    time: float | None = None
    shape: Shape = "butterworth"
    stop: float = 0.25
    frame_stop: float = 0.25
    order: int = 4
    keep_variance: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", whole("freeinit's rounds", self.rounds, 0, 10_000))
        if self.time is not None:
            object.__setattr__(self, "time", finite("freeinit's time", self.time, 0, 1))
        if not isinstance(self.keep_variance, bool):
            raise BadInput(f"keep_variance must be true or false, not {self.keep_variance!r:.40}")
        for name in ("stop", "frame_stop"):
            object.__setattr__(self, name, fraction(f"freeinit's {name}", getattr(self, name)))
        object.__setattr__(self, "order", whole("freeinit's order", self.order, 1, 1000))
        self._filter((1, 1, 1))

    def evaluations(self, session: Session) -> float:
        """See `Refiner.evaluations`."""
        return float(self.rounds and self.rounds * sum(guided_evaluations(session, [-1])))

    def caution(self, session: Session) -> str:
        """See `Refiner.caution`."""
        self._axes(session)
        if not self.rounds or self._level(session).has_signal:
            return ""
        levels, shares = levels_of(session), [part / 100 for part in range(101)]
        later = [share for share in shares if levels[step_at(session, share)].has_signal]
        return (
            "freeinit noises the video again where nothing is left of it, so that its low frequencies are "
            "the first noise's: "
            + (f"give a later time, such as time={later[0]:g}" if later else "raise num_inference_steps")
        )

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`."""
        assert session is not None
        (axes, packing), level = self._axes(session), self._level(session)
        alpha, sigma = level.alpha * level.scale, level.sigma * level.scale  # of unit noise
        shape, last = noise.shape, tuple(range(-len(axes), 0))

        def spread(latents: Tensor) -> Tensor:
            latents = latents.float().cpu()
            return (packing.unpack(latents) if packing else latents).movedim(axes, last)

        first = spread(noise)
        passing = self._filter(tuple(first.shape[axis] for axis in last))
        for number in range(1, self.rounds + 1):
            correlate_steps(session, recipe, noise)
            low = alpha * spread(denoise(session, noise)) + sigma * first
            fresh = spread(recipe.beside(number))
            mixed = mix_frequencies(low, fresh, passing, keep_variance=self.keep_variance).movedim(last, axes)
            noise = packing.pack(mixed, shape) if packing else mixed
        return noise

    def _axes(self, session: Session) -> tuple[tuple[int, ...], Packing | None]:
        if session.facts.entry == "added":
            raise BadInput(f"{session.asked.name} adds its noise to what it is given, so no freeinit")
        return positions_of(session)

    def _filter(self, lengths: tuple[int, ...]) -> Tensor:
        return low_pass(lengths, self.shape, stop=self.stop, frame_stop=self.frame_stop, order=self.order)

    def _level(self, session: Session) -> Level:
        """The level at which the result is noised again."""
        levels, scheduler = levels_of(session), session.alone.scheduler
        if self.time is not None or levels[0].flow or not hasattr(scheduler, "alphas_cumprod"):
            return levels[step_at(session, self.time or 0.0)]
        power = float(scheduler.alphas_cumprod[-1])
        return Level(power**0.5, (1 - power) ** 0.5)
