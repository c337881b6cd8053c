"""Everything a candidate's first steps show that might tell a good noise from a bad one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.acquisition.sampling import mean_over_rows
from seedbed.acquisition.scoring import AttentionScore
from seedbed.attention import AttentionCall, row_statistics
from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, BadOutput
from seedbed.pipelines.rollout import Rollout

Array = np.ndarray[Any, Any]
Signals = dict[str, Array]

# Keys that agree over candidates to this share of the largest are the prompt's: noise moves all others more.
_SAME = 1e-3


def measure(
    rollout: Rollout,
    steps: Sequence[int],
    *,
    functions: Mapping[int, Mapping[str, AttentionScore]] | None = None,
    judge: Callable[[list[Array]], Mapping[str, Tensor]] | None = None,
) -> Signals:
    """Denoise through `steps` and read every signal on the way.

    A signal after s steps is read in evaluation number s + 1, from its conditional half: after 0 steps is at
    t = T. Attention signals, one for each layer, means over heads and query rows:

    - `s/entropy/l`, nats, and `s/collision/l`, the collision probability, of the maps of layer l (from 0, in
      the order in which layers run); `s/text_mass/l`, where text and video attend jointly: the share of the
      video rows' attention that goes to the text. Each comes as two independent halves too, from the even
      and the odd rows: `s/entropy.even/l`, `s/entropy.odd/l`.

    Signals of the predictions, without a layer:

    - `s/guidance_gap`: root mean square of conditional minus unconditional output, where guidance is on;
    - `s/x0_std`: the standard deviation of the clean latents that the step predicts;
    - `s/x0_change`: root mean square of their change since the evaluation before, from s = 1;
    - `s/x0_motion`: the same between neighbouring frames, where the layout has a frame axis.

    Args:
        rollout: at its start. Where no two candidates share a forward, which keys are the text's is found by
            two forwards of one candidate up to the first joint layer, under `layers` in the ledger.
        steps: ascending, from 0, below the schedule's.
        functions: for any of the steps, acquisition functions by name, read as `s/name/l`.
        judge: from the decoded predictions of the alive candidates to numbers, (candidates,) each, read as
            `s/judge.key`.

    Returns:
        Name to (candidates,) float64.

    Raises:
        BadInput: steps that do not ascend from 0 or above, or beyond the schedule.
        BadOutput: a signal that is not finite; names it.
    """
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 0:
        raise BadInput(f"steps must ascend and start at 0 or above, not {list(steps)}")
    reader = _Reader(rollout, frozenset(steps), functions or {})
    if min(rollout.batch_size, len(rollout.alive)) == 1:
        reader.text = _text_of_one(rollout)
    # Without a judge nothing of the predictions needs decoding, so there is no reason to pause.
    for step in steps if judge is not None else steps[-1:]:
        frames = rollout.advance(step + 1, handler=reader.attention, outputs=reader.outputs)
        if judge is not None:
            for key, values in judge(frames).items():
                reader.put(f"{step}/judge.{key}", rollout.alive, values)
    for name, column in reader.table.items():
        if not np.isfinite(column).all():
            raise BadOutput(f"the signal {name} is not finite: try float32 or bfloat16")
    return reader.table


class _Reader:
    """Collects the signals of one rollout, batch by batch."""

    def __init__(
        self, rollout: Rollout, steps: frozenset[int], functions: Mapping[int, Mapping[str, AttentionScore]]
    ) -> None:
        self.rollout, self.steps, self.functions = rollout, steps, functions
        self.count = len(rollout.alive)
        self.at = {candidate: place for place, candidate in enumerate(rollout.alive)}
        self.table: Signals = {}
        self.text: Tensor | None = None
        self.before: dict[int, Tensor] = {}

    def put(self, name: str, candidates: Sequence[int], values: Tensor) -> None:
        column = self.table.setdefault(name, np.full(self.count, np.nan))
        column[[self.at[candidate] for candidate in candidates]] = values.double().cpu().numpy()

    def attention(self, call: AttentionCall, candidates: list[int], rows: list[int]) -> None:
        if call.step not in self.steps:
            return
        part = call_of_rows(call, rows)
        attention = (part.query, part.key)
        masking: dict[str, Any] = {"scale": part.scale, "mask": part.mask, "causal": part.causal}
        statistics = row_statistics(*attention, **masking)
        self._means(part, candidates, "entropy", statistics.entropy)
        self._means(part, candidates, "collision", statistics.powers[2])
        text = self._text_keys(part)
        if text is not None:
            if part.mask is not None:
                masking["mask"] = part.mask.expand(*part.query.shape[:3], len(text))[..., text]
            to_text = row_statistics(part.query, part.key[:, :, text], **masking, powers=())
            mass = (to_text.logsumexp - statistics.logsumexp).exp()
            self._means(part, candidates, "text_mass", mass, (~text).nonzero().flatten())
        for name, function in self.functions.get(call.step, {}).items():
            scores = function.observe(part)
            scores = scores.mean(1) if scores.ndim == 2 else scores
            self.put(f"{call.step}/{name}/{call.index}", candidates, scores)

    def _means(
        self,
        call: AttentionCall,
        candidates: list[int],
        name: str,
        values: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """The mean over `rows` (all for None), and over every other of them."""
        rows = torch.arange(values.shape[-1], device=values.device) if rows is None else rows
        for half, some in (("", rows), (".even", rows[::2]), (".odd", rows[1::2])):
            if len(some):
                mean = mean_over_rows(call, values[..., some], some)
                self.put(f"{call.step}/{name}{half}/{call.index}", candidates, mean)

    def _text_keys(self, call: AttentionCall) -> Tensor | None:
        """Which keys of a joint layer are the prompt's: (keys,) bool; None where that cannot be told.

        In the first joint layer the prompt's keys are the same for every candidate, and no other key is.
        """
        if call.kind != "joint" or call.causal:
            return None
        if self.text is None and call.candidates > 1 and call.query.shape[-2] == call.key.shape[-2]:
            self.text = _unmoved(call.key)
        return self.text if self.text is not None and len(self.text) == call.key.shape[-2] else None

    @plain_arithmetic()
    def outputs(
        self,
        step: int,
        candidates: list[int],
        conditional: Tensor,
        unconditional: Tensor | None,
        clean: Tensor,
    ) -> None:
        if step in self.steps:
            if unconditional is not None:
                gap = conditional.float() - unconditional.float()
                self.put(f"{step}/guidance_gap", candidates, _size(gap))
            self.put(f"{step}/x0_std", candidates, clean.float().flatten(1).std(1))
            if step:
                change = clean - torch.stack([self.before[candidate] for candidate in candidates])
                self.put(f"{step}/x0_change", candidates, _size(change))
            axis = self.rollout.session.spec.frame_axis
            if axis is not None and clean.shape[axis + 1] > 1:
                self.put(f"{step}/x0_motion", candidates, _size(clean.diff(dim=axis + 1)))
        self.before.update(zip(candidates, clean, strict=True))


def _unmoved(keys: Tensor) -> Tensor | None:
    """Which keys, (candidates, heads, keys, channels), no noise moves: (keys,) bool; None for all or none."""
    same = (keys - keys[:1]).abs().amax(dim=(0, 1, 3)) <= _SAME * keys.abs().max()
    return same if same.any() and not same.all() else None


def _text_of_one(rollout: Rollout) -> Tensor | None:
    """Which keys of joint layers are the prompt's, from one candidate's noise and its negative."""
    session, keys = rollout.session, list[Tensor]()
    first = next((i for i, layer in enumerate(session.layers) if layer.kind == "joint"), None)
    if first is None:
        return None

    def look(call: AttentionCall) -> None:
        if call.index == first and not call.causal and call.query.shape[-2] == call.key.shape[-2]:
            keys.append(call.key)

    noise = rollout.noises[rollout.alive[:1]]
    for sign in (1, -1):
        session.evaluate(sign * noise, look, depth=first + 1, what="layers")
    return _unmoved(torch.cat(keys)) if keys else None


def call_of_rows(call: AttentionCall, rows: list[int]) -> AttentionCall:
    """The same call as if only these rows of the denoiser's batch were there."""
    batch = call.query.shape[0]
    call.by_candidate(call.query[:, :1, :1, :1])  # refuses a model that splits its batch
    fold = batch // call.candidates
    picked = torch.tensor([row * fold + i for row in rows for i in range(fold)], device=call.query.device)
    mask = call.mask
    if mask is not None and mask.ndim == 4 and len(mask) == batch:
        mask = mask[picked]
    query, key, value = call.query[picked], call.key[picked], call.value[picked]
    return replace(call, query=query, key=key, value=value, mask=mask, candidates=len(rows))


def _size(values: Tensor) -> Tensor:
    """Root mean square of each candidate."""
    return values.float().flatten(1).square().mean(1).sqrt()
