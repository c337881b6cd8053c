"""Running a pipeline until it is about to call its denoiser, to see what it does until then."""

import functools
import textwrap
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, SeedbedError
from seedbed.probe.call import Call
from seedbed.probe.drawing import replace_draws
from seedbed.probe.entry import replace_added_noise


class Enough(Exception):
    """Ends a run of the pipeline once it has shown what was asked."""


@dataclass
class Meeting:
    """What a pipeline did, guidance off, until it was about to call its denoiser.

    Attributes:
        prepared: what `prepare_latents` returned, each time.
        drawn: the noises that it drew meanwhile.
        added: the noises that were added to what the pipeline was given.
        denoiser_name: None where it ended without calling one.
        args, kwargs: of that call.
        steps: of the schedule.
        guided: whether the pipeline says that it would guide all the same.
    """

    prepared: list[Any] = field(default_factory=list)
    drawn: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    denoiser_name: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int = 1
    guided: bool = False


def meet(call: Call, noises: Tensor | None = None, sign: int = 1) -> Meeting:
    """Meets the pipeline with these candidates, or with one whose noise it draws itself.

    Args:
        sign: what it draws is multiplied by this.

    Raises:
        BadInput: the pipeline fails.
    """
    meeting = Meeting()

    def begin(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meeting.denoiser_name, meeting.args, meeting.kwargs = name, args, kwargs
        meeting.steps = _steps(call, twin)
        meeting.guided = bool(getattr(twin, "do_classifier_free_guidance", False))
        raise Enough

    def add(noise: Tensor) -> Tensor:
        meeting.added.append(noise)
        return noise

    def draw(noise: Tensor) -> Tensor:
        meeting.drawn.append(sign * noise)
        return meeting.drawn[-1]

    count = 1 if noises is None else len(noises)
    with call.running(count, guided=False) as (twin, run), ExitStack() as hooks:
        vars(twin).pop("_num_timesteps", None)  # of an earlier call
        if noises is None:
            replace_added_noise(twin, add)
            replace_draws(twin, draw)
            prepare = twin.prepare_latents

            def prepare_latents(*args: Any, **kwargs: Any) -> Any:
                meeting.prepared.append(prepare(*args, **kwargs))
                return meeting.prepared[-1]

            vars(twin)["prepare_latents"] = prepare_latents
        for name, module in call.denoisers.items():
            hook = module.register_forward_pre_hook(functools.partial(begin, name), with_kwargs=True)
            hooks.callback(hook.remove)
        try:
            run(latents=noises, output_type="latent")
        except Enough:
            pass
        except (SeedbedError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Torch's own can fill a screen; the whole of it stays in the cause.
            message = textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
            raise BadInput(f"{call.name} failed before its first evaluation: {message}") from error
    return meeting


def _steps(call: Call, twin: Any) -> int:
    """Of the pipeline's own loop, which may leave out the first of its schedule."""
    timesteps = getattr(getattr(twin, "scheduler", None), "timesteps", None)
    steps = getattr(twin, "_num_timesteps", None) or (None if timesteps is None else len(timesteps))
    return int(steps or call.arguments.get("num_inference_steps") or 1)
