"""Offloaded pipelines choose what they choose in memory; their hooks are looked at in `tests/sessions`."""

from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks.group_offloading import ModuleGroup

import seedbed
from seedbed.acquisition import Bansa
from seedbed.pipelines.session import Session
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT

CPU = torch.device("cpu")
QUIET = {"candidates": 3, "progress": False, "acquisition": Bansa(depth=None)}


def model(pipe):
    """Offloads whole models one after another."""
    pipe.enable_model_cpu_offload(device="cpu")


def sequential(pipe):
    """Offloads every module by itself; the parameters are without data in between."""
    # As enable_sequential_cpu_offload does, whose "cpu:0" accelerate does not know for a CPU.
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            cpu_offload(component, CPU, offload_buffers=len(component._parameters) > 0)


def in_groups(what, **options):
    """Offloads the models of a pipeline, or one model, in groups; on a CPU nothing moves."""
    # Up to 0.40, diffusers wants an accelerator even where it uses none of its streams.
    with mock.patch.object(torch.accelerator, "current_accelerator", lambda *args: CPU):
        what.enable_group_offload(onload_device=CPU, **options)


def blocks(pipe):
    in_groups(pipe, offload_type="block_level", num_blocks_per_group=1)


def leaves(pipe):
    in_groups(pipe, offload_type="leaf_level")


def one_model(pipe):
    in_groups(pipe.unet if hasattr(pipe, "unet") else pipe.transformer, offload_type="leaf_level")


WAYS = [model, sequential, blocks, leaves, one_model]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["cogvideox", "wan", slow("sdxl")])
def test_offloading_changes_nothing(family, way, pipe_of):
    expected = seedbed.generate(pipe_of(family), PROMPT, **QUIET, **CALLS[family])
    pipe = BUILDERS[family]()
    way(pipe)
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS[family])
    assert torch.equal(made.selection.scores, expected.selection.scores)
    assert made.selection.order == expected.selection.order
    assert np.array_equal(made.frames, expected.frames)
    assert seedbed.replay(expected.record(), pipe, progress=False).identical
    # Group offloading has no copy without weights: its layers are counted by one evaluation.
    entries = dict(made.selection.ledger.entries)
    assert entries.pop("layers", None) == (1.0 if way in (blocks, leaves, one_model) else None)
    assert entries == expected.selection.ledger.entries


@pytest.mark.parametrize("way", WAYS)
def test_an_offloaded_race_stops_within_a_forward(way, pipe_of):
    race = {**QUIET, "acquisition": Bansa(depth=None, race=((1, 2), (2, 1))), **CALLS["wan"]}
    expected = seedbed.select(pipe_of("wan"), PROMPT, **race)
    pipe = BUILDERS["wan"]()
    way(pipe)
    choice = seedbed.select(pipe, PROMPT, **race)
    torch.testing.assert_close(choice.scores, expected.scores, rtol=1e-5, atol=0, equal_nan=True)
    assert choice.order == expected.order
    own = pipe(PROMPT, latents=choice.noise, output_type="latent", **CALLS["wan"]).frames
    plain = pipe_of("wan")(PROMPT, latents=choice.noise, output_type="latent", **CALLS["wan"]).frames
    assert torch.equal(own, plain)


@pytest.mark.parametrize("way", WAYS)
def test_noise_is_for_the_device_that_computes(way):
    """A pipeline says "meta" or "cpu" of itself while its weights wait elsewhere."""
    pipe = BUILDERS["wan"]()
    way(pipe)
    assert (pipe.device.type == "meta") == (way is sequential)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    assert session.asked.device.type == session.spec.device.type == "cpu"


def test_the_weights_of_sequential_offloading_stay_out_of_memory():
    pipe = BUILDERS["wan"]()
    sequential(pipe)
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}
    session = Session(pipe, PROMPT, **CALLS["wan"])
    assert session.layers and "layers" not in session.ledger.entries
    session.evaluate(torch.zeros(2, *session.spec.shape), depth=1)
    # The stopped forward was inside of a block that has parameters of its own.
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}


def test_layers_are_found_without_a_copy_of_offloaded_weights(monkeypatch):
    pipe, copied = BUILDERS["wan"](), []
    sequential(pipe)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    _ = session.spec
    own = torch.Tensor.__deepcopy__
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda w, memo: copied.append(w.shape) or own(w, memo))
    assert len(session.layers) == 4 and not copied


def test_groups_that_came_in_for_a_stopped_forward_go_out_again(monkeypatch):
    pipe = BUILDERS["cogvideox"]()
    blocks(pipe)
    inside = set()
    for name, what in (("onload_", inside.add), ("offload_", inside.discard)):
        own = getattr(ModuleGroup, name)

        def moved(group, own=own, what=what):
            what(group)
            own(group)

        monkeypatch.setattr(ModuleGroup, name, moved)
    session = Session(pipe, PROMPT, **CALLS["cogvideox"])
    seen = []
    session.evaluate(
        torch.zeros(2, *session.spec.shape), lambda call: seen.append(len(inside)) or call.stop()
    )
    assert seen[-1] and not inside


GPU_WAYS = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(),
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(),
    "blocks": lambda pipe: pipe.enable_group_offload(
        onload_device=torch.device("cuda"), offload_type="block_level", num_blocks_per_group=1
    ),
    "leaves": lambda pipe: pipe.enable_group_offload(
        onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True
    ),
}


@pytest.mark.gpu
@pytest.mark.parametrize("way", GPU_WAYS)
@pytest.mark.parametrize("family", ["cogvideox", "wan", "sdxl"])
def test_weights_leave_the_gpu_again(family, way):
    pipe = BUILDERS[family]()
    GPU_WAYS[way](pipe)
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS[family])
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    assert not any(parameter.is_cuda for parameter in denoiser.parameters())
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    resident = BUILDERS[family]().to("cuda")
    plain = seedbed.select(resident, PROMPT, **QUIET, **CALLS[family])
    torch.testing.assert_close(made.selection.scores, plain.scores, rtol=1e-4, atol=1e-6)
