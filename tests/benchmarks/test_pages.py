"""The tables of pages are those of the committed results, and what measured them runs on a tiny pipeline."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.pipelines import CALLS, PROMPT, cogvideox

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import overhead
import scaling
import selection_memory
from freeinit import freeinit, low_pass, mix
from pages import PARTS, ROOT, page
from subjects import Subject


@pytest.fixture
def subject():
    call = {"prompt": PROMPT, **CALLS["cogvideox"], "num_inference_steps": 3}
    return partial(Subject, "tiny", cogvideox(), call, 2)


@pytest.mark.parametrize("name", PARTS)
def test_the_tables_of_a_page_are_made_from_the_committed_results(name):
    assert page(name) == (ROOT / "docs" / name).read_text(), "out of date: run benchmarks/pages.py"


@pytest.mark.parametrize("whole", [True, False])
def test_overheads_are_measured_against_a_generation_of_the_same_round(subject, whole, monkeypatch):
    # A clock that ticks once for every row of the denoiser: then seconds are what was run.
    tiny = subject(whole=whole)
    rows = [0]

    def count(module, args, kwargs):
        rows[0] += len(kwargs["hidden_states"])

    tiny.pipe.transformer.transformer_blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr("running.process_time", lambda: float(rows[0]))
    found = overhead.measure(tiny, 2)["methods"]
    steps = 3 if whole else overhead.STEPS
    plain = found["plain"]["seconds"]["median"]
    assert plain == 2 * steps
    assert found["FreeInit"]["seconds"]["median"] == 3 * plain
    assert found["best of 10"]["overhead"]["median"] == 9
    # Ten noises, one forward of ten rows; how deep it goes, the ledger says: to the first of three layers, or
    # the second.
    assert found["ours"]["seconds"]["median"] == plain + 10
    assert found["ours"]["evaluations"]["median"] == pytest.approx(100 + 10 / 3)
    assert found["raced"]["evaluations"]["median"] == pytest.approx(100 + (10 + 2) / 3)
    assert found["published"]["evaluations"]["median"] == pytest.approx(100 + 10 * 2 / 3)


def test_a_gpu_is_asked_for_only_where_there_is_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given, hint in (
        (["--device", "cuda", "--native"], "no CUDA device"),
        (["--native"], "--device cuda"),
    ):
        with pytest.raises(SystemExit):
            overhead.parsed(given)
        assert hint in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert overhead.parsed(["--device", "cuda", "--native"]).native


@pytest.mark.gpu
def test_the_native_variant_measures_a_gpu(subject):
    tiny = subject(whole=False)
    tiny.pipe.to("cuda")
    assert overhead.measure(tiny, 1, "cuda")["methods"]["ours"]["overhead"]["median"] > 0
    assert overhead.gpu_memory(tiny)["ratio"] > 0


def test_the_peak_holds_the_weights_once(subject):
    tiny = subject(whole=False)
    modules = (tiny.pipe.transformer, tiny.pipe.vae, tiny.pipe.text_encoder)
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    peak = selection_memory.measure(tiny, selecting=False, following=True)
    assert weights < peak < 2 * weights + 10_000_000
    assert selection_memory.measure(tiny, selecting=True, following=False) > 10_000_000


def test_freeinit_mixes_what_it_should():
    generator = torch.Generator().manual_seed(0)
    low, high = torch.randn(2, 1, 6, 2, 8, 8, generator=generator)
    torch.testing.assert_close(mix(low, low), low)
    mixed = mix(low, high)
    torch.testing.assert_close(mixed.mean((1, 3, 4)), low.mean((1, 3, 4)))
    checkerboard = (-1.0) ** torch.arange(8)
    highest = [(z * checkerboard * checkerboard[:, None]).mean((1, 3, 4)) for z in (mixed, high)]
    torch.testing.assert_close(*highest, atol=1e-3, rtol=0)
    assert low_pass(6, 8, 8, torch.device("cpu")).max() == 1

    starts = []

    def generate(start):
        starts.append(start)
        return start

    scheduler = cogvideox().scheduler
    freeinit(generate, scheduler, low, 3)
    assert len(starts) == 3 and starts[0] is low and not torch.equal(starts[1], starts[2])


def test_slopes_are_those_of_the_powers():
    times = {size: 3e-4 * size**2 for size in (256, 1024, 4096)} | {64: 100.0}
    assert scaling.slope(times, 256) == pytest.approx(2)
