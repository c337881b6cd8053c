"""Perturbed guidance: away from what the model predicts when some of its layers are made worse."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from seedbed.adaptation.adaptation import Adaptation, rows_alone, run_alone
from seedbed.adaptation.layout import Layout
from seedbed.attention.interventions import Change, blur, identity, uniform
from seedbed.attention.kinds import named_arguments
from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, NotSupported, finite, number, one_of, shown
from seedbed.pipelines.compiled import refuse_caches
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.rollout import prompt_parts, result_of, tensors_of
from seedbed.pipelines.session import Session
from seedbed.pipelines.steps import Position

Perturb = Literal["identity", "uniform", "blur", "skip"]


@dataclass(frozen=True, kw_only=True)
class Guide(Adaptation):
    """`+ s (c − p)`: what the prompt's prediction c has beyond p, that of the same model perturbed.

    One more evaluation of the rows with the prompt in every step of the window. The term is added to the
    prediction with the prompt and to the one without, so that guidance by the prompt stays what it is:
    `u + g (c − u) + s (c − p)`.

    Args:
        perturb: "identity", every token attends to itself (PAG, arXiv 2403.17377); "blur", queries blurred
            (SEG, arXiv 2408.00760); "uniform"; "skip", the block of the layer left out (SLG; STG, arXiv
            2411.18664). Perturbed with the prompt, as diffusers does; STG's own code for Wan perturbs the
            negative prompt.
        scale: s; at 0 nothing is run.
        sigma: of the blur, in tokens; infinite, the mean of each frame's queries.
        rescale: from 0 to 1, how far `c + s (c − p)` is brought back to the standard deviation of c.

    Raises:
        BadInput: see `Adaptation`.
        NotSupported: later, rows of the prompt that cannot be told, a prediction without the prompt that
            comes before the one with it, or caches between steps.
    """

    name = "guide"

    layers: str | list[str] = "entropy:low"
    perturb: Perturb = "identity"
    scale: float = 1.0
    sigma: float = math.inf
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("guide's perturb", self.perturb, get_args(Perturb))
        object.__setattr__(self, "scale", finite("guide's scale", self.scale, -100, 100))
        object.__setattr__(self, "rescale", finite("guide's rescale", self.rescale, 0, 1))
        sigma = number(math.inf if str(self.sigma) == "inf" else self.sigma)
        if sigma is None or not sigma > 0:
            raise BadInput(f"guide's sigma must be a number above 0, or inf, not {shown(self.sigma)}")
        object.__setattr__(self, "sigma", sigma)

    @property
    def evaluates(self) -> bool:
        """See `Adaptation.evaluates`."""
        return bool(self.scale)

    def fitted(self, session: Session) -> Guide:
        """See `Adaptation.fitted`."""
        refuse_caches(session.asked.denoisers)
        _ = session.alone  # by a run of its own, which must not come during another
        return super().fitted(session)

    def install(self, run: Run, count: int, guided: bool, session: Session, layout: Layout) -> None:
        """See `Adaptation.install`."""
        if not self.scale or not guided:
            return
        position = Position(run.pipe, run.undo)
        for module in dict.fromkeys(run.denoisers.values()):
            guided_by = _Guided(self, module, run, count, session, layout, position)
            replace(module, "forward", functools.partial(guided_by, module.forward), run.undo)


@dataclass
class _Guided:
    """A denoiser's forward, with the term added to what it returns.

    Attributes:
        term: the share of the steps that is done, and what is added there.
    """

    guide: Guide
    module: nn.Module
    run: Run
    count: int
    session: Session
    layout: Layout
    position: Position
    term: tuple[float, Tensor] | None = None

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        share = self.position.share
        if not self.guide.start <= share < self.guide.stop:
            return result
        module, count, session = self.module, self.count, self.session
        given = named_arguments(module, args, kwargs)
        rows = rows_of(module, args, kwargs)
        with_prompt, _ = prompt_parts(session, given, rows, count)
        parts = tensors_of(result, rows, module, given)
        if with_prompt is not None:
            own = slice(with_prompt * count, (with_prompt + 1) * count)
            perturbed = self._perturbed(forward, *rows_alone(session, args, kwargs, rows, own))
            session.ledger.add("guidance", count)
            plain = parts[0][own]
            c, p = plain.float(), tensors_of(perturbed, count, module, given)[0].float()
            moved, over = c + self.guide.scale * (c - p), [*range(1, c.ndim)]
            factor = c.std(over, keepdim=True) / moved.std(over, keepdim=True).clamp(min=1e-12)
            rescale = self.guide.rescale
            self.term = share, (moved * (rescale * factor + 1 - rescale) - c).to(plain.dtype)
        elif self.term is None or self.term[0] != share:
            raise NotSupported(
                f"{session.asked.name} evaluates without the prompt before it does with it: no guidance "
                "can be added to both"
            )
        term = self.term[1].repeat(rows // count, *[1] * (parts[0].ndim - 1))
        return result_of((parts[0] + term, *parts[1:]), module, given)

    def _perturbed(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        changes: dict[str, Change] = {
            "identity": identity,
            "uniform": uniform,
            "blur": blur(self.guide.sigma),
        }
        change, names = changes.get(self.guide.perturb), self.guide.layers

        def answer(call: AttentionCall) -> Tensor | None:
            return None if change is None or call.layer not in names else self.layout.changed(call, change)

        with ExitStack() as undo:
            for name in {_block_of(name) for name in names} if change is None else ():
                block = self.module.get_submodule(name)
                undo.callback(block.register_forward_hook(_skipped, with_kwargs=True).remove)
            undo.callback(setattr, self.run, "perturbing", False)
            self.run.perturbing = True
            return run_alone(self.module, answer, forward, args, kwargs)


def _block_of(layer: str) -> str:
    """The name of the block that a layer is part of: up to the last number in its own name."""
    parts = layer.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=None)
    if last is None:
        raise NotSupported(f"{layer} is in no block of a list: which module to skip cannot be told")
    return ".".join(parts[: last + 1])


def _skipped(block: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    """What a block was given in place of what it returned: of the tensors of that shape the nearest one.

    Blocks add to what they are given; those of SD 3 return text before video, those of CogVideoX after it.
    """
    given = named_arguments(block, args, kwargs)
    tensors = [value for value in given.values() if isinstance(value, Tensor)]

    def before(after: Any) -> Any:
        if not isinstance(after, Tensor):
            return after
        like = [tensor for tensor in tensors if tensor.shape == after.shape]
        if not like:
            name = type(block).__name__
            raise NotSupported(f"{name} returns another shape than it is given: it cannot be skipped")
        return min(like, key=lambda tensor: float((tensor - after).abs().mean()))

    return before(output) if isinstance(output, Tensor) else type(output)(map(before, output))
