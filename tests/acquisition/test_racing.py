"""Races over layers: the same choice in every batch, exact scores for those who stay, an honest ledger."""

import json
import math
from functools import partial

import pytest
import torch

from seedbed import BadInput, BadOutput, Selection
from seedbed.acquisition import Bansa, BansaDropout, Entropy
from seedbed.halving import planned
from seedbed.selection.choosing import score, select
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT

CALL = CALLS["cogvideox"]
NAN = math.nan


def race(pipe, schedule, kind=Bansa, **options):
    settings = {name: options.pop(name) for name in ("prefer", "layers", "steps", "rows") if name in options}
    function = kind(depth=options.pop("depth", None), race=schedule, **settings)
    return select(pipe, PROMPT, acquisition=function, **{"candidates": 6, "progress": False, **options})


def check_against_all(pipe, call, prompt=PROMPT, **options):
    """A race against the table without one: in one forward, and in forwards of their own."""
    settings = {"candidates": 6, "progress": False, **call, **options}
    full = select(pipe, prompt, acquisition=Bansa(depth=None), **settings)
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
    settings["acquisition"] = Bansa(depth=None, race=schedule)
    raced = [select(pipe, prompt, **settings)]
    raced += [select(pipe, prompt, batch_size=size, **settings) for size in (1, 4)]
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
    function = Entropy(race=((1, 4), (5, 1)))
    options = {"candidates": 6, "acquisition": function, "progress": False, **latte.call}
    choice = select(pipe, latte.prompt, **options)
    assert "those that stayed started over, as LatteTransformer3DModel" in choice.reason
    apart = select(pipe, latte.prompt, batch_size=4, **options)
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
        race(pipe, ((1, 2),), Fails, **call)
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


@pytest.mark.parametrize(("layers", "rungs"), [(30, ((3, 2), (14, 1))), (42, ((4, 2), (19, 1)))])
def test_ten_candidates_cost_two_percent_of_fifty_guided_steps(layers, rungs):
    assert planned(((0.1, 0.2), (0.46, 1)), layers, 10) == rungs
    (first, left), (last, _) = rungs
    within, again = 10 * first + left * (last - first), 10 * first + left * last
    assert within < again <= 0.02 * (2 * 50) * layers


def test_nothing_races_unless_it_is_asked_to(pipe_of):
    options = {"candidates": 4, "progress": False, **CALLS["sdxl"]}
    pipe = pipe_of("sdxl")  # 16 layers
    for acquisition in ("auto", "bansa", "entropy", "random"):
        assert select(pipe, PROMPT, acquisition=acquisition, **options).race == ()
    choice = select(pipe, PROMPT, acquisition="bansa:depth=null,race=[[0.1,0.2],[0.46,1]]", **options)
    assert choice.race == ((2, 1),) and "raced over layers: 1 after 2 stays" in choice.reason
    assert race(pipe, ((0.1, 0.2), (0.46, 1)), candidates=1, **CALLS["sdxl"]).race == ()
    noises = torch.stack([recipe.draw() for recipe in choice.recipes])
    again = score(
        pipe, PROMPT, noises, acquisition=Bansa(depth=None, race=((2, 1),)), progress=False, **CALLS["sdxl"]
    )
    assert again.order == choice.order


def test_shares_race_over_the_layers_that_are_scored(pipe_of):
    options = {"candidates": 6, "depth": 0.5, **CALLS["sdxl"]}  # 8 of 16 layers
    choice = race(pipe_of("sdxl"), ((0.25, 0.5), (0.5, 1)), **options)
    assert choice.race == ((2, 3), (4, 1)) and len(choice.layers) == 4
    assert choice.options["race"] == [[0.25, 0.5], [0.5, 1]]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((), "the schedule is empty"),
        (((1, 3), (1, 2)), "the schedule's layers must rise from 1, but 1 comes after 1"),
        (((0, 3),), "must rise from 1, but 0"),
        (((4, 3),), "drops candidates after 4 layers, but there are only 3"),
        (((1, 6),), "keeps 6 of 6 candidates after 1 layers"),
        (((1, 0),), "keeps 0 candidates after 1 layers"),
        (((1, 2.0),), "cannot read the schedule"),
        (((1.5, 2),), "cannot read the schedule"),
        ((3, 2), "cannot read the schedule"),
        ("fast", "cannot read the schedule 'fast'"),
    ],
)
def test_bad_races_are_refused_in_one_line(pipe_of, schedule, message):
    with pytest.raises(BadInput, match=message) as caught:
        race(pipe_of("cogvideox"), schedule, **CALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [partial(Bansa, steps=2), partial(BansaDropout, masks=2)])
def test_functions_that_cannot_race_say_so(make):
    with pytest.raises(BadInput, match="cannot race with several steps or copies"):
        make(race=((1, 2),))


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
