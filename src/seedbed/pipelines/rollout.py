"""Candidates denoised side by side, paused after any step, and continued without paying for a step twice."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from seedbed.attention.kinds import Arguments, main_tensor, named_arguments, parameter_names
from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, NotSupported, whole
from seedbed.pipelines.comparing import TEXT
from seedbed.pipelines.compiled import Kept, refuse_caches
from seedbed.pipelines.decoding import Decoder
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.evaluation import decoded
from seedbed.pipelines.session import Session
from seedbed.pipelines.steps import Watch, watch_steps

Parts = tuple[Tensor, ...]
"""The tensors that one call of a denoiser returns, (rows, ...) each: video and audio, for instance."""

StepHandler = Callable[[AttentionCall, list[int], list[int]], Tensor | None]
"""(call, candidates, rows): `rows` are the conditional row of each candidate among the call's batch rows."""

StepOutputs = Callable[[int, list[int], Tensor, Tensor | None, Tensor], None]
"""(step, candidates, conditional, unconditional, clean), a row for each candidate."""

_BOTH = (
    "the rows of the prompt cannot be told from those of the negative prompt, which has the same text: pass "
    "another negative_prompt, or turn guidance off"
)


class Rollout:
    """Candidates of one prompt denoised by the caller's own call, paused after any step, continued with any.

    Every denoiser output is remembered. To go on, the pipeline's own `__call__` runs again from its start,
    and evaluations that are remembered are answered from memory, so that the scheduler, the history of its
    solver and the generators are as in a run without pauses. With `batch_size=1` finished frames are bit by
    bit those of `Session.generate`; larger batches agree up to rounding.

    Args:
        session: the pipeline and the call; its ledger counts each fresh batch row once.
        noises: (candidates, *session.spec.shape).
        batch_size: candidates that share a forward.
        what: the ledger's entry.
        progress: called with the number of candidates that begin a fresh step; also an attribute.
        decoder: decodes previews, never finished videos, in place of the pipeline's own.

    Attributes:
        alive: the candidates still kept, ascending.
        step: steps done, 0 at the start.
        steps: of the whole schedule, in calls of the scheduler.

    Raises:
        BadInput: noises of another shape, or a batch size that is no positive number.
        NotSupported: a denoiser whose caching must see every evaluation.
    """

    def __init__(
        self,
        session: Session,
        noises: Tensor,
        *,
        batch_size: int = 1,
        what: str = "preview",
        progress: Callable[[int], None] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        batch_size = whole("batch_size", batch_size)
        refuse_caches(session.asked.denoisers)
        self.session = session
        self.batch_size = batch_size if batch_size == 1 or session.facts.shares else 1
        self.what = what
        self.noises = session.as_latents(noises)
        self.alive = list(range(len(noises)))
        self.step = 0
        self.steps = session.facts.steps
        self.progress = progress or (lambda count: None)
        self.decoder = decoder
        self._memory: dict[int, list[Parts]] = {candidate: [] for candidate in self.alive}
        self._watched: Counter[nn.Module] = Counter()  # fresh evaluations of each denoiser

    def advance(
        self, to: int, handler: StepHandler | None = None, outputs: StepOutputs | None = None
    ) -> list[np.ndarray]:
        """Denoise the candidates that are alive until `to` steps are done, and decode what they will become.

        Args:
            to: from 1 and from `step` up to `steps`.
            handler: `handler(call, candidates, rows)` receives every `AttentionCall` of every fresh
                evaluation with conditional rows; `call.step` counts steps from 0. What it returns is the
                answer, as for `seedbed.attention.tap.Tap`.
            outputs: `outputs(step, candidates, conditional, unconditional, clean)` receives, after each fresh
                step, the denoiser's raw outputs for the rows with the prompt and for those with another text
                (None without guidance; the first tensor where it returns several), and x0-hat as the
                scheduler met it: of the shape of the noises, or of those frames that it denoises.

        Returns:
            For each alive candidate uint8 (frames, height, width, 3): x0-hat of step number `to`, decoded by
            the pipeline or by `decoder`; the finished video where `to` is `steps`.

        Raises:
            BadInput: steps that are done already or that the schedule does not have; a handler that stops.
            BadOutput: the decoded frames are not finite.
            NotSupported: the scheduler tells no clean estimate, or the denoiser returns what cannot be
                remembered; with handler or outputs, rows that cannot be told.
        """
        if to < max(1, self.step):
            raise BadInput(
                f"a rollout cannot advance to {to} steps: {self.step} are done, and 1 is the least"
            )
        if to > self.steps:
            raise BadInput(f"steps={to}, but the schedule has only {self.steps}: raise num_inference_steps")
        pause = to if to < self.steps else None
        if handler is not None or outputs is not None:
            _ = self.session.alone  # found by a run of its own, which must not come while another is tapped
        frames: list[np.ndarray] = []
        for start in range(0, len(self.alive), self.batch_size):
            batch = self.alive[start : start + self.batch_size]
            run = _Pass(self, batch, handler, outputs).run
            frames += self.session.arriving(functools.partial(run, pause))
        self.step = to
        return frames

    def finish(self) -> list[np.ndarray]:
        """The finished videos of the candidates that are alive; errors as `advance`."""
        return self.advance(self.steps)

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these candidates alone, and forget the others.

        Raises:
            BadInput: none, or one that is not alive.
        """
        for index in indices:
            if index not in self.alive:
                raise BadInput(f"candidate {index} cannot be kept: alive are {self.alive}")
        if not len(indices):
            raise BadInput("every candidate would be dropped: keep at least one")
        self.alive = sorted(set(indices))
        self._memory = {candidate: self._memory[candidate] for candidate in self.alive}

    def memory(self, candidate: int) -> list[Parts]:
        """The remembered outputs of an alive candidate, the tensors (rows, ...) of each denoiser call."""
        return list(self._memory[candidate])

    def spent(self, candidate: int) -> int:
        """Evaluations of an alive candidate so far, remembered ones of another rollout included."""
        return sum(len(parts[0]) for parts in self._memory[candidate])

    def recall(self, candidate: int, outputs: Sequence[Parts], step: int) -> None:
        """Take these for the outputs of the first calls, from `memory` of an equal rollout at `step`."""
        self.step = step
        self._memory[candidate] = [tuple(part.to(self.noises.device) for part in parts) for parts in outputs]


class _Pass:
    """One run of the pipeline from its start for a batch: remembered evaluations first, then fresh ones."""

    def __init__(
        self, rollout: Rollout, batch: list[int], handler: StepHandler | None, outputs: StepOutputs | None
    ) -> None:
        self.rollout, self.batch, self.handler, self.outputs = rollout, batch, handler, outputs
        self.memories = [rollout._memory[candidate] for candidate in batch]
        self.watch: Watch
        self.latest: tuple[int, Any]  # rows, and what the denoiser returned
        self.calls, self.step, self.fresh, self.with_prompt = 0, -1, False, 0
        self.halves: list[Tensor | None] = [None, None]
        self.rows: list[int] = []
        self.taken: Counter[str] = Counter()  # rows of a forward that a layer has attended for
        self.perturbing: Callable[[], bool]

    def run(self, pause: int | None) -> list[np.ndarray]:
        """The batch's frames: of x0-hat after `pause` steps, or finished."""
        session, output = self.rollout.session, None
        noises, looks = self.rollout.noises[self.batch], self.handler is not None
        with session.running(noises, guided=True, eager=looks) as run:
            self.perturbing = lambda: run.perturbing
            if looks:
                run.see_attention(self._see)
            run.instead_of_evaluations(self._forward)
            self.watch = watch_steps(run, pause)
            if pause and self.rollout.decoder is not None:
                self.rollout.decoder.stand_in(pause, lambda: self.watch.ended, run.undo)
            output = run(noises, output_type="np")
            self._end_step()
            if pause and not self.watch.ended:  # as the pipeline was told to end before its schedule does
                raise BadInput(f"steps={pause}, but {session.asked.name} takes only {len(self.watch.met)}")
        if output is None:
            raise BadInput("the handler of a rollout cannot stop it: raise an exception instead")
        return decoded(output, session.asked.name)

    def _forward(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The denoiser's forward: its own where one candidate of the batch needs it, else from memory."""
        rows, count, number = rows_of(module, args, kwargs), len(self.batch), self.calls
        self.watch.under_way = bool(self.watch.met)
        if self.watch.ended:  # but the pipeline goes on, as it looks at no `interrupt`
            if self.latest[0] != rows:
                raise NotSupported(
                    f"no preview: {self.rollout.session.asked.name} cannot be interrupted between steps, and "
                    "calls its denoiser with other rows at later steps"
                )
            return self.latest[1]
        if rows % count:
            raise NotSupported(
                f"{type(module).__name__} is called with {rows} rows for {count} candidates: use batch_size=1"
            )
        given = named_arguments(module, args, kwargs)
        self.calls += 1
        if self.step != len(self.watch.met):
            self._end_step()
            self.step, self.fresh = len(self.watch.met), False
            self.halves, self.watch.clean, self.with_prompt = [None, None], None, 0
        chunks: list[int | None] = [None, None]
        if self.handler is not None or self.outputs is not None:
            chunks = prompt_parts(self.rollout.session, given, rows, count)
            self.with_prompt += chunks[0] is not None
        if all(len(memory) > number for memory in self.memories):
            kept = zip(*(memory[number] for memory in self.memories), strict=True)
            # Candidates fastest, as pipelines stack them; a copy, which they may write into.
            parts = tuple(torch.stack(pieces, 1).flatten(0, 1) for pieces in kept)
            result = result_of(parts, module, given)
        else:
            if not self.fresh:
                self.fresh = True
                self.rollout.progress(count)
            self.rows = [] if chunks[0] is None else list(range(chunks[0] * count, (chunks[0] + 1) * count))
            self.rollout.session.ledger.add(self.rollout.what, rows)
            # What a cache of steps keeps, it counts or replaces from its first evaluations on.
            watched = self.rollout._watched[module]
            before = Kept(module) if watched < 2 else None
            self.rollout._watched[module] += 1
            result = forward(*args, **kwargs)
            if before is not None and (changed := before.changed()):
                raise NotSupported(
                    f"{type(module).__name__} keeps {changed!r} from one evaluation to the next, as caches "
                    "of steps do, and cannot be paused: take the cache off, or choose without previews"
                )
            parts = tensors_of(result, rows, module, given)
            for position, memory in enumerate(self.memories):
                memory[number:] = [tuple(part[position::count].clone() for part in parts)]
        for half, chunk in enumerate(chunks):
            if chunk is not None and self.halves[half] is None:
                self.halves[half] = parts[0][chunk * count : (chunk + 1) * count]
        self.watch.wanted, self.latest = self.outputs is not None and self.fresh, (rows, result)
        return result

    def _see(self, call: AttentionCall) -> Tensor | None:
        if not self.rows or self.handler is None or self.perturbing():
            return None
        call.step = self.step
        if len(call.query) == 1 < call.candidates:
            # MochiPipeline's attention takes the rows one after another, each with as much text as it has.
            if call.index == 0:
                self.taken.clear()
            row = self.taken[call.layer]
            self.taken[call.layer] += 1
            if row not in self.rows:
                return None
            own = [self.batch[self.rows.index(row)]]
            return self.handler(replace_fields(call, candidates=1), own, [0])
        if len(call.query) % call.candidates:
            raise NotSupported(
                f"{call.layer} attends over {len(call.query)} batch rows of {call.candidates}: this model "
                "splits its batch, so which of them have the prompt cannot be told"
            )
        return self.handler(call, self.batch, self.rows)

    def _end_step(self) -> None:
        """Hands over what a fresh step brought, once it is over."""
        if not self.fresh or (self.handler is None and self.outputs is None):
            return
        conditional, unconditional = self.halves
        if conditional is None:
            raise NotSupported(
                f"no forward of step {self.step} has rows of the prompt: what they do cannot be told"
            )
        if self.with_prompt > 1 and unconditional is None:  # guided by one forward after another, as Wan is
            raise NotSupported(_BOTH)
        if self.outputs is not None and self.watch.clean is not None:
            self.outputs(self.step, self.batch, conditional, unconditional, self.watch.clean)


def tensors_of(result: Any, rows: int, module: nn.Module, given: Arguments) -> Parts:
    """The tensors in a denoiser's result.

    Args:
        given: the arguments of the call by name.

    Raises:
        NotSupported: the result holds something else than tensors, or lists of them, with `rows` rows.
    """
    if isinstance(result, Tensor):
        result = (result,)
    values = result.values() if isinstance(result, dict) else result
    parts = tuple(torch.stack(value) if _same_shapes(value) else value for value in values)
    if not all(isinstance(part, Tensor) and len(part) == rows for part in parts) or (
        len(parts) > 1 and given.get("return_dict", True)
    ):
        raise NotSupported(
            f"{type(module).__name__} returns other things than tensors of {rows} rows: it cannot be "
            "remembered; generate without previews"
        )
    return parts


def result_of(parts: Parts, module: nn.Module, given: Arguments) -> Any:
    """The tensors as the denoiser would return them: one that is given its rows as a list returns such."""
    as_list = isinstance(next(iter(given.values())), list)
    values = tuple(list(part.unbind()) if as_list else part for part in parts)
    if not given.get("return_dict", True):
        return values
    has_choice = "return_dict" in parameter_names(type(module))
    return Transformer2DModelOutput(sample=values[0]) if has_choice else values[0]


def _same_shapes(value: Any) -> bool:
    return isinstance(value, list) and len({row.shape for row in value if isinstance(row, Tensor)}) == 1


def prompt_parts(session: Session, given: Arguments, rows: int, count: int) -> list[int | None]:
    """Which part of a forward's rows has the prompt, and which another text; None for no such part.

    Pipelines stack what guidance needs as whole batches of candidates, in one forward or in several. The
    prompt's rows are those whose text is that of the pipeline's unguided call.

    Args:
        given: the denoiser's arguments by name; of `rows` rows, for `count` candidates.

    Raises:
        NotSupported: the text cannot be compared, or parts of it are not whole batches.
    """
    alone = session.alone
    own, text = _text(named_arguments(session.denoiser, alone.args, alone.kwargs)), _text(given)
    if own is None or text is None or len(text) != rows * len(own) or own.shape[-1] != text.shape[-1]:
        raise NotSupported(
            f"the rows of the prompt cannot be told in the {session.facts.denoiser_name}: its text is no "
            "tensor with a row for each of them"
        )
    own = own.to(text.device)[None]
    # A longer text of the other half may have padded the tokens.
    text = text.unflatten(0, (rows, -1))[..., : own.shape[-2], :]
    same = torch.zeros(rows, dtype=torch.bool)
    if text.shape[1:] == own.shape[1:]:
        # A pipeline that works on both halves at once rounds differently from one that has the prompt alone.
        tolerance = torch.finfo(text.dtype).eps ** 0.5 * own.abs().max()
        same = ((text - own).abs() <= tolerance).flatten(1).all(1)
    parts = same.reshape(-1, count).tolist()
    if any(any(part) and not all(part) for part in parts):
        raise NotSupported("the rows of the candidates are not stacked as whole batches: use batch_size=1")
    if len(parts) > 1 and all(map(all, parts)):
        raise NotSupported(_BOTH)
    # Of several with the prompt, beside another text, the first is not perturbed (AnimateDiffPAGPipeline).
    return [
        next((number for number, part in enumerate(parts) if all(part)), None),
        next((number for number, part in enumerate(parts) if not any(part)), None),
    ]


def _text(given: Arguments) -> Tensor | None:
    """The largest of a denoiser's arguments that hold the text, of whatever name."""
    main = main_tensor(given)
    texts = [
        value
        for name, value in given.items()
        if isinstance(value, Tensor)
        and value is not main
        and value.is_floating_point()
        and any(part in name for part in TEXT)
    ]
    return max(texts, key=Tensor.numel, default=None)
