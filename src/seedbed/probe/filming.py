"""The caller's own call, guidance included, from one noise to frames."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from torch import Tensor, nn

from seedbed.errors import BadInput
from seedbed.probe.borrowing import Steps
from seedbed.probe.call import Call, rows_of
from seedbed.probe.decoding import decoded
from seedbed.probe.ledger import Ledger
from seedbed.probe.pausing import Watch, answer_after, watch_steps


def film(
    call: Call,
    ledger: Ledger,
    noise: Tensor,
    what: str,
    *,
    preview_after: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """One candidate's frames, (frames, height, width, 3) uint8, from a guided run.

    Args:
        noise: (1, *shape) of the pipeline's latents.
        what: the entry of the ledger, which counts every batch row.
        preview_after: decode what the denoiser predicts after so many steps; 0 runs to the end.
        progress: called with (steps done, all steps).

    Raises:
        BadInput: more steps than the schedule has.
        BadOutput: the decoded frames are not finite.
        NotSupported: the scheduler tells no clean estimate.
    """
    watch: Watch | None = None

    def count(module: nn.Module, args: Any, kwargs: Any) -> None:
        if watch is None or not watch.ended:
            ledger.add(what, rows_of(module, args, kwargs))

    with call.running(1, guided=True) as (twin, run), ExitStack() as hooks:
        if preview_after:
            watch = watch_steps(twin, hooks, preview_after)
            answer_after(watch, call.denoisers.values(), hooks)
        for module in call.denoisers.values():
            hooks.callback(module.register_forward_pre_hook(count, with_kwargs=True).remove)
        if progress is not None:
            vars(twin)["progress_bar"] = functools.partial(Steps, progress)
        output = run(latents=noise, output_type="np")
    if watch is not None and not watch.ended:
        raise BadInput(
            f"steps={preview_after}, but the schedule has only {len(watch.met)}: raise num_inference_steps"
        )
    return decoded(output, call.name)[0]
