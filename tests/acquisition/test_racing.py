"""Races over layers: the same choice in every batch, exact scores for those who stay, an honest ledger."""

import json
import math
from functools import partial

import pytest
import torch

from seedbed import BadInput, BadOutput, Selection
from seedbed.selection import Bansa, Entropy, create, score, select
from seedbed.selection.profile import Profile, read_profile, save_profile
from seedbed.selection.racing import Race, budgeted, parsed, planned, standing, survivors
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, cogvideox

CALL = CALLS["cogvideox"]
NAN = math.nan


def race(pipe, schedule, **options):
    options = {"candidates": 6, "acquisition": "bansa", "progress": False, **options}
    return select(pipe, PROMPT, race=schedule, **options)


def check_against_all(pipe, call, prompt=PROMPT, **options):
    """A race against the table without one: in one forward, and in forwards of their own."""
    settings = {"candidates": 6, "acquisition": "bansa", "progress": False, **call, **options}
    full = select(pipe, prompt, race=None, **settings)
    layers = len(full.layers)
    schedule = ((1, 4), (max(2, layers // 2), 2)) if layers > 2 else ((1, 2),)
    # By hand, from the whole table.
    alive = list(range(6))
    expected = torch.full_like(full.scores, NAN)
    before = 0
    for after, left in (*schedule, (layers, 1)):
        expected[alive, before:after] = full.scores[alive, before:after]
        totals = full.scores[alive, :after].mean(1)
        before = after
        if left == 1 or totals.max() - totals.min() > 1e-6:  # Kandinsky's first layer sees text alone
            alive = [alive[i] for i in totals.argsort()[:left]]
    raced = [select(pipe, prompt, race=schedule, **settings)]
    raced += [select(pipe, prompt, race=schedule, batch_size=size, **settings) for size in (1, 4)]
    for choice in raced:
        torch.testing.assert_close(choice.scores, expected, rtol=1e-5, atol=1e-9, equal_nan=True)
        assert choice.best == alive[0] and choice.order == raced[0].order
    return raced


def test_a_race_is_exact_whatever_the_batches(pipe_of, family):
    within, single, _ = check_against_all(pipe_of(family), CALLS[family])
    assert "started over" not in within.reason
    layers = len(within.layers)
    # Everyone sees layer 1; started over, those that stay see it again.
    rungs = (*within.race, (layers, 1))
    alive, before, once, again = 6, 0, 0.0, 0.0
    for after, left in rungs:
        once += alive * (after - before) / layers
        again += alive * after / layers
        alive, before = left, after
    assert single.ledger.entries["scoring"] == pytest.approx(again)
    # Blocks of several layers finish with the batch that they began with.
    assert once - 1e-9 <= within.ledger.entries["scoring"] < again


def test_a_block_of_one_layer_costs_what_its_candidates_cost(pipe_of):
    choice = race(pipe_of("cogvideox"), ((1, 4), (2, 2)), **CALL)
    assert choice.ledger.entries == {"scoring": pytest.approx((6 + 4 + 2) / 3)}
    ended = race(pipe_of("cogvideox"), ((1, 4), (2, 1)), **CALL)
    assert ended.ledger.entries == {"scoring": pytest.approx((6 + 4) / 3)}
    assert ended.layers == choice.layers[:2] and ended.scores.shape == (6, 2)
    shares = race(pipe_of("cogvideox"), ((0.3, 4), (0.7, 1)), **CALL)
    assert shares.order == ended.order and shares.race == ((1, 4), (2, 1))


OTHERS = [f for f in FAMILIES if f.name in ("Allegro", "Latte", "SD3", "Stable Diffusion 3", "Kandinsky 5")]


@pytest.mark.parametrize("other", OTHERS, ids=lambda family: family.name)
def test_other_families_race_too(other):
    check_against_all(other.build(), other.call, other.prompt)


def test_a_model_that_folds_its_own_batch_starts_over_and_says_so():
    latte = next(family for family in FAMILIES if family.name == "Latte")
    pipe = latte.build()
    schedule = ((1, 4), (5, 1))
    options = {"candidates": 6, "acquisition": "entropy", "progress": False, **latte.call}
    choice = select(pipe, latte.prompt, race=schedule, **options)
    assert "those that stayed started over, as LatteTransformer3DModel" in choice.reason
    apart = select(pipe, latte.prompt, race=schedule, batch_size=4, **options)
    assert apart.order == choice.order and "started over" not in apart.reason


def test_high_is_raced_from_the_other_end(pipe_of):
    pipe = pipe_of("cogvideox")
    full = race(pipe, None, **CALL)
    choice = race(pipe, ((1, 3), (2, 1)), prefer="high", **CALL)
    three = full.scores[:, 0].argsort(descending=True)[:3]
    assert choice.best == three[full.scores[three, :2].mean(1).argmax()]


def test_the_pipeline_is_bit_equal_afterwards(pipe_of, family):
    pipe, call = pipe_of(family), CALLS[family]
    noise = select(pipe, PROMPT, candidates=1, progress=False, **call).noise
    before = {k: v.clone() for k, v in pipe.components[denoiser(pipe)].state_dict().items()}
    expected = pipe(PROMPT, latents=noise, output_type="latent", **call)[0]
    race(pipe, ((1, 2),), **call)

    class Fails(Entropy):
        def observe(self, call):
            if call.index == 1:
                raise KeyboardInterrupt
            return super().observe(call)

    with pytest.raises(KeyboardInterrupt):
        race(pipe, ((1, 2),), acquisition=Fails(), **call)
    assert torch.equal(pipe(PROMPT, latents=noise, output_type="latent", **call)[0], expected)
    assert all(torch.equal(v, before[k]) for k, v in pipe.components[denoiser(pipe)].state_dict().items())


def denoiser(pipe):
    return "unet" if "unet" in pipe.components else "transformer"


def test_a_record_and_a_report_say_who_left_when(pipe_of, tmp_path):
    choice = race(pipe_of("cogvideox"), ((1, 4), (2, 2)), **CALL)
    assert sorted(choice.dropped, key=str) == [1, 1, 2, 2, None, None]
    assert choice.dropped[choice.best] is None
    seen = [sum(score is not None for score in row) for row in choice.to_dict()["scores"]]
    assert [seen[candidate] for candidate in choice.order] == [3, 3, 2, 2, 1, 1]
    text = choice.save(tmp_path / "race.json").read_text()
    assert "NaN" not in text and json.loads(text)["race"] == [[1, 4], [2, 2]]
    again = Selection.load(tmp_path / "race.json")
    torch.testing.assert_close(again.scores, choice.scores, equal_nan=True)
    assert (again.race, again.dropped, again.order) == (choice.race, choice.dropped, choice.order)
    page = choice.report(tmp_path / "race.html").read_text()
    assert page.count("dropped after layer 1<") == page.count("dropped after layer 2<") == 2
    assert "nan" not in page.lower().replace("dominant", "")
    plain = race(pipe_of("cogvideox"), None, **CALL)
    assert "race" not in plain.to_dict() and plain.dropped == (None,) * 6


def test_totals_are_means_over_the_layers_seen(pipe_of):
    choice = race(pipe_of("cogvideox"), ((1, 4), (2, 2)), **CALL)
    for candidate, total in enumerate(choice.totals.tolist()):
        row = [score for score in choice.scores[candidate].tolist() if not math.isnan(score)]
        assert total == pytest.approx(sum(row) / len(row))


def test_ends_of_a_table():
    scores = torch.tensor([[1.0, 5.0, NAN], [2.0, 3.0, 4.0], [0.5, NAN, NAN], [2.0, 4.0, 2.0]])
    assert standing(scores, "low") == (3, 1, 0, 2)
    assert survivors(scores, [0, 1, 3], (2, 2), "low") == [0, 1]
    assert survivors(scores, [0, 1, 3], (1, 2), "high") == [1, 3]


def test_a_rung_of_ties_drops_nobody():
    scores = torch.tensor([[3.0, 2.0], [3.0, 1.0], [3.0 + 1e-9, 4.0]])
    assert survivors(scores, [0, 1, 2], (1, 2), "low") == [0, 1, 2]
    assert survivors(scores, [0, 1, 2], (1, 1), "low") == [0]
    assert survivors(scores, [0, 1, 2], (2, 2), "low") == [0, 1]


@pytest.mark.parametrize(("layers", "rungs"), [(30, ((3, 2), (14, 1))), (42, ((4, 2), (19, 1)))])
def test_ten_candidates_cost_two_percent_of_fifty_guided_steps(layers, rungs):
    assert budgeted(layers, 10) == rungs
    (first, left), (last, _) = rungs
    within, again = 10 * first + left * (last - first), 10 * first + left * last
    assert within < again <= 0.02 * (2 * 50) * layers


@pytest.mark.parametrize("layers", [12, 20, 57, 120])
@pytest.mark.parametrize("candidates", [2, 3, 4, 7, 33])
def test_the_budget_fits_every_pool(layers, candidates):
    rungs = budgeted(layers, candidates)
    assert planned(rungs, layers, candidates) == rungs and rungs[-1][1] == 1


def test_few_layers_or_one_candidate_do_not_race():
    assert budgeted(11, 10) == () == budgeted(30, 1)


def test_by_default_deep_models_race_unless_something_was_chosen(pipe_of):
    options = {"candidates": 4, "progress": False, **CALLS["sdxl"]}
    pipe = pipe_of("sdxl")  # 16 layers
    choice = select(pipe, PROMPT, **options)
    assert choice.race == ((1, 2), (7, 1)) and "the default for a model" in choice.reason
    assert select(pipe, PROMPT, depth=14, **options).race == ()
    assert select(pipe, PROMPT, layers="self", **options).race == ()
    assert select(pipe, PROMPT, race=None, **options).race == ()
    assert select(pipe, PROMPT, acquisition=Entropy(steps=2), **options).race == ()
    assert select(pipe, PROMPT, acquisition="random", **options).race == ()
    assert select(pipe_of("cogvideox"), PROMPT, candidates=4, progress=False, **CALL).race == ()
    noises = torch.stack([recipe.draw() for recipe in choice.recipes])
    assert score(pipe, PROMPT, noises, progress=False, **CALLS["sdxl"]).order == choice.order


FOUND = Race(((1, 3), (2, 1)), 6, "bansa", (0.03, 0.01, 0.05), 3.0, 100, "regret 3 % at 50 % of the cost")


def test_a_calibrated_race_is_followed(tmp_path):
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    path = save_profile(Profile(create("random"), None, None, None, "why", race=FOUND), tmp_path)
    assert read_profile(path).race == FOUND
    choice = race(pipe, "auto", **CALL)
    assert choice.race == FOUND.schedule and "the profile's" in choice.reason
    # It was measured on all of BANSA's other options, at its own end.
    assert race(pipe, "auto", acquisition=Bansa(rows=4), **CALL).race == FOUND.schedule
    for other in (Bansa(keep=0.5), Entropy()):
        assert race(pipe, "auto", acquisition=other, **CALL).race == ()
    assert race(pipe, "auto", prefer="high", **CALL).race == ()
    assert race(pipe, "auto", depth=2, **CALL).race == ()
    assert race(pipe, ((2, 2),), **CALL).race == ((2, 2),)
    assert race(pipe, "auto", candidates=1, **CALL).race == ()
    assert FOUND.rungs(3, 13) == ((1, 7), (2, 1))
    assert FOUND.rungs(3, 2) == ((2, 1),)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((), "the race is empty"),
        (((1, 3), (1, 2)), "the race's layers must rise from 1, but 1 comes after 1"),
        (((0, 3),), "must rise from 1, but 0"),
        (((4, 3),), "drops candidates after 4 layers, but only 3 are scored"),
        (((1, 6),), "keeps 6 of 6 candidates after 1 layers"),
        (((1, 0),), "keeps 0 of 6"),
        (((1, 2.0),), "cannot read the race"),
        (((1.5, 2),), "cannot read the race"),
        ((3, 2), "cannot read the race"),
        ("fast", "race must be 'auto', None or pairs"),
    ],
)
def test_bad_races_are_refused_in_one_line(pipe_of, schedule, message):
    with pytest.raises(BadInput, match=message) as caught:
        race(pipe_of("cogvideox"), schedule, **CALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("acquisition", ["bansa:steps=2", "bansa-dropout:masks=2", "random"])
def test_functions_that_cannot_race_say_so(pipe_of, acquisition):
    with pytest.raises(BadInput, match="cannot race"):
        race(pipe_of("cogvideox"), ((1, 2),), acquisition=acquisition, **CALL)


def test_the_command_line_names_races():
    assert parsed("3:5,5:2,6:1") == ((3, 5), (5, 2), (6, 1))
    assert parsed("0.1:3,0.5:1") == ((0.1, 3), (0.5, 1))
    assert (parsed("auto"), parsed("off")) == ("auto", None)
    with pytest.raises(BadInput, match="cannot read the race '3-5'"):
        parsed("3-5")


def test_progress_ends_at_the_total_in_a_race(pipe_of):
    for size in (10, 2):
        seen = []
        show = partial(lambda to, *now: to.append(now[1:]), seen)
        race(pipe_of("cogvideox"), ((1, 3),), batch_size=size, **CALL | {"progress": show})
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert {total for _, total in seen} == {(6 + 3 + 3) / 3} and seen[-1][0] == pytest.approx(4)


def test_what_is_not_finite_after_a_drop_is_an_error():
    pipe = BUILDERS["cogvideox"]()
    with torch.no_grad():
        pipe.transformer.transformer_blocks[2].attn1.to_k.weight.fill_(torch.inf)
    with pytest.raises(BadOutput, match=r"at layer transformer_blocks\.2\."):
        race(pipe, ((1, 3),), **CALL)
