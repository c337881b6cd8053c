"""Search: each method against a slow one, the budget, the record, and what is refused."""

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from seedbed import BadInput, BadOutput, Selection, generate, replay, select
from seedbed.acquisition import LowFrequencies, Neighbours, RandomSearch, resolve
from seedbed.adaptation import adapt, adaptations_named
from seedbed.noise import NoiseRecipe, Packing
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import guided_evaluations
from seedbed.refinement import REFINERS, CrossEntropy, Refiner, rebuilt
from tests.pipelines import BUILDERS, CALLS, PROMPT

CALL = {**CALLS["cogvideox"], "num_inference_steps": 2, "guidance_scale": 3.0}
# A guided generation of two steps.
ONE = 4
METHODS = {
    "random-search": RandomSearch,
    "neighbours": Neighbours,
    "low-frequencies": LowFrequencies,
}


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


def brightness(frames, prompts):
    assert frames.dtype == np.uint8 and frames.ndim == 5 and set(prompts) == {PROMPT}
    return {"score": torch.from_numpy(frames.reshape(len(frames), -1).mean(1)), "frames": [9.0] * len(frames)}


def function(name, verifier=brightness, **options):
    return METHODS[name](**{"verifier": verifier, "budget": 6 * ONE, **options})


def run(pipe, method, make=select, **options):
    return make(pipe, PROMPT, **{"acquisition": method, "seed": 2, "progress": False, **CALL, **options})


@pytest.fixture(scope="module", params=METHODS)
def found(request, pipe_of):
    """The selection by each method, of six finished videos; rounds of two."""
    batch = {} if request.param == "random-search" else {"batch": 2}
    if request.param == "low-frequencies":
        batch |= {"elite": 2, "share": 0.5}
    return run(pipe_of("cogvideox"), function(request.param, **batch))


# --- what is visited ---


def turned(noise, aside, share):
    """Spherical interpolation as in a textbook."""
    a, b = noise.double().numpy().ravel(), aside.double().numpy().ravel()
    angle = math.acos(a @ b / math.sqrt((a @ a) * (b @ b)))
    mixed = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)
    return torch.from_numpy(mixed).reshape(noise.shape)


def cosines(length, count):
    """The first `count` vectors of the orthonormal DCT-II."""
    k, n = np.arange(count)[:, None], np.arange(length)
    return np.where(k, math.sqrt(2), 1) / math.sqrt(length) * np.cos(np.pi * (2 * n + 1) * k / (2 * length))


def slow_neighbours(start, score, count, batch, strength):
    """The noises that zero-order search visits, and their scores."""
    noises, scores = [start.draw()], [score(start.draw())]
    recipes = [start]
    while len(noises) < count:
        best = max(range(len(scores)), key=lambda index: (scores[index], -index))
        for index in range(len(noises), min(len(noises) + batch, count)):
            noises.append(turned(noises[best], recipes[best].beside(index), strength).float())
            how = {"refiner": f"variation:strength={strength},index={index}"}
            recipes.append(recipes[best].refined(how, noises[-1]))
        scores += [score(noise) for noise in noises[len(scores) :]]
    return noises, scores


def slow_low_frequencies(start, score, count, batch, elite, share, smoothing):
    """The noises of the cross-entropy method on low cosines, written with whole matrices in numpy."""
    shape = start.shape  # frames, channels, height, width
    counts = [math.ceil(share * shape[axis]) for axis in (0, 2, 3)]
    bases = [cosines(shape[axis], k) for axis, k in zip((0, 2, 3), counts, strict=True)]
    base = start.draw().double().numpy()

    def low(z):
        return np.einsum("fchw,af,bh,dw->acbd", np.asarray(z, np.float64), *bases)

    radius = np.linalg.norm(low(base))
    mean, spread = np.zeros_like(low(base)), np.ones_like(low(base))
    noises, scores, inside = [], [], []
    while len(noises) < count:
        for index in range(len(noises), min(len(noises) + batch, count)):
            c = mean + spread * low(start.beside(index + 1))
            c = c * radius / np.linalg.norm(c)
            inside.append(c)
            changed = base + np.einsum("acbd,af,bh,dw->fchw", c - low(base), *bases)
            noises.append(torch.from_numpy(changed.astype(np.float32)))
        scores += [score(noise) for noise in noises[len(scores) :]]
        best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:elite]
        chosen = np.stack([inside[index] for index in best])
        mean = smoothing * mean + (1 - smoothing) * chosen.mean(0)
        spread = smoothing * spread + (1 - smoothing) * chosen.std(0, ddof=1)
    return noises, scores


def searched(method, start, score, count):
    """What a method visits on a score of the noise alone, and the scores."""
    spec = SimpleNamespace(layout="b f c h w", shape=start.shape)
    session = SimpleNamespace(spec=spec, asked=SimpleNamespace(name="Toy"))
    recipes, noises, scores = [], [], []
    while len(recipes) < count:
        proposed = method.propose(session, start, list(zip(recipes, scores, strict=True)))
        for recipe in itertools.islice(proposed, count - len(recipes)):
            recipes.append(recipe)
            noises.append(rebuilt(recipe)[0])
            scores.append(score(noises[-1]))
    return noises, scores


SHAPE = (3, 2, 6, 5)
GOAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))


def likeness(noise):
    return torch.nn.functional.cosine_similarity(noise.flatten(), GOAL.flatten(), dim=0).item()


def test_neighbours_are_those_of_a_slow_zero_order_search():
    start = NoiseRecipe(4, 0, SHAPE)
    noises, scores = searched(function("neighbours", strength=0.4, batch=3), start, likeness, 20)
    expected, theirs = slow_neighbours(start, likeness, 20, 3, 0.4)
    assert len(noises) == 20 and len({tuple(noise.flatten().tolist()) for noise in noises}) == 20
    for noise, other in zip(noises, expected, strict=True):
        assert torch.allclose(noise, other, atol=1e-6)
    assert scores == pytest.approx(theirs, abs=1e-6)
    assert max(scores) > max(scores[:4]) > scores[0]  # more than one round has led on


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_low_frequencies_are_those_of_a_slow_cross_entropy_method(smoothing):
    start = NoiseRecipe(4, 0, SHAPE)
    method = function("low-frequencies", batch=6, elite=3, share=0.4, smoothing=smoothing)
    noises, scores = searched(method, start, likeness, 20)
    expected, theirs = slow_low_frequencies(start, likeness, 20, 6, 3, 0.4, smoothing)
    for noise, other in zip(noises, expected, strict=True):
        assert torch.allclose(noise, other, atol=1e-6)
        assert noise.norm().item() == pytest.approx(start.draw().norm().item(), rel=1e-6)
    assert scores == pytest.approx(theirs, abs=1e-6)


def test_random_search_visits_the_candidates_of_the_seed():
    noises, _ = searched(function("random-search"), NoiseRecipe(4, 0, SHAPE), likeness, 5)
    assert [torch.equal(z, NoiseRecipe(4, i, SHAPE).draw()) for i, z in enumerate(noises)] == [True] * 5


def test_both_find_more_than_random_search_where_low_frequencies_decide():
    bases = [cosines(length, math.ceil(length / 3)) for length in (3, 6, 5)]

    def low(noise):
        return np.einsum("fchw,af,bh,dw->acbd", noise.double().numpy(), *bases).ravel()

    goal = low(GOAL)

    def alike(noise):
        own = low(noise)
        return own @ goal / np.linalg.norm(own) / np.linalg.norm(goal)

    best = {
        name: [
            max(searched(function(name, **options), NoiseRecipe(seed, 0, SHAPE), alike, 40)[1])
            for seed in range(3)
        ]
        for name, options in (
            ("random-search", {}),
            ("neighbours", {}),
            ("low-frequencies", {"share": 1 / 3}),
        )
    }
    assert all(np.array(best["neighbours"]) > best["random-search"])
    assert all(np.array(best["low-frequencies"]) > best["random-search"])


def test_packed_noise_is_searched_as_it_was_drawn():
    packing = Packing((3, 2, 6, 5), (3, 6, 5, 2), (60, 5, 1, 30))
    how = {"refiner": "cross-entropy:index=1,batch=2,axes=[0,2,3],share=0.5"}
    drawn = NoiseRecipe(1, 0, SHAPE, refinements=(how,))
    packed = NoiseRecipe(1, 0, (90, 2), refinements=(how,), packing=packing)
    both = [rebuilt(recipe)[0] for recipe in (drawn, packed)]
    assert torch.equal(packing.pack(both[0], (90, 2)), both[1])
    assert not torch.equal(both[0], drawn.plain.draw())


def test_a_prior_over_frames_stays_that_of_the_first_round():
    start = NoiseRecipe(1, 0, (3, 2, 6, 5), "repeated", 0)
    noises, _ = searched(function("low-frequencies", batch=3, elite=2, share=1.0), start, likeness, 9)
    for noise in noises:
        assert torch.allclose(noise[0], noise[1], atol=1e-5) and torch.allclose(noise[0], noise[2], atol=1e-5)


# --- on a pipeline ---


def test_every_visited_noise_is_a_recipe_and_was_judged(found, pipe):
    assert len(found.recipes) == len(found.previews) == 6
    session = Session(pipe, PROMPT, **CALL)
    for recipe, noise, total, frames in zip(
        found.recipes, found.pool, found.totals, found.previews, strict=True
    ):
        assert torch.equal(rebuilt(recipe)[0], noise) and rebuilt(recipe)[1] == ""
        assert np.array_equal(session.generate(noise), frames)
        assert total.item() == pytest.approx(frames.mean())
    assert found.totals[found.best] == found.totals.max()
    assert found.rungs[0].scores == tuple(found.totals.tolist())
    assert found.rungs[0].columns == {"frames": (9.0,) * 6}
    assert "brightness judged 6 noises after 2 of 2 steps" in found.reason


def test_the_budget_is_spent_and_not_exceeded(found, pipe):
    assert found.ledger.entries == {"preview": 24}
    for budget, visits in ((2 * ONE - 1, 1), (2 * ONE, 2)):
        choice = run(pipe, function(found.acquisition, budget=budget))
        assert len(choice.recipes) == visits and choice.ledger.entries == {"preview": visits * ONE}
        assert torch.equal(choice.pool[0], found.pool[0]) or found.acquisition == "low-frequencies"


def test_a_search_is_the_same_again_and_a_record_keeps_it(found, pipe, tmp_path):
    options = {
        name: found.options[name] for name in ("batch", "strength", "elite", "share") if name in found.options
    }
    again = run(pipe, function(found.acquisition, **options), batch_size=3)
    assert again.recipes == found.recipes and again.order == found.order
    loaded = Selection.load(found.save(tmp_path / "record.json"))
    assert loaded.recipes == found.recipes and torch.equal(loaded.noise, found.noise)
    page = found.report(tmp_path / "page.html").read_text()
    assert page.count("<video") >= 6 and "judged the finished video of every noise" in page


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("random-search", None),
        ("neighbours", 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("neighbours", None), ("random-search", 1))
        ),
        *(pytest.param("low-frequencies", steps, marks=pytest.mark.slow) for steps in (None, 1)),
    ],
)
def test_generate_finishes_the_best_within_the_budget_and_replays(pipe, name, steps):
    video = run(pipe, function(name, budget=24, steps=steps), generate)
    visits = 6 if steps is None else 11  # two for each, and two for the second step of the best
    chosen = video.selection
    assert len(chosen.recipes) == visits
    assert chosen.ledger.entries == {"preview": 24 - ONE, "generation": ONE}
    assert chosen.rungs[0].steps == (steps or 2)
    session = Session(pipe, PROMPT, **CALL)
    assert np.array_equal(video.frames, session.generate(chosen.noise[0]))
    assert replay(video.record(), pipe, progress=False).identical


def test_refiners_and_priors_compose_with_a_search(pipe):
    video = run(pipe, function("neighbours", budget=20), generate, prior="mixed:1", refine="erasure:n=2")
    chosen = video.selection
    assert [recipe.prior for recipe in chosen.recipes] == ["mixed:alpha=1.0"] * 5
    assert [[each["refiner"] for each in recipe.refinements] for recipe in chosen.recipes[:2]] == [
        ["erasure:n=2"],
        ["variation:strength=0.3,index=1", "erasure:n=2"],
    ]
    assert replay(video.record(), pipe, progress=False).identical


@pytest.mark.slow
def test_both_come_nearer_to_a_video_than_random_search(pipe):
    quick = {"guidance_scale": 1.0, "num_inference_steps": 1}
    session = Session(pipe, PROMPT, **CALL | quick)
    means = {}
    # The second goal differs from candidate 0 in its low frequencies alone.
    low = CrossEntropy(index=999, batch=1000, axes=(0, 2, 3), share=0.5)
    for name, options in (("neighbours", {"batch": 2}), ("low-frequencies", {"share": 0.5, "elite": 3})):
        best = []
        for seed in range(4):
            start = NoiseRecipe(seed, 0, session.spec.shape)
            goal = torch.randn(start.shape, generator=torch.Generator().manual_seed(5))
            if name == "low-frequencies":
                goal = low.refine(start.draw(), None, start).float()
            goal = session.generate(goal)

            def likeness(frames, prompts, goal=goal):
                small = [video.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4)).ravel() for video in (goal, *frames)]
                return torch.from_numpy(np.corrcoef(small)[0][1:])

            methods = (
                function("random-search", likeness, budget=20),
                function(name, likeness, budget=20, **options),
            )
            best.append([run(pipe, method, seed=seed, **quick).totals.max().item() for method in methods])
        means[name] = np.mean(best, 0)
    assert means["neighbours"][1] > means["neighbours"][0] + 0.02
    assert means["low-frequencies"][1] > means["low-frequencies"][0] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILDERS)
def test_every_family_costs_what_was_told(pipe_of, family):
    pipe, call = pipe_of(family), CALLS[family]
    chosen = select(pipe, PROMPT, acquisition=function("neighbours", lambda f, p: [1.0] * len(f), budget=13),
                    progress=False, **call)  # fmt: skip
    one = chosen.ledger.total / len(chosen.recipes)
    assert one == int(one) and 13 - one < chosen.ledger.total <= 13


def test_packed_latents_are_searched_where_the_pipeline_says_how_it_packs(pipe_of):
    method = LowFrequencies(verifier=lambda f, p: [1.0] * len(f), budget=9, share=0.5, batch=2, elite=2)
    chosen = select(pipe_of("ltx"), PROMPT, acquisition=method, progress=False,
                    **CALLS["ltx"] | {"num_inference_steps": 1})  # fmt: skip
    assert len(chosen.recipes) >= 4 and all(recipe.packing for recipe in chosen.recipes)
    for recipe, noise in zip(chosen.recipes, chosen.pool, strict=True):
        assert torch.equal(rebuilt(recipe)[0], noise)
    packing, shape = chosen.recipes[0].packing, chosen.recipes[0].shape
    change = chosen.pool[1] - chosen.recipes[0].plain.draw()
    places = packing.pack(torch.arange(change.numel()).reshape(packing.shape), shape).flatten()
    unpacked = torch.empty(change.numel())
    unpacked[places] = change.flatten()
    unpacked = unpacked.reshape(packing.shape).numpy()
    high = [np.eye(length) - cosines(length, math.ceil(length / 2)).T @ cosines(length, math.ceil(length / 2))
            for length in packing.shape[1:]]  # fmt: skip
    for axis, matrix in enumerate(high, 1):  # what has changed is low along frames, height and width
        assert np.abs(np.moveaxis(unpacked, axis, -1) @ matrix).max() < 1e-5
    assert np.abs(unpacked).max() > 0.1


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"budget": 0}, "budget must be a whole number of at least 1, not 0"),
        ({"budget": -5}, "budget must be a whole number of at least 1, not -5"),
        ({"budget": 3}, "budget=3 is below one generation, which takes 4 evaluations"),
        ({"budget": 3, "steps": 1}, "budget=3 is below one generation, which takes 4 evaluations"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"steps": 3}, "steps=3, but the schedule has only 2"),
        ({"verifier": "eyes"}, "there is no verifier 'eyes'"),
        ({"verifier_prompt": 3}, "verifier_prompt must be a text, not 3"),
        ({"strength": 1.5}, "a variation's strength must be a finite number from 0 to 1, not 1.5"),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
    ],
)
def test_bad_options_are_one_line_before_anything_runs(pipe, options, fragment):
    seen = []
    with pytest.raises(BadInput, match=fragment):
        run(pipe, Neighbours(**{"verifier": brightness, "budget": 8, **options}), verifier_prompt=None,
            progress=lambda *now: seen.append(now))  # fmt: skip
    assert not seen


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"elite": 1}, "elite must be a whole number from 2 to 10, not 1"),
        ({"elite": 11}, "elite must be a whole number from 2 to 10, not 11"),
        ({"share": 0}, r"share must be a number in \(0, 1\], not 0"),
        ({"smoothing": 1.1}, "smoothing must be a finite number from 0 to 1"),
    ],
)
def test_bad_options_of_low_frequencies(options, fragment):
    with pytest.raises(BadInput, match=fragment):
        function("low-frequencies", **options)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("neighbours:budget=9", "neighbours needs verifier: write neighbours:verifier=..."),
        ("neighbours:verifier=shapes", "neighbours needs budget: write neighbours:budget=..."),
        ("hill:verifier=shapes,budget=9", "no acquisition function 'hill'"),
        ("random-search:verifier=shapes,budget=9,strength=1", "random-search has no option 'strength'"),
    ],
)
def test_texts_that_name_no_search(text, fragment):
    with pytest.raises(BadInput, match=fragment):
        resolve(text)


def test_a_text_is_a_search():
    assert resolve("neighbours:verifier=shapes,budget=200,strength=0.2") == Neighbours(
        verifier="shapes", budget=200, strength=0.2
    )


def test_a_search_takes_no_pool(pipe):
    from seedbed import score

    for options in ({"candidates": 3}, {"candidates": 1}):
        with pytest.raises(BadInput, match="neighbours makes its own pool"):
            run(pipe, function("neighbours"), **options)
    with pytest.raises(BadInput, match="neighbours makes its own pool"):
        score(pipe, PROMPT, [NoiseRecipe(0, 0, (3, 4, 4, 4))], acquisition=function("neighbours"), **CALL)
    with pytest.raises(BadInput, match="num_videos_per_prompt=3, but there are only 2 candidates"):
        run(pipe, function("neighbours", budget=8), num_videos_per_prompt=3)


def test_a_score_that_is_not_finite_names_the_visited_noise(pipe):
    judged = itertools.count()
    with pytest.raises(BadOutput, match=r"score of candidate 2 .* is nan"):
        run(pipe, function("neighbours", lambda f, p: [math.nan if next(judged) == 2 else 1.0]))


def test_an_interrupt_leaves_the_pipeline_as_it_was(pipe):
    noise = NoiseRecipe(0, 0, (3, 4, 4, 4)).draw()
    before = Session(pipe, PROMPT, **CALL).generate(noise)

    def stop(frames, prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, function("neighbours", stop))
    assert np.array_equal(Session(pipe, PROMPT, **CALL).generate(noise), before)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ("index=0,batch=0,axes=[0]", "batch"),
        ("index=2,batch=2,axes=[0]", "index must be a whole number from 0 to 1, not 2"),
        ("index=0,batch=2,axes=0", "axes and elites must be lists"),
        ("index=0,batch=2,axes=[7]", r"along the axes \(7,\), but the noise has shape"),
        (
            "index=2,batch=2,axes=[0],elites=[[0,-1]]",
            "each of an elite must be a whole number from 0 to 1, not -1",
        ),
        (
            "index=2,batch=2,axes=[0],elites=[[0,2]]",
            "each of an elite must be a whole number from 0 to 1, not 2",
        ),
        ("index=2,batch=2,axes=[0],elites=[3]", "axes and elites must be lists"),
    ],
)
def test_an_altered_recipe_is_one_line(options, fragment):
    recipe = NoiseRecipe(0, 0, SHAPE, refinements=({"refiner": f"cross-entropy:{options}"},))
    with pytest.raises(BadInput, match=fragment):
        rebuilt(recipe)


def test_one_low_frequency_of_an_axis_is_its_mean():
    start = NoiseRecipe(0, 0, SHAPE)
    method = CrossEntropy(index=1, batch=2, axes=(0, 2, 3), share=1e-9)
    changed = method.refine(start.draw(), None, start) - start.draw()
    assert torch.allclose(changed, changed.mean((0, 2, 3), keepdim=True).expand(SHAPE), atol=1e-6)


@dataclass(frozen=True)
class Costly(Refiner):
    """Leaves the noise as it is, for an evaluation."""

    name = "costly"
    needs_model = True

    def evaluations(self, session):
        return 1.0

    def caution(self, session):
        return "costly has no effect"

    def refine(self, noise, session, recipe):
        session.evaluate(noise[None], what="refinement")
        return noise


def test_refinement_is_paid_from_the_budget_too(pipe, monkeypatch):
    monkeypatch.setitem(REFINERS, "costly", Costly)
    hashed = []
    monkeypatch.setattr("seedbed.refinement.model_sha256", lambda pipe: hashed.append(pipe) or "0" * 64)
    with pytest.warns(UserWarning, match="costly") as caught:
        chosen = run(pipe, function("neighbours", budget=19), refine=Costly())
    assert len(hashed) == len(caught) == 1 and chosen.seconds["refinement"] > 0
    assert "costly has no effect" in chosen.reason
    assert chosen.ledger.entries == {"refinement": 3, "preview": 3 * ONE}
    with pytest.raises(BadInput, match="budget=4 is below one generation, which takes 5 evaluations"):
        run(pipe, function("neighbours", budget=4), refine=Costly())


def test_perturbed_guidance_is_paid_from_the_budget_too(pipe):
    asked = function("random-search", budget=30)
    for adaptation, each in (("guide:perturb=skip,layers=all", 6), ("guide:layers=all,stop=0.5", 5)):
        made = run(pipe, asked, generate, adaptation=adaptation)
        entries = dict(made.selection.ledger.entries)
        entries.pop("layers", None)  # which an adaptation asks for once
        assert len(made.selection.recipes) == 30 // each and sum(entries.values()) == 30 // each * each


@pytest.mark.parametrize("window", ["", ",stop=0.5", ",start=0.5"])
def test_what_guidance_by_a_perturbed_model_costs_is_what_is_spent(pipe_of, window):
    """Where a scheduler has steps of second order, a window holds other numbers of evaluations."""
    pipe = pipe_of("animatediff")
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    call = {**CALLS["animatediff"], "num_inference_steps": 4, "guidance_scale": 3.0}
    session = Session(pipe, PROMPT, **call)
    adapt(session, adaptations_named(f"guide:layers=all,perturb=skip{window}"))
    told = sum(guided_evaluations(session))
    before = session.ledger.total
    session.generate(session.recipe(0).draw())
    assert told == session.ledger.total - before


def test_more_videos_than_the_budget_has_are_refused_before_it_is_spent(pipe):
    with pytest.raises(BadInput, match="num_videos_per_prompt=6, but there are only 5 candidates"):
        run(
            pipe, function("random-search", budget=30), adaptation="guide:perturb=skip,layers=all",
            num_videos_per_prompt=6,
        )  # fmt: skip
