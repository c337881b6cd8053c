"""What a pipeline shows before its first evaluation: the noise it prepares, its denoiser and layers."""

import copy
import functools
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.attention.tap import AttentionCall, Tap
from seedbed.errors import BadInput, NotSupported
from seedbed.probe.call import Call
from seedbed.probe.layouts import NoiseSpec, spec_of
from seedbed.probe.shrinking import Recorder


class Enough(Exception):
    """Ends a run of the pipeline once it has shown what was asked."""


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer, in the terms of `seedbed.attention.tap.AttentionCall`."""

    name: str
    kind: str
    block: int


@dataclass(frozen=True)
class Contact:
    """The noise a pipeline prepares, which denoiser it then calls, with what, and in how many steps."""

    spec: NoiseSpec
    denoiser_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    steps: int


def first_contact(call: Call) -> Contact:
    """Runs the pipeline for one candidate until it is about to call its denoiser; no evaluation is run.

    Raises:
        BadInput: the pipeline refuses its arguments.
        NotSupported: it does not prepare latents and then call a transformer or a unet.
    """
    prepared: list[Tensor] = []
    called: list[tuple[str, tuple[Any, ...], dict[str, Any], int]] = []

    def begin(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called.append((name, args, kwargs, len(twin.scheduler.timesteps)))
        raise Enough

    with call.running(1, guided=False) as (twin, run), ExitStack() as hooks:
        prepare = twin.prepare_latents

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            result = prepare(*args, **kwargs)
            prepared.append(result[0] if isinstance(result, tuple) else result)
            return result

        vars(twin)["prepare_latents"] = prepare_latents
        for name, module in call.denoisers.items():
            hook = module.register_forward_pre_hook(functools.partial(begin, name), with_kwargs=True)
            hooks.callback(hook.remove)
        try:
            run(output_type="latent")
        except Enough:
            pass
        except (ValueError, TypeError) as error:
            message = " ".join(str(error).split())
            raise BadInput(f"{call.name} failed before its first evaluation: {message}") from error
    if not prepared or not called:
        raise NotSupported(f"{call.name} does not prepare latents and then call a transformer or a unet")
    return Contact(spec_of(call.name, prepared[0]), *called[0])


def layers_without_data(denoiser: nn.Module, contact: Contact, recorder: Recorder) -> tuple[LayerInfo, ...]:
    """The attention layers that a denoiser's first forward runs, from tensors that have shapes alone.

    Offloaded weights count as being where the latents are. Raises whatever the model raises: it may do in its
    forward what tensors without data cannot.
    """
    # Loading this takes longer than a small model's forward: a probe that never asks should not pay.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_map_only

    seen: list[LayerInfo] = []

    def watch(call: AttentionCall) -> None:
        seen.append(LayerInfo(call.layer, call.kind, call.block))
        recorder.attention(call)

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    weights = (*denoiser.parameters(), *denoiser.buffers())
    with mode:
        empty = {id(w): torch.empty(w.shape, dtype=w.dtype, device=contact.spec.device) for w in weights}
    # A copy, as models that cache tensors in their forward would keep empty ones. Its weights take no memory.
    twin = copy.deepcopy(denoiser, {key: nn.Parameter(w, requires_grad=False) for key, w in empty.items()})
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook"):
            # Offloading wraps the instance's forward to move weights, of which there are none.
            vars(module).pop("forward", None)
    with torch.no_grad(), mode:
        args, kwargs = tree_map_only(Tensor, mode.from_tensor, (contact.args, contact.kwargs))
        with Tap(twin, watch, recorder.inputs):
            twin(*args, **kwargs)
    return tuple(seen)
