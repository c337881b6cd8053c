"""How a pipeline hands its latents to its autoencoder, turned round: a real video as the pipeline's latents.

Found by running the pipeline to its end with latents of our own in place of what its scheduler gives back,
and looking at what it then decodes.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import NotSupported, SeedbedError, shortened
from seedbed.pipelines.discover import remembered, require_unguided, rows_of
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.evaluation import decoded
from seedbed.pipelines.prediction import handing_back
from seedbed.pipelines.session import Session

# Latents count their elements in digits of a base that their dtype, and that of what is decoded, holds after
# a scale and a shift: float32, or half precision.
_BASE, _HALF_BASE = 4096, 16
_SPAN = 64.0  # by which the scale is measured


class _Handing:
    """Stands in for the `step` of a scheduler, and gives other latents back; a copy of it steps as always."""

    def __init__(self, take: Any, latents: Tensor, pipeline: str) -> None:
        self.take, self.latents, self.pipeline = take, latents, pipeline
        functools.update_wrapper(self, take)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(self.take).bind(*args, **kwargs).arguments
        sample, latents = given["sample"].clone(), self.latents  # some schedulers write into it
        result = self.take(**given)
        if [n for n in sample.shape if n > 1] != [n for n in latents.shape if n > 1]:
            raise NotSupported(
                f"{self.pipeline} steps with samples of shape {tuple(sample.shape)}, not of its latents' "
                f"{tuple(latents.shape)}: no video can be put in their place"
            )
        return handing_back(result, latents.to(sample).reshape(sample.shape).clone())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.take, memo)


class Rehearsal:
    """Runs of a session's pipeline to its end, guidance off, with latents of ours as those of its last step.

    The first evaluation is run, and the ledger counts it under "inversion"; all others are answered with its
    output.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._output: Any = None
        self._pixels: dict[torch.Size, Any] = {}

    def handed(self, latents: Tensor) -> list[Tensor]:
        """What the pipeline gives `vae.decode`, of latents (*spec.shape) that its last step gives back."""
        given: list[Tensor] = []
        self._run(latents, given, really=False)
        return given

    def frames(self, latents: Tensor) -> np.ndarray[Any, Any]:
        """What the pipeline decodes of latents: uint8 (frames, height, width, 3)."""
        return self._run(latents, [], really=True)

    def _run(self, latents: Tensor, given: list[Tensor], really: bool) -> np.ndarray[Any, Any]:
        session, name = self.session, self.session.asked.name

        def decode(own: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
            given.append(z.detach().clone())
            if really or z.shape not in self._pixels:
                self._pixels[z.shape] = own(z, *args, **kwargs)
            return copy.deepcopy(self._pixels[z.shape])  # as the pipeline may write into it

        def forward(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            require_unguided(name, rows_of(module, args, kwargs), 1)
            if self._output is None:
                session.ledger.add("inversion", 1)
                self._output = own(*args, **kwargs)
            return tree_map_only(Tensor, torch.clone, self._output)

        def attempt() -> Any:
            noises = session.as_latents(session.probe(1))
            with session.running(noises, guided=False) as run:
                scheduler: Any = getattr(run.pipe, "scheduler", None)
                vae: Any = getattr(run.pipe, "vae", None)
                if not hasattr(scheduler, "step") or not hasattr(vae, "encode"):
                    raise NotSupported(
                        f"{name} has no scheduler, or no autoencoder that encodes: a video cannot be turned "
                        "into its latents"
                    )
                replace(scheduler, "step", _Handing(scheduler.step, latents, name), run.undo)
                replace(vae, "decode", functools.partial(decode, vae.decode), run.undo)
                run.instead_of_evaluations(forward)
                return run(noises, output_type="np")

        try:
            return decoded(session.arriving(attempt), name)[0]
        except (SeedbedError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # where later steps want another output, as ChronoEdit's do
            why = shortened(error)
            raise NotSupported(f"{name} does not run with one output for all steps: {why}") from error


@dataclass(frozen=True)
class Encoding:
    """`z = factor · latents[order] + offset`, elementwise, with z what the pipeline gives `vae.decode`.

    Attributes:
        order: (elements,) which element of the latents each one of z is.
        factor, offset: (elements,) float64.
        shapes: of z, of each call.
        latents: their shape, without a batch axis.
        pixels: (frames, height, width) of the video that is decoded.
    """

    order: Tensor
    factor: Tensor
    offset: Tensor
    shapes: tuple[torch.Size, ...]
    latents: tuple[int, ...]
    pixels: tuple[int, int, int]

    def handed(self, latents: Tensor) -> Tensor:
        """z of latents, all calls in one flat tensor, float64."""
        return self.factor * latents.detach().cpu().double().flatten()[self.order] + self.offset

    def encode(self, session: Session, frames: np.ndarray[Any, Any]) -> Tensor:
        """The latents of a video, as the pipeline's last step would give them back; the mode, no sample.

        Args:
            frames: uint8 (*pixels, 3).

        Returns:
            (*latents), float32 on the CPU.

        Raises NotSupported where the autoencoder gives another shape than it is given to decode.
        """
        vae = session.pipe.vae
        place = {"device": session.spec.device, "dtype": vae.dtype}
        video = torch.from_numpy(np.ascontiguousarray(frames)).to(**place).permute(0, 3, 1, 2) / 127.5 - 1
        whole = len(self.shapes[0]) == 5  # else its frames are the rows of a batch
        noise = session.as_latents(torch.zeros(1, *self.latents))
        with session.running(noise, guided=False) as run, run.preparation, torch.no_grad():
            found = run.pipe.vae.encode(video.transpose(0, 1)[None] if whole else video)
        spread = getattr(found, "latent_dist", None)
        values = (
            getattr(found, "latent", getattr(found, "latents", None)) if spread is None else spread.mode()
        )
        rows = sum(shape[0] for shape in self.shapes)
        if not isinstance(values, Tensor) or values.shape != (rows, *self.shapes[0][1:]):
            raise NotSupported(
                f"the autoencoder of {session.asked.name} encodes a video of {len(frames)} frames as another "
                f"shape than the {tuple(self.shapes[0])} that it decodes"
            )
        latents = torch.empty(math.prod(self.latents), dtype=torch.float64)
        latents[self.order] = (values.cpu().double().flatten() - self.offset) / self.factor
        return latents.float().reshape(self.latents)


def encoding_of(session: Session) -> Encoding:
    """How a pipeline's latents are encoded; remembered with the pipeline.

    Raises NotSupported where what is decoded are not the latents in another order, scaled and shifted.
    """
    found: Encoding = remembered(session.asked, ("encoding", session.facts.entry), lambda: _find(session))
    return found


@plain_arithmetic()
def _find(session: Session) -> Encoding:
    rehearsal, shapes = Rehearsal(session), list[Tensor]()
    shape, count = session.spec.shape, math.prod(session.spec.shape)

    def handed(values: Tensor) -> Tensor:
        shapes[:] = rehearsal.handed(values.reshape(shape))
        return torch.cat([z.cpu().double().flatten() for z in shapes])

    def refuse(z: Tensor) -> NoReturn:
        raise NotSupported(
            f"{session.asked.name} does not decode its {count} latents in another order, scaled and shifted "
            f"(it decodes {len(z)} values): no video can be turned into its latents"
        )

    pixels = rehearsal.frames(torch.zeros(shape)).shape[:3]
    offset = handed(torch.zeros(count))
    factor = (handed(torch.full((count,), _SPAN)) - offset) / _SPAN
    if len(offset) != count or not factor.all() or len({z.shape[1:] for z in shapes}) != 1:
        refuse(offset)
    eps = max(torch.finfo(dtype).eps for dtype in (session.spec.dtype, *(z.dtype for z in shapes)))
    base, numbers = _BASE if eps < 1e-6 else _HALF_BASE, torch.arange(count)
    order, place = torch.zeros(count, dtype=torch.long), 1
    while place < count:
        digits = handed((numbers // place % base).float())
        order += ((digits - offset) / factor).round().long() * place
        place *= base
    encoding = Encoding(order, factor, offset, tuple(z.shape for z in shapes), shape, pixels)
    values = torch.randn(count, generator=torch.Generator().manual_seed(0))
    if not torch.equal(order.sort().values, numbers):
        refuse(offset)
    seen = handed(values)
    if (encoding.handed(values) - seen).abs().max() > eps**0.5 * seen.abs().max():
        refuse(offset)
    return encoding
