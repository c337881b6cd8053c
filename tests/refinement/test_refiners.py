"""Refiners in a selection: what they make, what they cost, and that records repeat them bit by bit."""

import dataclasses
import itertools
import json
import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor

import seedbed
from seedbed import zoo
from seedbed.acquisition import Bansa, Entropy, Pool
from seedbed.errors import BadInput, BadOutput, BadRecord, NotSupported
from seedbed.noise import GivenNoise, Mixed, NoiseRecipe, sha256_of
from seedbed.pipelines.session import Session
from seedbed.refinement import (
    REFINERS,
    CrossEntropy,
    DenoiseInvert,
    Erasure,
    FreeInit,
    GuidanceGap,
    Injection,
    Refiner,
    Variation,
    Walk,
    rebuilt,
    refined,
    variations,
    walk,
)
from seedbed.refinement.refiner import model_sha256
from seedbed.texts import text_of
from tests.compat.test_offloading import blocks, leaves, model, sequential
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, cogvideox

QUIET = {"progress": False}
SHAPE = (6, 4, 5, 5)


@dataclass(frozen=True)
class Nudge(Refiner):
    """A little of what the model predicts."""

    name = "nudge"
    needs_model = True

    rate: float = 0.1

    def evaluations(self, session):
        return 1.0

    def refine(self, noise, session, recipe):
        output = session.evaluate(noise[None], what="refinement").prediction[0].float()
        return noise + self.rate * output.mean().cpu()


class Inherited(Erasure):
    """Under the name of another."""


class Wider(Mixed):
    """Under the name of another."""


@pytest.fixture
def nudge(monkeypatch):
    monkeypatch.setitem(REFINERS, "nudge", Nudge)
    return Nudge()


def refine(recipe, *refiners):
    pool, _ = refined(Pool.of([recipe]), refiners, None)
    return pool.recipes[0], pool.noises[0]


def test_erasure_is_the_normalised_sum_of_the_noise_and_its_companions():
    recipe = NoiseRecipe(1, 2, SHAPE, "mixed:2", frame_axis=0)
    noises = torch.stack([recipe.draw(), *(recipe.beside(k) for k in range(1, 8))]).double()
    made, noise = refine(recipe, Erasure())
    assert (noise - noises.sum(0) / math.sqrt(8)).abs().max() < 1e-6
    assert made.refinements == ({"refiner": "erasure:n=8"},) and made.sha256 == sha256_of(noise)
    assert refine(recipe, Erasure(1))[1].equal(recipe.draw())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Injection(delta=[]),
        lambda: Injection(times=[]),
        lambda: Injection(times=[], delta=[]),
        lambda: Injection(delta=1e200),
        lambda: Injection(times=[0], weights=[1e200]),
        lambda: Injection(weights=[10**400, 1, 1]),
        lambda: Erasure(10_001),
        lambda: GuidanceGap(10**400),
        lambda: GuidanceGap(rate=1e200),
        lambda: GuidanceGap(clip=1e200),
        lambda: FreeInit(10**400),
        lambda: Variation(0.1, 10**20),
        lambda: Walk(0.5, 2**64),
        lambda: Walk(0.5, 1, 2**64),
        lambda: CrossEntropy(index=0, batch=2, axes=[0, 0]),
        lambda: CrossEntropy(index=2, batch=2, axes=[0], elites=[[]]),
        lambda: CrossEntropy(index=2, batch=2, axes=[0], elites=[[1]]),
        lambda: CrossEntropy(index=2, batch=2, axes=[0], elites=[[1, 1]]),
        lambda: CrossEntropy(index=0, batch=10**20, axes=[0]),
        lambda: variations(torch.zeros(SHAPE)),
        lambda: variations(None),
        lambda: variations(NoiseRecipe(0, 0, SHAPE), first="a"),
        lambda: variations(NoiseRecipe(0, 0, SHAPE), count=10_001),
        lambda: walk(NoiseRecipe(0, 0, SHAPE), NoiseRecipe(0, 1, SHAPE), 10**9),
        lambda: walk(torch.zeros(SHAPE), NoiseRecipe(0, 0, SHAPE)),
        lambda: walk(NoiseRecipe(0, 0, SHAPE), "noise", 2),
    ],
)
def test_bad_options_are_refused_in_one_line(make):
    with pytest.raises(BadInput) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_whole_options_of_numpy_are_kept_as_pythons_own():
    index, batch = np.arange(2, 4)
    how = CrossEntropy(index=index, batch=batch, axes=np.arange(1), elites=np.arange(2)[None])
    assert text_of(how) == "cross-entropy:index=2,batch=3,axes=[0],share=0.0625,smoothing=0.0,elites=[[0,1]]"
    assert "sign=-1" in text_of(Injection(sign=np.int64(-1)))


def test_erased_noise_keeps_the_prior_also_erased_twice():
    recipes = [NoiseRecipe(3, index, (4, 500), "mixed:1", frame_axis=0) for index in range(100)]
    pool, notes = refined(Pool.of(recipes), [Erasure(3), Erasure(3)], None)
    frames = pool.noises.double().movedim(1, 0).flatten(1)
    found, wanted = (frames @ frames.T / frames.shape[1]).numpy(), Mixed(1).correlation(4)
    assert abs(found - wanted).max() < 5 * math.sqrt(2 / frames.shape[1]) and notes == ()


def test_variation_and_walk_lie_on_the_great_circle():
    recipe, other = NoiseRecipe(1, 2, SHAPE), NoiseRecipe(1, 5, SHAPE)
    start, end = recipe.draw().double(), recipe.beside(3).double()
    angle = math.acos((start.flatten() @ end.flatten() / start.norm() / end.norm()).item())
    wanted = (math.sin(0.7 * angle) * start + math.sin(0.3 * angle) * end) / math.sin(angle)
    assert (refine(recipe, Variation(0.3, 3))[1] - wanted).abs().max() < 1e-6
    assert refine(recipe, Variation(0))[1].equal(recipe.draw())
    assert refine(recipe, Variation(1, 3))[1].equal(recipe.beside(3))
    assert refine(recipe, Walk(1, 5))[1].equal(other.draw())
    assert refine(recipe, Walk(1, 2, seed=9))[1].equal(NoiseRecipe(9, 2, SHAPE).draw())
    with pytest.raises(BadInput, match="a tensor of your own"):
        refine(GivenNoise.of(recipe.draw(), 0), Walk(0.5, 1))


def test_variations_differ_and_a_walk_has_both_ends():
    start, end = NoiseRecipe(1, 2, SHAPE).sealed(), NoiseRecipe(4, 0, SHAPE).sealed()
    near = [rebuilt(recipe)[0] for recipe in variations(start, 0.2, 4)]
    assert len({sha256_of(noise) for noise in near}) == 4
    cosines = [torch.cosine_similarity(noise.flatten(), start.draw().flatten(), 0) for noise in near]
    assert all(0.9 < cosine < 0.99 for cosine in cosines)
    way = [rebuilt(recipe)[0] for recipe in walk(start, end, 5)]
    assert way[0].equal(start.draw()) and way[-1].equal(end.draw())
    steps = [(a - b).norm() for a, b in itertools.pairwise(way)]
    assert max(steps) < 1.1 * min(steps)
    for wrong in (dataclasses.replace(end, prior="torch", sha256=None), variations(end)[0]):
        with pytest.raises(BadInput, match="a walk ends at"):
            walk(start, wrong)


def test_a_refinement_that_leaves_the_shell_warns_once(monkeypatch):
    monkeypatch.setattr(Erasure, "refine", lambda self, noise, session, recipe: 1.5 * noise)
    pool = Pool.of([NoiseRecipe(0, index, SHAPE) for index in range(3)])
    with pytest.warns(UserWarning) as caught:
        _, notes = refined(pool, [Erasure()], None)
    assert len(caught) == 1
    assert notes[0].startswith("refined noise 0 is no draw of N(0, I): its ") and "2 more" in notes[0]


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [(torch.zeros(3), BadInput, "shape"), (torch.full(SHAPE, math.nan), BadOutput, "finite")],
)
def test_what_a_refiner_returns_is_checked(monkeypatch, made, error, message):
    monkeypatch.setattr(Erasure, "refine", lambda self, noise, session, recipe: made)
    with pytest.raises(error, match=message):
        refine(NoiseRecipe(0, 0, SHAPE), Erasure())


def test_the_choice_is_among_refined_noises_whatever_the_batch(nudge):
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"], "acquisition": Bansa(), "candidates": 3}
    text = ["erasure:n=2", nudge]
    choice = seedbed.select(pipe, PROMPT, refine=text, prior="mixed:1", **call)
    assert choice.ledger.entries["refinement"] == 3 * nudge.evaluations(None)
    assert choice.recipe.prior == "mixed:alpha=1.0" and choice.recipe.frame_axis == 0
    assert [entry["refiner"] for entry in choice.recipe.refinements] == ["erasure:n=2", "nudge:rate=0.1"]
    assert choice.recipe.refinements[1]["model"] == model_sha256(pipe)
    assert "refinement" in choice.seconds
    again = seedbed.score(pipe, PROMPT, list(choice.recipes), **{**QUIET, **CALLS["cogvideox"]}, batch_size=1)
    assert again.recipes == choice.recipes
    torch.testing.assert_close(again.totals, choice.totals, rtol=1e-5, atol=0)
    one = seedbed.select(pipe, PROMPT, refine=text, prior="mixed:1", **{**call, "candidates": 1})
    assert one.recipe == choice.recipes[0]
    session = Session(pipe, PROMPT, **CALLS["cogvideox"])
    noise, change = rebuilt(choice.recipe, session)
    assert noise.equal(choice.pool[choice.best]) and change == ""


@pytest.mark.parametrize("name", ["cogvideox", slow("animatediff"), slow("sdxl")])
def test_a_record_repeats_what_was_done(nudge, name):
    pipe, call = BUILDERS[name](), {**QUIET, **CALLS[name], "acquisition": "random", "candidates": 2}
    prior = None if name == "sdxl" else "progressive:1"
    video = seedbed.generate(pipe, PROMPT, prior=prior, refine=[Erasure(2), nudge, "variation:0.1"], **call)
    plain = seedbed.generate(pipe, PROMPT, prior=prior, **call)
    assert plain.sha256 != video.sha256
    still = seedbed.generate(pipe, PROMPT, prior=prior, refine=["erasure:n=1", "variation:0"], **call)
    assert still.sha256 == plain.sha256
    record = json.loads(json.dumps(video.record()))
    again = seedbed.replay(record, pipe, progress=False)
    assert again.identical and again.changes == ()
    saved = seedbed.Selection.from_dict(record)
    with pytest.raises(
        BadRecord, match=r"refined by nudge:rate=0.1, which needs the model: replay\(record\)"
    ):
        _ = saved.noise
    with torch.no_grad():
        next(pipe.components["text_encoder"].parameters()).view(-1)[0] += 1
    with pytest.raises(BadInput, match="refined by another model") as caught:
        seedbed.replay(record, pipe, progress=False)
    assert "\n" not in str(caught.value)


def test_what_needs_no_model_is_drawn_again_without_one(tmp_path):
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"], "acquisition": "random", "candidates": 3}
    choice = seedbed.select(pipe, PROMPT, prior=Mixed(1), refine=Erasure(8), **call)
    saved = seedbed.Selection.load(choice.save(tmp_path / "choice.json"))
    assert saved.noise.equal(choice.noise) and saved.recipes == choice.recipes
    other = dataclasses.replace(choice.recipe, sha256="0" * 64)
    moved = dataclasses.replace(saved, recipes=(other,) * 3)
    with pytest.warns(UserWarning, match="has other values here than recorded"):
        assert moved.noise.equal(choice.noise)
    replayed = seedbed.replay(dataclasses.replace(choice, recipes=(other,) * 3).to_dict(), pipe, **QUIET)
    assert any("other values here than recorded" in change for change in replayed.changes)


def test_seeds_of_torch_are_those_of_the_plain_pipeline():
    pipe, call = cogvideox(), CALLS["cogvideox"]
    options = {**QUIET, **call, "acquisition": "random", "candidates": 3}
    choice = seedbed.select(pipe, PROMPT, prior="torch", seed=5, **options)
    assert choice.to_dict()["torch_seed"] == choice.recipe.torch_seed == 5 + choice.best
    generator = torch.Generator("cpu").manual_seed(choice.recipe.torch_seed)
    theirs = pipe(PROMPT, generator=generator, output_type="latent", **call).frames
    ours = pipe(PROMPT, latents=choice.noise, output_type="latent", **call).frames
    assert ours.equal(theirs)
    other = dataclasses.replace(
        choice, recipes=tuple(dataclasses.replace(r, sha256="0" * 64) for r in choice.recipes)
    )
    replayed = seedbed.replay(other.to_dict(), pipe, progress=False)
    assert replayed.changes == (f"noise {choice.best} has other values here than recorded",)


def test_one_noise_is_refined_after_the_choice(nudge):
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"]}
    choice = seedbed.select(pipe, PROMPT, candidates=3, acquisition="random", **call)
    video = seedbed.generate(pipe, PROMPT, noises=[choice.recipe], refine=nudge, **call)
    assert (
        video.selection.ledger.entries["refinement"] == 1 and "scoring" not in video.selection.ledger.entries
    )
    assert video.selection.recipe.plain.candidate == choice.best
    assert seedbed.replay(video.record(), pipe, progress=False).identical
    given = seedbed.score(pipe, PROMPT, choice.pool, refine="erasure:2", acquisition="random", **call)
    assert given.to_dict()["recipes"][0]["refinements"] == [{"refiner": "erasure:n=2"}]
    assert seedbed.Selection.from_dict(given.to_dict()).recipes == given.recipes


def test_a_sheet_of_variations_is_finished_and_saved(nudge, tmp_path):
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"]}
    near = variations(NoiseRecipe(0, 1, (3, 4, 4, 4), frame_axis=0), 0.3, 3)
    sheet = seedbed.contact_sheet(pipe, PROMPT, noises=near, refine=nudge, **call)
    assert len(sheet.selection.recipes) == 3
    video = sheet.finish(2, progress=False)
    assert video.selection.ledger.entries["refinement"] == 3
    assert [entry["refiner"] for entry in video.selection.recipe.refinements] == [
        "variation:strength=0.3,index=3",
        "nudge:rate=0.1",
    ]
    assert seedbed.replay(video.record(), pipe, progress=False).identical
    loaded = seedbed.ContactSheet.load(sheet.save(tmp_path / "sheet.json"))
    finished = loaded.finish(2, pipe, progress=False)
    assert finished.sha256 == video.sha256 and "started over" not in finished.selection.reason
    page = sheet.page(tmp_path / "sheet.html").read_text()
    assert "variation:strength=0.3,index=2, nudge:rate=0.1" in page


def test_a_list_of_prompts_is_refined_prompt_by_prompt():
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"], "acquisition": "random", "candidates": 2}
    both = seedbed.select(pipe, [PROMPT, ""], prior="torch", refine="erasure", seed=3, **call)
    assert [choice.recipes[0].torch_seed for choice in both] == [3, 4]
    alone = seedbed.select(pipe, "", prior="torch", refine="erasure", seed=4, **call)
    assert alone.recipes == both[1].recipes and alone.prompt == ""
    del call["candidates"]
    mine = seedbed.generate(pipe, [PROMPT, ""], noises=[both[0].recipe], **call)
    assert [video.selection.recipe for video in mine] == [both[0].recipe] * 2
    with pytest.raises(BadInput, match="a seed is for noises that are drawn"):
        seedbed.generate(pipe, [PROMPT, ""], noises=[both[0].recipe], seed=0, **call)


def test_a_mistake_is_found_before_anything_is_paid(pipe_of, monkeypatch):
    """In the layers to score, and of a refiner after one that asks the model."""
    paid = []
    monkeypatch.setattr(Session, "generate", lambda *_, **__: paid.append(1))
    monkeypatch.setattr(
        "seedbed.refinement.frequency.denoise", lambda session, noise: paid.append(1) or noise
    )
    pipe, call = pipe_of("cogvideox"), {**QUIET, **CALLS["cogvideox"]}
    for acquisition in ("bansa:layers=nosuch", "bansa:depth=99"):
        with pytest.raises(BadInput, match=r"no layer matches 'nosuch'|beyond the last layer"):
            seedbed.select(pipe, PROMPT, candidates=2, acquisition=acquisition, refine=FreeInit(), **call)
    shape = Session(pipe, PROMPT, **CALLS["cogvideox"]).spec.shape
    with pytest.raises(BadInput, match="noise 1 is a tensor of your own"):
        noises = [NoiseRecipe(0, 0, tuple(shape)), torch.randn(shape)]
        seedbed.score(pipe, PROMPT, noises, refine=[FreeInit(), Walk(0.5, 1)], **call)
    (family,) = (each for each in FAMILIES if each.name == "LTX-Video, image to video")
    session = Session(family.built(), PROMPT, **family.call)
    for how in (FreeInit(), DenoiseInvert()):
        with pytest.raises(NotSupported, match="the scheduler is given samples of shape"):
            refined(Pool.of([NoiseRecipe(0, 0, tuple(session.spec.shape))]), [how], session)
    assert not paid and not session.ledger.entries


def test_a_refined_noise_of_ones_own_is_taken_again(pipe_of):
    pipe, call = pipe_of("cogvideox"), {**QUIET, **CALLS["cogvideox"], "acquisition": "random"}
    mine = torch.randn(2, *Session(pipe, PROMPT, **CALLS["cogvideox"]).spec.shape)
    choice = seedbed.score(pipe, PROMPT, mine, refine="erasure:2", **call)
    again = seedbed.generate(pipe, PROMPT, noises=[choice.recipe], **call).selection
    assert again.recipe.refinements == choice.recipe.refinements and again.recipe.candidate == 0
    assert again.pool[0].equal(choice.pool[choice.best]) and "refinement" in again.seconds
    lost = dataclasses.replace(choice.recipe, values=None)
    with pytest.raises(BadRecord, match="was the caller's own"):
        seedbed.generate(pipe, PROMPT, noises=[lost], **call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "mixed:1"}, "the prior mixed correlates frames, and this noise has no axis of frames"),
        ({"prior": "mixed:-1"}, "alpha must be a finite number of at least 0"),
        ({"refine": ["erasure", "sharpen"]}, "no refiner 'sharpen'"),
        ({"refine": "walk:0.5"}, "walk needs candidate"),
        (
            {"prior": "gaussian", "noises": [NoiseRecipe(0, 0, (4, 8, 8))]},
            "a prior is for noises that are drawn",
        ),
        (
            {"candidates": 1, "noises": [NoiseRecipe(0, 0, (4, 8, 8))]},
            "candidates are for noises that are drawn",
        ),
        ({"seed": 0, "noises": [NoiseRecipe(0, 0, (4, 8, 8))]}, "a seed is for noises that are drawn"),
        ({"refine": Nudge()}, "the refiner Nudge: add it to seedbed.refinement.REFINERS"),
        ({"refine": Inherited()}, "the refiner Inherited: add it to seedbed.refinement.REFINERS"),
        ({"prior": Wider()}, "the prior Wider: add it to seedbed.noise.priors.PRIORS"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(pipe_of, options, message):
    with pytest.raises(BadInput) as caught:
        seedbed.generate(pipe_of("sdxl"), PROMPT, **QUIET, **CALLS["sdxl"], **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cogvideox", slow("animatediff"), slow("ltx")])
def test_a_model_is_known_by_its_weights_and_settings(name, tmp_path):
    pipe = BUILDERS[name]()
    before = model_sha256(pipe)
    assert model_sha256(pipe) == before == model_sha256(BUILDERS[name]())
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    assert model_sha256(loaded) == before
    whole = model_sha256(pipe, autoencoder=True)
    next(pipe.vae.parameters()).data.zero_()
    assert model_sha256(pipe) == before != whole != model_sha256(pipe, autoencoder=True)
    loaded.to(torch.bfloat16)
    assert model_sha256(loaded) != before
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    for change in (
        lambda: next(denoiser.parameters()).data.add_(1),
        lambda: denoiser.register_to_config(x=3),
    ):
        change()
        now = model_sha256(pipe)
        assert now != before
        before = now


@pytest.mark.parametrize("offload", [model, sequential, blocks, leaves])
def test_an_offloaded_model_is_the_same_model(nudge, offload):
    pipe, call = cogvideox(), {**QUIET, **CALLS["cogvideox"], "acquisition": "random", "candidates": 2}
    plain = seedbed.select(pipe, PROMPT, refine=nudge, **call)
    offload(pipe)
    assert seedbed.select(pipe, PROMPT, refine=nudge, **call).recipes == plain.recipes


def test_the_embedded_model_end_to_end(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe = zoo.load()
        options = {"prior": "mixed:1", "refine": "erasure:n=8", "candidates": 2, "acquisition": "random"}
        video = seedbed.generate(pipe, "a red circle moving left", num_inference_steps=3, **options, **QUIET)
    video.save(tmp_path / "circle.mp4")
    assert "mixed:alpha=1.0, erasure:n=8" in video.report(tmp_path / "circle.html").read_text()
    assert seedbed.replay(tmp_path / "circle.mp4", **QUIET).identical


def test_what_a_profile_has_measured_is_not_claimed_for_other_noises():
    pipe, profile = cogvideox(), seedbed.Profile(Entropy(depth=1), "measured")
    options = {**QUIET, **CALLS["cogvideox"], "candidates": 2, "acquisition": profile}
    plain = seedbed.select(pipe, PROMPT, **options)
    assert plain.reason == "auto: the profile names it: measured"
    for other in ({"prior": "mixed:1"}, {"refine": "erasure:n=2"}):
        assert "and the model as it is" in seedbed.select(pipe, PROMPT, **options, **other).reason


@pytest.mark.parametrize("prior", [slow("repeated"), "shuffled:2,stride=2"])
def test_stochastic_steps_add_noise_of_the_same_correlation(monkeypatch, prior):
    """AnimateDiff by DDPM: frames of each step's noise repeat as those of the candidate's own noise do."""
    pipe, call = BUILDERS["animatediff"](), {**QUIET, **CALLS["animatediff"], "num_inference_steps": 3}
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noises = []

    def drawn(shape, **others):
        noises.append(randn_tensor(shape, **others))
        return noises[-1]

    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", drawn)
    sheet = seedbed.contact_sheet(pipe, PROMPT, prior=prior, candidates=4, batch_size=2, after=2, **call)
    assert [len(noise) for noise in noises] == [2] * 4  # two steps of two batches
    for number, start in enumerate(sheet.selection.pool):
        batch, row = divmod(number, 2)
        own, *steps = (
            [noise[:, -1].equal(noise[:, frame]) for frame in range(2)]
            for noise in (start, noises[2 * batch][row], noises[2 * batch + 1][row])
        )
        assert any(own) and steps == [own, own]
    video = sheet.finish(1, progress=False)
    assert seedbed.replay(video.record(), pipe, progress=False).frames.shape == video.frames.shape
    alone = seedbed.contact_sheet(pipe, PROMPT, prior=prior, candidates=2, after=2, **call).finish(1, **QUIET)
    assert seedbed.replay(alone.record(), pipe, progress=False).identical
    noises.clear()
    seedbed.generate(pipe, PROMPT, candidates=1, **call)
    assert all(not noise[:, :, 0].equal(noise[:, :, 1]) for noise in noises)


def test_packed_latents_have_priors_over_frames_too():
    pipe, call = BUILDERS["ltx"](), {**QUIET, **CALLS["ltx"], "acquisition": "random", "candidates": 2}
    video = seedbed.generate(pipe, PROMPT, prior="repeated", refine="erasure:2", **call)
    recipe = video.selection.recipe
    drawn = torch.empty(recipe.packing.shape)
    order = recipe.packing.pack(torch.arange(drawn.numel()).view(drawn.shape), recipe.shape).flatten()
    drawn.view(-1)[order] = video.selection.pool[video.selection.best].flatten()
    frames = drawn.movedim(recipe.frame_axis, 0)
    assert len(frames) > 1 and torch.equal(frames[1:], frames[:-1])
    assert seedbed.replay(json.loads(json.dumps(video.record())), pipe, progress=False).identical
    choice = seedbed.select(pipe, PROMPT, prior="torch", **call)
    generator = torch.Generator("cpu").manual_seed(choice.recipe.torch_seed)
    theirs = pipe(PROMPT, generator=generator, output_type="latent", **CALLS["ltx"]).frames
    assert pipe(PROMPT, latents=choice.noise, output_type="latent", **CALLS["ltx"]).frames.equal(theirs)
    assert "packing" not in seedbed.select(pipe, PROMPT, **call).recipe.to_dict()
