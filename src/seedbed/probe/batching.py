"""Whether several candidates can share a forward, and how pictures go in then."""

from typing import Any

import torch
from torch import Tensor

from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, NotSupported
from seedbed.probe.call import Call, rows_of
from seedbed.probe.contact import Contact, run_without_data
from seedbed.probe.meeting import Meeting, meet
from seedbed.probe.memo import remembered


def takes_batches(call: Call, contact: Contact) -> bool:
    """Whether the pipeline takes several candidates at once; the call then knows how its pictures go in.

    It is met with one candidate and with two of the same noise: first with the pictures as they are, then
    with one for each candidate. It takes batches where its denoiser is given for each of the two what it is
    given for one alone, and can begin with that.

    Raises:
        BadInput: the pipeline refuses a single candidate.
    """
    spec = contact.spec
    noise = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(spec.device, spec.dtype)
    alone = meet(call, noise)
    if _rows(call, alone) != 1:
        return True  # guidance that stays on: that is for whoever evaluates to refuse
    for repeats in (False, True):
        call.repeats = repeats
        try:
            both = meet(call, torch.cat([noise, noise]))
        except (BadInput, NotSupported):
            continue
        if _rows(call, both) == 2 and _twice([alone.args, alone.kwargs], [both.args, both.kwargs]):
            return _begins(call, both, contact) or not _begins(call, alone, contact)
    call.repeats = False
    return False


def _rows(call: Call, met: Meeting) -> int:
    assert met.denoiser_name is not None
    return rows_of(call.denoisers[met.denoiser_name], met.args, met.kwargs)


def _begins(call: Call, met: Meeting, contact: Contact) -> bool:
    """Whether the denoiser gets through its first block with these arguments, on shapes alone."""
    denoiser = call.denoisers[contact.denoiser_name]
    device = contact.spec.device

    def begins() -> bool:
        blocks: list[int] = []

        def watch(attention: AttentionCall) -> None:
            blocks.append(attention.block)
            if attention.block != blocks[0]:
                attention.stop()

        try:
            run_without_data(denoiser, met.args, met.kwargs, device, watch)
        except Exception:
            return False
        return True

    return remembered(begins, denoiser, met.args, met.kwargs, device)


def _twice(one: Any, two: Any) -> bool:
    """Whether `two` holds for both candidates what `one` holds for one; what has no batch stays as it is."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.ndim and one.shape != two.shape:  # rows of one are the same, or one alone
            one = torch.cat([one, one])
        if not (one.is_floating_point() or one.is_complex()):
            one, two = one.double(), two.double()
        # Only what means something else is told from what is rounded otherwise.
        near = 0.02 * one.abs().max() if one.numel() else 0
        return one.shape == two.shape and bool(((one - two).abs() <= near).all())
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_twice(one[name], two[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(two) in (len(one), 2 * len(one)) and all(
            _twice(one[index % len(one)], item) for index, item in enumerate(two)
        )
    return type(one) is type(two)
