"""FreeInit: the low frequencies of a finished video, noised again, with the high ones of fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seedbed.errors import BadInput, finite, whole
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.noise.filters import Shape, low_pass, mix_frequencies
from seedbed.pipelines.prediction import Level
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise, guided_evaluations, levels_of
from seedbed.refinement.base import Refiner
from seedbed.refinement.guidance_gap import step_at


@dataclass(frozen=True)
class FreeInit(Refiner):
    """The noise for another round of FreeInit (arXiv 2312.07537), on every pipeline.

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
        BadInput: an option out of its range; later, noise that the pipeline packs, or adds to something else.
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
        object.__setattr__(self, "rounds", whole("freeinit's rounds", self.rounds, 0))
        if self.time is not None:
            object.__setattr__(self, "time", finite("freeinit's time", self.time, 0, 1))
        if not isinstance(self.keep_variance, bool):
            raise BadInput(f"keep_variance must be true or false, not {self.keep_variance!r:.40}")
        self._filter((1, 1, 1))

    def evaluations(self, session: Session) -> float:
        """See `Refiner.evaluations`."""
        return float(self.rounds and self.rounds * sum(guided_evaluations(session)))

    def caution(self, session: Session) -> str:
        """See `Refiner.caution`."""
        if self._level(session).has_signal:
            return ""
        return (
            "freeinit noises the video again where nothing is left of it, so that its low frequencies are "
            "the first noise's: give a later time, such as time=0.1"
        )

    def refine(self, noise: Tensor, session: Session | None, recipe: NoiseRecipe | GivenNoise) -> Tensor:
        """See `Refiner.refine`."""
        assert session is not None
        axes, level = _axes(session), self._level(session)
        alpha, sigma = level.alpha * level.scale, level.sigma * level.scale  # of unit noise
        last = tuple(range(-len(axes), 0))
        passing = self._filter(tuple(noise.shape[axis] for axis in axes))
        first = noise.movedim(axes, last)
        for number in range(1, self.rounds + 1):
            clean = denoise(session, noise).float().cpu().movedim(axes, last)
            fresh = recipe.beside(number).movedim(axes, last)
            low = alpha * clean + sigma * first
            mixed = mix_frequencies(low, fresh, passing, keep_variance=self.keep_variance)
            noise = mixed.movedim(last, axes)
        return noise

    def _filter(self, lengths: tuple[int, ...]) -> Tensor:
        return low_pass(lengths, self.shape, stop=self.stop, frame_stop=self.frame_stop, order=self.order)

    def _level(self, session: Session) -> Level:
        """The level at which the result is noised again."""
        levels, scheduler = levels_of(session), session.alone.scheduler
        if self.time is not None or levels[0].flow or not hasattr(scheduler, "alphas_cumprod"):
            return levels[step_at(session, self.time or 0.0)]
        power = float(scheduler.alphas_cumprod[-1])
        return Level(len(scheduler.alphas_cumprod) - 1, power**0.5, (1 - power) ** 0.5)


def _axes(session: Session) -> tuple[int, ...]:
    """The axes of the noise, without a batch, that hold frames, height and width.

    Raises BadInput where they cannot be told, or noise is no initial noise alone.
    """
    spec = session.spec
    if session.facts.entry == "added":
        raise BadInput(f"{session.asked.name} adds its noise to what it is given, so no freeinit")
    names = spec.layout.split()[1:]
    axes = tuple(axis for axis, name in enumerate(names) if name in ("f", "h", "w"))
    if len(axes) < 2:
        raise BadInput(
            f"freeinit filters frames and positions, and the latents of {session.asked.name} ({spec.layout}) "
            "have no such axes"
        )
    return axes
