"""Every refiner that asks the model, on every kind of denoiser: strength, cost, and what it leaves behind."""

import json
import warnings

import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa, Pool
from seedbed.errors import BadInput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.pipelines import timesteps
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise, guided_evaluations
from seedbed.refinement import REFINERS, DenoiseInvert, FreeInit, GuidanceGap, Injection, refined
from tests.compat.test_offloading import blocks, model, sequential
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT
from tests.pipelines.family import Missing
from tests.sessions.test_restoring import snapshot

NONE = [Injection(0.0), GuidanceGap(rate=0), FreeInit(0)]
SOME = [
    Injection(0.3, target="guidance_gap"),
    Injection(0.3, (0.5,), None, "x0", -1, "spherical"),
    Injection(0.3),
    GuidanceGap(2),
    DenoiseInvert(),
    FreeInit(time=1),
]
pytestmark = pytest.mark.filterwarnings("ignore:refined noise")


def asked(pipe, name, **call):
    session = Session(pipe, PROMPT, **{**CALLS[name], **call})
    recipes = [NoiseRecipe(0, index, tuple(session.spec.shape)) for index in range(2)]
    return session, Pool.of(recipes)


class Broken(Exception):
    pass


def breaks(*_):
    raise Broken


@pytest.mark.parametrize("family", ["cogvideox", *map(slow, ("ltx", "animatediff", "wan", "sdxl"))])
def test_strength_cost_and_what_is_left(family, monkeypatch):
    """Each noise is refined as it is alone, and the pipeline is as before, also after an exception."""
    assert {how.name for how in SOME} | {"erasure", "variation", "walk", "cross-entropy"} == {*REFINERS}
    pipe = BUILDERS[family]()
    pipe(PROMPT, output_type="latent", **CALLS[family])
    before, random = snapshot(pipe), torch.get_rng_state()
    session, pool = asked(pipe, family)
    for how in NONE:
        made, notes = refined(pool, [how], session)
        assert torch.equal(made.noises, pool.noises) and notes == () and how.evaluations(session) == 0
    assert not session.ledger.entries
    for how in SOME:
        cost = how.evaluations(session)
        assert not session.ledger.entries and cost > 0
        made, _ = refined(pool, [how], session)
        assert session.ledger.to_dict() == {"refinement": 2 * cost}
        assert ((made.noises - pool.noises).flatten(1).abs().amax(1) > 1e-4).all()
        alone = how.refine(pool.noises[1].clone(), session, pool.recipes[1])
        assert torch.equal(alone.float(), made.noises[1])
        session.ledger.entries.clear()
    monkeypatch.setattr(timesteps, "require_finite", breaks)
    for how in SOME:
        with pytest.raises(Broken):
            how.refine(pool.noises[0].clone(), session, pool.recipes[0])
    after = snapshot(pipe)
    for part in before:
        assert before[part] == after[part], part
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["cogvideox", slow("wan")])
def test_half_precision_refines_nearly_the_same(name, pipe_of):
    half = BUILDERS[name]().to(torch.bfloat16)
    for how in SOME[2:5:2]:
        found = []
        for pipe in (pipe_of(name), half):
            session, pool = asked(pipe, name)
            found.append(how.refine(pool.noises[0].clone(), session, pool.recipes[0]).float())
        change = (found[0] - pool.noises[0]).norm()
        assert (found[1] - found[0]).norm() < 0.05 * pool.noises[0].norm(), how
        assert 0 < (found[1] - found[0]).norm() < 1.5 * change, how


@pytest.mark.parametrize("name", ["cogvideox", pytest.param("wan", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "way", [model, *(pytest.param(way, marks=pytest.mark.slow) for way in (sequential, blocks))]
)
def test_offloaded_models_refine_the_same(way, name, pipe_of):
    pipe = BUILDERS[name]()
    way(pipe)
    for how in SOME[4:5]:
        made = []
        for each in (pipe_of(name), pipe):
            session, pool = asked(each, name)
            cost = how.evaluations(session)
            made.append(how.refine(pool.noises[0].clone(), session, pool.recipes[0]))
            assert session.ledger.to_dict() == {"refinement": cost}
        assert torch.equal(*made), how
    if way is sequential:
        assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["cogvideox", slow("animatediff")])
def test_all_compose_and_replay_bit_by_bit(name):
    pipe, call = BUILDERS[name](), {**CALLS[name], "progress": False}
    some = [SOME[0], *SOME[4:]] if name == "cogvideox" else SOME
    chain = ["erasure:2", *some, "variation:0.1"]
    options = dict(prior="mixed:1", refine=chain, candidates=2, acquisition=Bansa(), **call)
    made = seedbed.generate(pipe, PROMPT, **options)
    replayed = seedbed.replay(json.loads(json.dumps(made.record())), pipe, progress=False)
    assert replayed.identical and replayed.changes == ()
    session = Session(pipe, PROMPT, **CALLS[name])
    spent = made.selection.ledger.entries["refinement"]
    assert spent == 2 * sum(how.evaluations(session) for how in some)


def test_what_cannot_be_used_is_refused_before_anything_runs(pipe_of):
    (added,) = (each for each in FAMILIES if each.name == "CogVideoX, video to video")
    call = dict(prompt_embeds=torch.zeros(1, 8, 16), **CALLS["cogvideox"])
    for session, hows in [
        (Session(added.built(), PROMPT, **added.call), (FreeInit(), DenoiseInvert())),
        (Session(pipe_of("cogvideox"), **call), (GuidanceGap(), Injection(target="guidance_gap"))),
        (asked(pipe_of("cogvideox"), "cogvideox")[0], (DenoiseInvert(2), Injection(0.1, (1, 1), (1, -1)))),
    ]:
        pool = Pool.of([NoiseRecipe(0, 0, tuple(session.spec.shape))])
        for how in hows:
            with pytest.raises(BadInput) as caught:
                refined(pool, [SOME[2], how], session)
            assert "\n" not in str(caught.value) and not session.ledger.entries


def test_what_is_to_be_said_stands_in_the_record(pipe_of):
    call = {**CALLS["cogvideox"], "progress": False, "candidates": 2, "acquisition": "random"}
    with pytest.warns(UserWarning, match="injection does nothing at step 0"):
        choice = seedbed.select(pipe_of("cogvideox"), PROMPT, refine="injection:target=epsilon", **call)
    assert "injection does nothing at step 0, which has no signal" in choice.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seedbed.select(pipe_of("cogvideox"), PROMPT, refine="injection:0.1,times=[0,1],weights=[1,2]", **call)


@pytest.mark.parametrize(
    "name",
    [
        slow(each.name)
        for each in FAMILIES
        if each.name != "EasyAnimate, inpainting"  # fails with latents, as it draws its own
    ],
)
def test_a_guided_call_costs_what_is_declared(name):
    (family,) = (each for each in FAMILIES if each.name == name)
    try:
        session = Session(family.built(), family.prompt, **family.call)
    except Missing as error:
        pytest.skip(str(error))
    declared = guided_evaluations(session)
    assert not session.ledger.entries
    try:
        denoise(session, torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0)))
    except NotSupported:  # latents of another shape, once it ran to its end
        with pytest.raises(NotSupported):
            guided_evaluations(session, [-1])
    else:
        assert guided_evaluations(session, [-1]) == declared
    assert session.ledger.to_dict() == {"refinement": sum(declared)}
