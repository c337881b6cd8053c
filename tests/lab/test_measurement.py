"""Measuring the noises of a prompt on the embedded model, and the verdicts that are made of the rows."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from seedbed import generate, statistics, zoo
from seedbed.acquisition import RandomSearch
from seedbed.acquisition.signals import measure
from seedbed.errors import BadInput
from seedbed.lab.evidence import Evidence, depth_of, evaluations, judge_signals
from seedbed.lab.measurement import compared, measure_choices, measure_noises, measured, tables
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.verifiers.appearance import METRICS, look
from seedbed.worlds import verifier
from tests.pipelines import BUILDERS, CALLS, cogvideox

PROMPT = "a red circle moving left"
OPTIONS = {
    "steps": [0],
    "verifier": "shapes",
    "previews": True,
    "functions": {"0": {"mine": "bansa:keep=0.5"}},
}


@pytest.fixture(scope="module")
def made():
    pipe = zoo.load()
    session = Session(pipe, PROMPT, num_inference_steps=2)
    pool = [NoiseRecipe(3, i, tuple(session.spec.shape), frame_axis=0) for i in range(3)]
    return pipe, pool, measure_noises(pipe, PROMPT, pool, OPTIONS)


@pytest.mark.slow
def test_rows_hold_signals_previews_and_the_verdict_on_the_finished_video(made):
    pipe, pool, rows = made
    session = Session(pipe, PROMPT)
    noises = torch.stack([recipe.draw() for recipe in pool])
    rollout = Rollout(session, noises, batch_size=3)
    expected = measure(rollout, [0])
    first, finished = rollout.advance(1), rollout.finish()
    seen = {"0/judge": verifier.attributes(np.stack(first), [PROMPT] * 3)}
    seen["outcome"] = verifier.attributes(np.stack(finished), [PROMPT] * 3)
    for i, row in enumerate(rows):
        for name, values in expected.items():
            assert row[name] == pytest.approx(values[i], rel=1e-5)
        for where, columns in seen.items():
            assert all(row[f"{where}.{key}"] == values[i] for key, values in columns.items())
        assert f"0/mine/{len(session.layers) - 1}" in row


@pytest.mark.parametrize("options", [{"stepz": [0]}, {"previews": 1, "batch": 2}])
def test_unknown_options_are_named(made, options):
    with pytest.raises(BadInput, match="there is no option"):
        measure_noises(made[0], PROMPT, made[1], {**OPTIONS, **options})


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (PROMPT, {"verifier": ["shapes"]}, "a verifier is a name or a callable"),
        (PROMPT, {"call": {"width": 64}}, "reads square videos"),
        ("a koala", {}, "'a koala' is not a sentence of the shapes world"),
    ],
)
def test_what_the_verifier_cannot_judge_is_never_denoised(made, monkeypatch, prompt, options, message):
    monkeypatch.setattr(Rollout, "advance", None)
    with pytest.raises(BadInput, match=message):
        measure_noises(made[0], prompt, made[1], {**OPTIONS, **options})


def brightness(frames, prompts):
    return torch.tensor([float(video.mean()) for video in frames], dtype=torch.float64)


def planted(prompts=30, noises=8, layers=3):
    """A first layer that is noise, later ones that follow the outcome, and a constant signal."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(prompts, noises))
    columns = {"outcome.score": truth, "0/flat": np.ones_like(truth)}
    for layer in range(layers):
        columns[f"0/sharp/{layer}"] = (-truth if layer else 0) + 0.1 * rng.normal(size=truth.shape)
    names = list(map(str, range(prompts)))
    return [
        {"model": "m", "method": "signals", "prompt": names[p], "seed": p, "candidate": i}
        | {name: float(values[p, i]) for name, values in columns.items()}
        for p in range(prompts)
        for i in reversed(range(noises))
    ]


def test_verdicts_are_the_statistics_of_the_mean_over_layers():
    evidence = Evidence.of(planted())
    sharp, flat = judge_signals(evidence, ["0/sharp", "0/flat"])
    values, truth = evidence.signal("0/sharp"), evidence.outcome()
    np.testing.assert_allclose(values, np.mean([evidence.columns[f"0/sharp/{i}"] for i in range(3)], 0))
    assert sharp.prefer == "low" and sharp.within == statistics.bootstrap(statistics.within(values, truth))
    assert sharp.low == statistics.bootstrap(statistics.gain(values, truth, "low"))
    assert sharp.adjusted == pytest.approx(2 * sharp.p)
    assert flat.p == 1 and flat.high.mean == pytest.approx(0, abs=1e-12)


def test_depths_follow_the_layers_that_agree():
    rules = depth_of(Evidence.of(planted()), "0/sharp")
    assert rules["full_score"]["depth"] == rules["quality"]["depth"] == 2
    partial = np.mean([Evidence.of(planted()).columns[f"0/sharp/{i}"] for i in range(2)], 0).ravel()
    truth = Evidence.of(planted()).outcome().ravel()
    assert rules["quality"]["pooled"][1] == pytest.approx(np.corrcoef(partial, truth)[0, 1])


def test_what_a_signal_costs():
    assert [evaluations(n) for n in ("0/entropy", "3/bansa", "0/guidance_gap", "6/judge.score")] == [
        1,
        7,
        2,
        14,
    ]


def test_rows_that_lack_a_noise_are_refused():
    with pytest.raises(BadInput, match="different numbers of noises"):
        Evidence.of(planted()[:-1])


def test_what_not_every_row_says_is_left_out():
    rows = planted()
    rows[5]["cost.generation"] = 40.0
    assert "cost.generation" not in Evidence.of(rows).columns


def test_the_tables_show_what_the_seed_decides_and_every_signal_once():
    seeds, best, worth = tables(planted())
    ((name, prompts, noises, price, *_),) = seeds.rows
    assert (name, prompts, noises) == ("m", 30, 8) and np.isnan(price)  # rows of 0.1 do not say
    assert [row[:2] for row in best.rows] == [["m", n] for n in range(1, 9)]
    assert [row[0] for row in worth.rows] == ["0/flat", "0/sharp"]


def test_without_signals_the_tables_are_best_of_n():
    scores = [[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]]
    rows = [
        {"key": f"{p}{c}", "model": "m", "prompt": str(p), "method": "generation", "seed": p, "candidate": c}
        | {"outcome.score": score, "cost.generation": 40.0}
        for p, pool in enumerate(scores)
        for c, score in enumerate(pool)
    ]
    table, best = tables(rows)
    (row,) = table.rows
    assert row[:4] == ["m", 3, 2, 40.0]
    assert [round(interval.mean, 12) for interval in row[4:]] == [0.5, 0.75, 0.25]
    assert [(nfe, round(score.mean, 12)) for _, _, nfe, score in best.rows] == [(40, 0.5), (80, 0.75)]


def test_methods_are_compared_on_the_same_noises():
    """Score + .25 for one method whatever the noise: its difference has no width, its own score has."""
    rng = np.random.default_rng(0)
    rows = []
    for prompt, seed, candidate in itertools.product("abcd", (0,), (0, 1)):
        score = float(rng.random())
        for method, more in (("plain", 0.0), ("better", 0.25)):
            noise = {"model": "m", "prompt": prompt, "seed": seed, "candidate": candidate, "method": method}
            price = {"cost.generation": 40.0} | ({"cost.refinement": 3.0} if more else {})
            rows.append(noise | {"outcome.score": score + more} | price)
    (table,) = compared(rows)
    (plain, plain_nfe, own, _, gap), (better, better_nfe, gain, order, choice) = table.rows
    assert order == pytest.approx((1, 1, 1)) and choice == gap and choice.low > 0
    assert (plain, plain_nfe, better, better_nfe) == ("plain", 40.0, "better", 43.0)
    assert gain == pytest.approx((0.25, 0.25, 0.25)) and own.low < own.mean < own.high
    # The second method is not finished: it is left out, and then there is nothing to compare.
    some = [row for row in rows if row["method"] == "plain" or row["prompt"] != "d"]
    assert compared(some) == [] and compared([row for row in rows if row["method"] == "plain"]) == []


def test_noises_are_refined_and_their_prior_is_the_one_asked_for():
    pipe, call = cogvideox(), CALLS["cogvideox"]
    spec = Session(pipe, PROMPT, **call).spec
    recipes = [NoiseRecipe(3, i, tuple(spec.shape), frame_axis=spec.frame_axis) for i in (0, 2)]
    seen = []

    def verifier(frames, prompts):
        seen.append(frames)
        return torch.zeros(len(frames), dtype=torch.float64)

    options = {"verifier": verifier, "call": call, "metrics": True}
    changed = {"prior": "mixed:1", "refine": "injection:target=x0"}
    rows = measure_noises(pipe, PROMPT, recipes, options | changed)
    for recipe, row, frames in zip(recipes, rows, seen[0], strict=True):
        noises = [dataclasses.replace(recipe, prior="mixed:1")]
        made = generate(pipe, PROMPT, noises=noises, refine=changed["refine"], progress=False, call=call)
        assert np.array_equal(frames, made.frames)
        assert row["cost.refinement"] == made.selection.ledger.entries["refinement"]
        assert all(row[f"outcome.{name}"] == look([frames])[name][0] for name in METRICS)
    acting = {"adaptation": "guide:layers=all"}
    rows = measure_noises(pipe, PROMPT, recipes, options | acting)
    for recipe, row, frames in zip(recipes, rows, seen[1], strict=True):
        made = generate(pipe, PROMPT, noises=[recipe], progress=False, call=call, **acting)
        assert np.array_equal(frames, made.frames)
        assert row["cost.guidance"] == made.selection.ledger.entries["guidance"] == 2
    for what in ("refine", "adaptation"):
        with pytest.raises(BadInput, match="nonsense"):
            measure_noises(pipe, PROMPT, recipes, options | {what: "nonsense"})


def test_a_way_to_choose_is_measured_with_all_that_it_spends():
    """Against `generate` itself; both ways start from the same noise."""
    pipe, call = cogvideox(), CALLS["cogvideox"]
    spec = Session(pipe, PROMPT, **call).spec
    recipes = [NoiseRecipe(3, i, tuple(spec.shape), frame_axis=spec.frame_axis) for i in (0, 1)]
    options = {"verifier": brightness, "call": call, "metrics": True}
    asked = {"acquisition": RandomSearch(verifier=brightness, budget=20), "refine": "erasure"}
    plain, chosen = (
        measure_choices(pipe, PROMPT, recipes, options | more) for more in ({}, {"choose": asked})
    )
    for n, (first, best) in enumerate(zip(plain, chosen, strict=True)):
        alone = generate(pipe, PROMPT, seed=3000 + n, candidates=1, progress=False, call=call)
        assert first["outcome.score"] == brightness([alone.frames], [""])[0]
        assert first["cost.generation"] == alone.selection.ledger.total
        made = generate(pipe, PROMPT, seed=3000 + n, progress=False, call=call, **asked)
        assert best["outcome.score"] == brightness([made.frames], [""])[0]
        assert best["cost.generation"] == made.selection.ledger.total > first["cost.generation"]
        assert best["outcome.movement"] == look([made.frames])["movement"][0]
    with pytest.raises(BadInput, match="there is no option 'refine'"):
        measure_choices(pipe, PROMPT, recipes, options | {"refine": "erasure"})
    with pytest.raises(BadInput, match="verifier is missing"):
        measure_choices(pipe, PROMPT, recipes, {})


STOCHASTIC = {**CALLS["animatediff"], "num_inference_steps": 2, "eta": 1.0}


def test_a_measured_video_has_the_priors_noise_in_its_steps_too():
    """As `generate` makes it; by a stochastic sampler, whose noise is correlated like the first one."""
    pipe = BUILDERS["animatediff"]()
    session = Session(pipe, PROMPT, **STOCHASTIC)
    pool = draw_pool(session, 1, 3, "mixed:2")
    table = measured(session, pool, brightness, steps=(0,))
    expected = generate(pipe, PROMPT, seed=3, candidates=1, prior="mixed:2", progress=False, call=STOCHASTIC)
    assert table["outcome.score"][0] == brightness(expected.frames[None], [PROMPT]).item()
    plain = Session(pipe, PROMPT, **STOCHASTIC).generate(pool.noises[0])
    assert not np.array_equal(plain, expected.frames)


def test_a_noise_is_refined_by_the_model_as_it_is_adapted():
    pipe = cogvideox(layers=1)
    asked = {"refine": "injection:target=x0,delta=0.5", "adaptation": "enhance:strength=0.8,layers=all"}
    call = {**CALLS["cogvideox"], "num_inference_steps": 2}
    session = Session(pipe, PROMPT, **call)
    rows = measure_noises(pipe, PROMPT, [session.recipe(3)], {"verifier": brightness, "call": call, **asked})
    made = generate(pipe, PROMPT, seed=3, candidates=1, progress=False, call=call, **asked)
    assert rows[0]["outcome.score"] == brightness(made.frames[None], [PROMPT]).item()
