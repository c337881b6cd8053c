"""The tests that run on the second device, in the process that `test_elsewhere` starts for them."""

from typing import Any

import numpy as np
import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa, BansaDropout, Entropy, Previews
from seedbed.attention import bansa_expected, bansa_masked, energy, row_statistics
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise, predict
from seedbed.refinement import DenoiseInvert, FreeInit, GuidanceGap, Injection
from seedbed.selection.pools import draw_pool
from tests.breadth.runs import first, traces, weights
from tests.elsewhere.device import Elsewhere, Generator
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT

LEFT = (
    # torch.tensor() of a number makes a real tensor on this device while shapes alone are computed.
    "SkyReels-V2, diffusion forcing",
    "SkyReels-V2, diffusion forcing, image to video",
    "SkyReels-V2, diffusion forcing, video to video",
    # Without torchvision, transformers takes a picture on any device for one on the CPU.
    "Motif-Video, image to video",
)
# Run by default; the others, of the table's other denoisers too, are slow.
SOME = ("Wan 2.2 (two denoisers)",)
# A name that no family has any more would leave its test out.
assert {*LEFT, *SOME} <= {family.name for family in FAMILIES}
QUIET: dict[str, Any] = dict(progress=False)


def test_places_do_not_mix():
    here, there = torch.ones(3), torch.ones(3).to("elsewhere")
    assert there.device.type == "elsewhere" and isinstance(there + 1, Elsewhere)
    assert torch.equal((there + there).cpu(), here + here)
    with pytest.raises(RuntimeError, match=r"same device|elsewhere"):
        here + there
    with pytest.raises(RuntimeError, match="elsewhere"):
        torch.nn.functional.linear(torch.ones(2, 3, device="elsewhere"), torch.ones(4, 3))


@pytest.mark.parametrize("mask", [False, True])
def test_rows_are_scored_where_they_lie(mask, monkeypatch):
    monkeypatch.setattr(torch, "Generator", Generator)
    query, key = torch.randn(2, 2, 4, 40, 16).mul(2)
    options = {"rows": torch.tensor([3, 7, 20])}
    if mask:
        options["mask"] = torch.rand(2, 1, 1, 40) < 0.7
    moved = {name: value.to("elsewhere") for name, value in options.items()}
    there = query.to("elsewhere"), key[:, :2].to("elsewhere")
    here = query, key[:, :2]
    for function in (bansa_expected, bansa_masked):
        for place in ("probabilities", "logits"):
            found = function(*there, place=place, **moved)
            assert found.device.type == "elsewhere"
            torch.testing.assert_close(found.cpu(), function(*here, place=place, **options))
    found, expected = row_statistics(*there, **moved), row_statistics(*here, **options)
    for name in ("logsumexp", "entropy", "normalised_entropy", "keys"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name))
    torch.testing.assert_close(found.powers[2].cpu(), expected.powers[2])
    torch.testing.assert_close(energy(there[0]).cpu(), energy(query))


@pytest.fixture(
    params=[
        pytest.param(f, id=f.name, marks=() if f.name in SOME else pytest.mark.slow)
        for f in FAMILIES
        if f.name not in LEFT
    ]
)
def family(request):
    return request.param


def test_a_pipeline_elsewhere(family):
    """All that it does on the CPU, with the results of the CPU, and it is as before."""
    options: dict[str, Any] = dict(candidates=3, acquisition=Bansa(depth=None), **QUIET, **family.call)
    here = seedbed.generate(family.built(), family.prompt, **options)
    pipe = family.built().to("elsewhere")
    before = {name: value.cpu() for name, value in weights(pipe).items()}
    made = seedbed.generate(pipe, family.prompt, **options)
    torch.testing.assert_close(made.selection.scores, here.selection.scores, rtol=1e-4, atol=1e-6)
    assert made.selection.order == here.selection.order
    assert np.abs(made.frames.astype(int) - here.frames.astype(int)).max() <= 1
    missing = {name: family.call[name] for name in made.selection.missing}
    assert seedbed.replay(made.record(), pipe, **QUIET, **missing).identical
    race = Bansa(depth=None, race=((1, 1),))
    assert seedbed.select(pipe, family.prompt, **options | {"acquisition": race}).dropped
    if "previews" not in family.unsupported:
        two = {**options, "candidates": 2, "acquisition": Previews(verifier=first, schedule=((1, 1),))}
        shown = seedbed.generate(pipe, family.prompt, **two)
        assert shown.selection.best == 0
    for name, value in weights(pipe).items():
        assert torch.equal(value.cpu(), before[name]), name
        # Cosmos itself sends its safety checker to the CPU.
        assert value.device.type == "elsewhere" or name.startswith("safety_checker."), name
    assert not traces(pipe)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(Entropy(), marks=pytest.mark.slow),
        Bansa(place="logits", rows=20),
        pytest.param(BansaDropout(masks=2), marks=pytest.mark.slow),
    ],
)
def test_every_function_elsewhere(function, monkeypatch):
    monkeypatch.setattr(torch, "Generator", Generator)
    options = dict(candidates=3, acquisition=function, **QUIET, **CALLS["cogvideox"])
    here = seedbed.select(BUILDERS["cogvideox"](), PROMPT, **options)
    there = seedbed.select(BUILDERS["cogvideox"]().to("elsewhere"), PROMPT, **options)
    torch.testing.assert_close(there.scores, here.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["ltx", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_predictions_and_seeds_elsewhere(family):
    here, there = (Session(pipe, PROMPT, **CALLS[family]) for pipe in (BUILDERS[family](), moved(family)))
    assert there.drawn == here.drawn
    noise = draw_pool(there, 1, 7, "torch").noises[0]
    for one, other in zip(predict(here, noise, [0, 1]), predict(there, noise, [0, 1]), strict=True):
        assert other.clean.device.type == other.epsilon.device.type == "elsewhere"
        torch.testing.assert_close(other.clean.cpu(), one.clean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.velocity.cpu(), one.velocity, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoise(there, noise).cpu(), denoise(here, noise), rtol=1e-4, atol=1e-4)
    recipe = NoiseRecipe(7, 0, here.spec.shape)
    for how in (Injection(target="guidance_gap"), GuidanceGap(1), DenoiseInvert(), FreeInit(time=0.5)):
        assert how.evaluations(there) == how.evaluations(here)
        found, wanted = (how.refine(recipe.draw(), session, recipe) for session in (there, here))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def moved(family: str) -> Any:
    return BUILDERS[family]().to("elsewhere")


def test_weights_that_are_offloaded():
    pipe = BUILDERS["cogvideox"]()
    pipe.enable_model_cpu_offload(device="elsewhere")
    options = dict(candidates=3, acquisition=Bansa(depth=None), **QUIET, **CALLS["cogvideox"])
    made = seedbed.generate(pipe, PROMPT, **options)
    assert seedbed.replay(made.record(), pipe, **QUIET).identical
    assert pipe.transformer.device.type == "cpu"
    here = seedbed.select(BUILDERS["cogvideox"](), PROMPT, **options)
    torch.testing.assert_close(made.selection.scores, here.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16], ids=str
)
def test_half_precision_elsewhere(dtype):
    options = dict(candidates=3, acquisition=Bansa(depth=None), **QUIET, **CALLS["cogvideox"])
    pipe = BUILDERS["cogvideox"]().to("elsewhere", dtype)
    made = seedbed.generate(pipe, PROMPT, **options)
    assert made.selection.scores.isfinite().all()
    assert seedbed.replay(made.record(), pipe, **QUIET).identical
