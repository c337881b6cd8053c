"""What a pipeline shows before its first evaluation: the noise it prepares, its denoiser and layers."""

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.attention.kinds import main_tensor, named_arguments, parameter_names
from seedbed.attention.tap import AttentionCall, Handler, Inputs, Tap
from seedbed.errors import BadInput, NotSupported
from seedbed.probe.call import Call, is_picture
from seedbed.probe.compiled import eagerly
from seedbed.probe.entry import Entry
from seedbed.probe.layouts import NoiseSpec, latent_channels, spec_of
from seedbed.probe.meeting import Meeting, meet
from seedbed.probe.memo import remembered
from seedbed.probe.shrinking import Recorder


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

    From then on the call knows where noises enter, and how guidance is turned off.

    Raises:
        BadInput: the pipeline refuses its arguments.
        NotSupported: it does not prepare latents and then call its denoiser, or takes no other noise than
            its own.
    """
    met = meet(call)
    if met.guided and call.off.get("guidance_scale") == 1:
        # Some pipelines count from 0.
        call.off["guidance_scale"] = 0.0
        again = meet(call)
        if again.guided:
            call.off["guidance_scale"] = 1.0
        else:
            met = again
    several = bool(met.prepared) and isinstance(met.prepared[0], tuple)
    noise = met.prepared[0][0] if several else next(iter(met.prepared), None)
    if not isinstance(noise, Tensor) or met.denoiser_name is None:
        raise NotSupported(
            f"{call.name} does not prepare latents and then call its {' or '.join(call.denoisers)}"
        )
    if len(met.added) > 1 or not (met.added or met.drawn or call.takes_latents):
        why = "adds noise more than once to what it is given" if met.added else "takes no latents"
        raise NotSupported(f"{call.name} {why}, so its initial noise cannot be chosen")
    if not met.added and not met.drawn and _has_pictures(call):
        raise NotSupported(
            f"{call.name} adds no noise to what it is given, so its initial noise cannot be chosen: give the "
            "noise to the call that made it"
        )
    call.entry = Entry(added=bool(met.added), several=several)
    if not met.added and met.drawn and (not call.takes_latents or _is_no_mere_noise(call, met, noise)):
        call.entry = Entry(drawn=True)
        noise = max(met.drawn, key=Tensor.numel)
        if sum(drawn.shape == noise.shape for drawn in met.drawn) > 1:
            raise NotSupported(
                f"{call.name} draws several noises of shape {tuple(noise.shape)}, and which is denoised "
                "cannot be told, so its initial noise cannot be chosen"
            )
    channels = latent_channels([*call.denoisers.values(), getattr(call.pipe, "vae", None)])
    if met.added:
        (noise,) = met.added
        # Of one candidate: some pipelines fold its frames into the batch.
        noise = noise if len(noise) == 1 else noise[None]
    spec = spec_of(call.name, noise, channels)
    return Contact(spec, met.denoiser_name, met.args, met.kwargs, met.steps)


def _has_pictures(call: Call) -> bool:
    """Whether it is called with an image or a video; tensors that stand for a prompt are none."""
    return any(
        is_picture(value)
        for name, value in call.arguments.items()
        if "prompt" not in name and "embeds" not in name
    )


def _is_no_mere_noise(call: Call, met: Meeting, latents: Tensor) -> bool:
    """Whether a pipeline would prepare other latents than noise given as `latents`, as it shows when asked.

    It draws the opposite noise, which gives the opposite latents unless something else is in them. And it may
    not even look at what it is given, or fail, where it prepares other things too or makes videos in pieces.
    """
    empty = bool((latents == 0).double().mean() > 0.001)
    if _has_pictures(call) or empty or call.entry.several:
        (opposite, *_) = meet(call, sign=-1).prepared
        opposite = opposite[0] if isinstance(opposite, tuple) else opposite
        if empty or not torch.allclose(opposite, -latents, rtol=1e-3, atol=1e-5):
            return True
    denoiser = call.denoisers[met.denoiser_name or ""]
    names = parameter_names(type(denoiser))

    def ignored() -> bool:
        try:
            given = meet(call, -latents)
        except BadInput:
            return True
        own, other = (main_tensor(named_arguments(names, m.args, m.kwargs)) for m in (met, given))
        return own is not None and other is not None and torch.equal(own, other)

    # An argument that never reaches the denoiser may decide it, a mode for instance.
    asked = {
        name: value if isinstance(value, int | float | str) else type(value)
        for name, value in sorted(call.arguments.items())
        if "prompt" not in name
    }
    return remembered(ignored, denoiser, (call.name, asked, met.args), met.kwargs, latents.device)


def layers_without_data(denoiser: nn.Module, contact: Contact) -> tuple[tuple[LayerInfo, ...], Recorder]:
    """The attention layers that a denoiser's first forward runs, from tensors that have shapes alone.

    With them, how it hands on the batch. Raises whatever the model raises: it may do in its forward what
    tensors without data cannot.
    """
    args, kwargs, device = contact.args, contact.kwargs, contact.spec.device

    def layers() -> tuple[tuple[LayerInfo, ...], Recorder]:
        seen: list[LayerInfo] = []
        recorder = Recorder()

        def watch(call: AttentionCall) -> None:
            seen.append(LayerInfo(call.layer, call.kind, call.block))
            recorder.attention(call)

        run_without_data(denoiser, args, kwargs, device, watch, recorder.inputs)
        return tuple(seen), recorder

    return remembered(layers, denoiser, args, kwargs, device)


def run_without_data(
    denoiser: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    device: torch.device,
    handler: Handler,
    inputs: Inputs | None = None,
) -> None:
    """A denoiser's forward, tapped, on tensors that have shapes alone.

    Offloaded weights count as being on `device`. Raises whatever the model raises.
    """
    # Loading this takes longer than a small model's forward: a probe that never asks should not pay.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_map_only

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    weights = (*denoiser.parameters(), *denoiser.buffers())
    with mode:
        empty = {id(w): torch.empty(w.shape, dtype=w.dtype, device=device) for w in weights}
    # A copy, as models that cache tensors in their forward would keep empty ones. Its weights take no memory.
    memory: dict[int, Any] = {key: nn.Parameter(w, requires_grad=False) for key, w in empty.items()}
    # Sequential offloading keeps the weights in its hooks: shared, as a copy would double the memory.
    hooks = [vars(module).get("_hf_hook") for module in denoiser.modules()]
    memory |= {id(hook): hook for hook in hooks if hook is not None}
    with eagerly(denoiser):
        twin = copy.deepcopy(denoiser, memory)
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook"):
            # Offloading wraps the instance's forward to move weights, of which there are none.
            vars(module).pop("forward", None)
    with torch.no_grad(), _unlogged(FakeTensorMode.__module__), mode:
        args, kwargs = tree_map_only(Tensor, mode.from_tensor, (args, kwargs))
        with Tap(twin, handler, inputs):
            twin(*args, **kwargs)


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Keeps a logger silent in this thread: torch would log pages of what is raised, and here is expected."""
    logger, thread = logging.getLogger(name), threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(elsewhere)
