"""What a run of a pipeline brings: its first evaluations, seen and stopped on the way, or its frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedbed.attention.tap import AttentionCall, Handler, Tap
from seedbed.errors import BadInput, BadOutput, NotSupported, shortened
from seedbed.pipelines.discover import Enough, require_unguided, rows_of
from seedbed.pipelines.interception import Run
from seedbed.pipelines.layers import CannotShrink, Shrinking

# What pipelines call the pixels of their output.
_PIXELS = ("frames", "images", "image", "video")


@dataclass(frozen=True)
class Evaluation:
    """What a run of `Session.evaluate` brought.

    Attributes:
        prediction: the denoiser's output of the first evaluation, (candidates, ...) in the model's dtype;
            None where it was stopped within that evaluation.
        stopped: whether it was stopped at `depth`, or by the handler.
    """

    prediction: Tensor | None
    stopped: bool


class Forward:
    """The first evaluations of a denoiser in one unguided run; arguments as of `Session.evaluate`.

    Args:
        pipeline_name, denoiser_name: for messages, and to find the denoiser.
        candidates: how many there are.

    Attributes:
        seen: attention calls of the first evaluation.
        rows: candidates, summed over all attention calls.
        evaluations: how many have begun.
    """

    def __init__(
        self,
        pipeline_name: str,
        denoiser_name: str,
        candidates: int,
        handler: Handler | None,
        depth: int | None,
        steps: int,
    ) -> None:
        self.pipeline_name, self.denoiser_name, self.candidates = pipeline_name, denoiser_name, candidates
        self.handler, self.depth, self.steps = handler, depth, steps
        self.seen = self.rows = self.evaluations = 0
        self._prediction: Tensor | None = None
        self._stopped = False

    def through(self, run: Run, noises: Tensor, shrinking: Shrinking | None) -> None:
        """Run them; raises `Enough` after the last, and otherwise as `Session.evaluate`."""
        name, steps = self.denoiser_name, self.steps
        denoiser = run.denoisers[name]

        def watch(call: AttentionCall) -> Tensor | None:
            if shrinking is not None:
                shrinking.attention(call)
            self.rows += call.candidates
            self.seen += call.step == 0
            answer = self.handler(call) if self.handler is not None else None
            if self.depth is not None and call.step == steps - 1 and call.index + 1 == self.depth:
                require_finite(call.query, f"the queries of {call.layer}")
                call.stop()
            return answer

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            rows = rows_of(module, args, kwargs)
            if module is not denoiser:
                raise NotSupported(
                    f"another denoiser follows the {name} after {tap.steps} evaluations: evaluate at most "
                    f"{tap.steps} steps"
                )
            require_unguided(self.pipeline_name, rows, self.candidates)

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if tap.calls == 0:
                raise NotSupported(
                    f"no softmax attention was seen in the {name}: it is linear, or goes round torch's "
                    "scaled_dot_product_attention (xformers, attention slicing); use the default attention "
                    "processors"
                )
            if tap.steps == 1:
                first = output if isinstance(output, Tensor) else output[0]
                self._prediction = first if isinstance(first, Tensor) else torch.stack(first)
                require_finite(self._prediction, f"the output of the {name}")
            if tap.steps == steps:
                raise Enough

        tap = Tap(denoiser, watch, shrinking.inputs if shrinking is not None else None)
        run.before_evaluations(begin)
        try:
            with tap:
                run.undo.callback(denoiser.register_forward_hook(end).remove)
                run(noises, output_type="latent")
        except Exception as error:
            if not tap.failed(error):
                raise
            kind = type(denoiser).__name__
            if shrinking is not None and shrinking.began:
                # What runs between the blocks may still hold the whole batch.
                raise CannotShrink(f"{kind} mixes its blocks' batch with another") from error
            raise NotSupported(
                f"{kind} cannot be evaluated without guidance (pass batch_size=1 if it can alone): "
                + shortened(error)
            ) from error
        finally:
            self.evaluations, self._stopped = tap.steps, tap.stopped

    def result(self) -> Evaluation:
        """What they brought; BadInput where the schedule had fewer."""
        if not self._stopped and self.evaluations < self.steps:
            raise BadInput(
                f"steps={self.steps}, but the schedule has only {self.evaluations}: raise num_inference_steps"
            )
        return Evaluation(self._prediction, self._stopped)


def decoded(output: Any, pipeline_name: str) -> list[np.ndarray]:
    """The videos of a pipeline's "np" output: (frames, height, width, 3) uint8 each, one frame for images.

    Raises:
        BadOutput: values that are not finite.
        NotSupported: it returns neither frames nor images.
    """
    found = next((getattr(output, name) for name in _PIXELS if hasattr(output, name)), None)
    if found is None:
        raise NotSupported(f"{pipeline_name} returns a {type(output).__name__} without frames or images")
    videos = np.asarray(found, dtype=np.float32)
    if found is getattr(output, "video", None):  # of a pipeline that makes one at a time
        videos = videos[None]
    if not np.isfinite(videos).all():
        raise BadOutput(f"{pipeline_name} decoded values that are not finite: try float32 or bfloat16")
    pixels = (videos.clip(0, 1) * 255).round().astype(np.uint8)
    return list(pixels if pixels.ndim == 5 else pixels[:, None])


def require_finite(values: Tensor, what: str) -> None:
    """Raises BadOutput where values that a model has computed are not finite."""
    if not torch.isfinite(values).all():
        raise BadOutput(f"{what} is not finite: try float32 or bfloat16, and check the weights")
