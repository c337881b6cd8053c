"""Quantised weights are scored as they compute, and are bit by bit what they were afterwards."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

import seedbed
from seedbed.acquisition import Bansa
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT

QUIET = {"candidates": 3, "progress": False, "acquisition": Bansa(depth=None)}


def denoiser_name(pipe):
    return "unet" if hasattr(pipe, "unet") else "transformer"


def select_and_replay(pipe, family):
    """A selection; also checks what holds for every pipeline."""
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS[family])
    choice = made.selection
    assert choice.scores.isfinite().all() and choice.totals.std() > 0
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    # Layers found without data, or by one evaluation that is counted.
    entries = dict(choice.ledger.entries)
    assert entries.pop("layers", 1.0) == 1.0
    assert entries.keys() == {"scoring", "generation"} and entries["scoring"] == pytest.approx(3)
    return choice


@pytest.mark.parametrize("family", ["cogvideox", slow("wan"), slow("animatediff"), slow("sdxl")])
def test_layerwise_casting(family, pipe_of):
    pipe = BUILDERS[family]()
    denoiser = getattr(pipe, denoiser_name(pipe))
    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    before = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    assert torch.float8_e4m3fn in {weight.dtype for weight in before.values()}
    choice = select_and_replay(pipe, family)
    single = seedbed.select(pipe, PROMPT, batch_size=1, **QUIET, **CALLS[family])
    torch.testing.assert_close(single.scores, choice.scores, rtol=1e-4, atol=1e-7)
    seedbed.select(pipe, PROMPT, **QUIET | {"acquisition": Bansa(depth=2)}, **CALLS[family])
    after = denoiser.state_dict()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype and torch.equal(weight.float(), after[name].float()), name
    plain = seedbed.select(pipe_of(family), PROMPT, **QUIET, **CALLS[family])
    assert choice.layers == plain.layers
    torch.testing.assert_close(choice.scores, plain.scores, rtol=0.3, atol=1e-3)


@pytest.mark.parametrize("family", ["cogvideox", "sdxl"])
def test_dynamic_int8(family, pipe_of):
    pipe = BUILDERS[family]()
    name = denoiser_name(pipe)
    setattr(pipe, name, quantize_dynamic(getattr(pipe, name), {nn.Linear}, dtype=torch.qint8))
    choice = select_and_replay(pipe, family)
    plain = seedbed.select(pipe_of(family), PROMPT, **QUIET, **CALLS[family])
    assert choice.layers == plain.layers
    torch.testing.assert_close(choice.scores, plain.scores, rtol=0.3, atol=1e-3)


@pytest.mark.parametrize("family", ["wan", slow("animatediff")])
def test_dynamic_int8_that_the_pipeline_itself_cannot_run(family):
    pipe = BUILDERS[family]()
    name = denoiser_name(pipe)
    setattr(pipe, name, quantize_dynamic(getattr(pipe, name), {nn.Linear}, dtype=torch.qint8))
    with pytest.raises((StopIteration, TypeError)):
        pipe(PROMPT, output_type="latent", **CALLS[family])


def test_dynamic_int8_of_the_blocks_alone():
    pipe = BUILDERS["wan"]()
    pipe.transformer.blocks = quantize_dynamic(pipe.transformer.blocks, {nn.Linear}, dtype=torch.qint8)
    select_and_replay(pipe, "wan")


def test_dynamic_int8_rounds_by_batch():
    """It takes one scale for the whole batch, so that scores know who else was in it, unless alone."""
    pipe = BUILDERS["cogvideox"]()
    pipe.transformer = quantize_dynamic(pipe.transformer, {nn.Linear}, dtype=torch.qint8)
    options = {**QUIET, **CALLS["cogvideox"]}
    together = seedbed.select(pipe, PROMPT, **options)
    alone = seedbed.select(pipe, PROMPT, batch_size=1, **options)
    assert not torch.equal(together.scores, alone.scores)
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-3, atol=0)
    pool = seedbed.select(pipe, PROMPT, batch_size=1, **options | {"candidates": 2})
    assert torch.equal(pool.scores, alone.scores[:2])


def test_int8_weights_of_torchao():
    torchao = pytest.importorskip(
        "torchao.quantization", reason="torchao is no dependency: it comes with kernels of its own"
    )
    pipe = BUILDERS["cogvideox"]()
    torchao.quantize_(pipe.transformer, torchao.Int8WeightOnlyConfig())
    select_and_replay(pipe, "cogvideox")
