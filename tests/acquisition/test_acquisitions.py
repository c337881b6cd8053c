import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

from seedbed import BadInput, NotSupported
from seedbed.acquisition import (
    REGISTRY,
    Acquisition,
    AttentionScore,
    Bansa,
    BansaDropout,
    Entropy,
    Learned,
    NoiseScore,
    Previews,
    Random,
    RolloutScore,
    create,
    resolve,
)
from seedbed.acquisition.sampling import contributions, drawn_seed, mean_over_rows
from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.rows import sample_rows
from tests.acquisition.calls import attention_call, attention_map

PAGE = Path(__file__).parents[2] / "docs" / "selection.md"
# What cannot be made without an option.
NEEDED = {"learned": {"coefficients": {"entropy/0": 1.0}}, "previews": {"verifier": "shapes"}}
SEARCHES = ["random-search", "neighbours", "low-frequencies"]
NEEDED |= {name: {"verifier": "shapes", "budget": 100} for name in SEARCHES}


def test_every_name_makes_the_function_of_that_name():
    assert [create(name, **NEEDED.get(name, {})).name for name in REGISTRY] == list(REGISTRY)


def test_every_name_is_on_the_page():
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted([*REGISTRY, "auto"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BadInput, match=f"'bamsa'.*{', '.join(REGISTRY)} or auto"):
        resolve("bamsa")


def test_options_follow_the_name_after_a_colon():
    assert resolve("bansa:keep=0.5, place=logits,steps=3") == Bansa(keep=0.5, place="logits", steps=3)
    assert resolve("entropy:rows=null,seed=4,prefer=high") == Entropy(rows=None, seed=4, prefer="high")
    assert resolve("bansa:layers=joint,race=[[3,5],[6,1]]") == Bansa(layers="joint", race=[[3, 5], [6, 1]])
    assert resolve('bansa:layers=["self","blocks.0.*"],depth=7') == Bansa(
        layers=["self", "blocks.0.*"], depth=7
    )
    assert resolve("bansa:depth=0.25").depth == 0.25
    assert resolve("previews:verifier=shapes,schedule=[[0.5,1]]") == Previews(
        verifier="shapes", schedule=[[0.5, 1]]
    )
    mine = Bansa(masks=3)
    assert resolve(mine) is mine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "entropy:keep=0.5",
            "entropy has no option 'keep', which is for bansa, bansa-dropout: it has prefer, layers, depth",
        ),
        ("bansa:keep", "write option=value"),
        ("bansa:keep=0", r"keep must be a number in \(0, 1\], not 0"),
        ("bansa:keep=1.5", r"keep must be a number in \(0, 1\]"),
        ("bansa:keep=nan", r"keep must be a number in \(0, 1\]"),
        ("bansa:keep=true", r"keep must be a number in \(0, 1\]"),
        ("bansa:masks=1", "masks must be a whole number of at least 2, not 1"),
        ("bansa:masks=2.5", "masks must be a whole number"),
        ("bansa:place=heads", "place must be 'probabilities' or 'logits', not 'heads'"),
        ("bansa:estimator=guess", "estimator must be 'expected' or 'masked'"),
        ("bansa:rows=0", "rows must be a whole number of at least 1"),
        ("bansa:steps=0", "steps must be a whole number of at least 1"),
        ("bansa-dropout:masks=1", "masks must be a whole number of at least 2"),
        ("bansa-dropout:keep=0", "keep must be"),
        ("bansa:seed=x", "seed must be a whole number of at least 0, not 'x'"),
        ("entropy:seed=-1", "seed must be a whole number"),
        ("bansa-dropout:seed=1.5", "seed must be a whole number"),
        ("random:seed=x", "seed must be a whole number"),
        ("entropy:rows=-1", "rows must be a whole number"),
        ("random:prefer=best", "prefer must be 'low' or 'high', not 'best'"),
        ("entropy:depth=0", "depth must be a whole number of at least 1, not 0"),
        ("entropy:depth=true", "depth must be a whole number"),
        ("entropy:depth=1.5", r"depth must be a number in \(0, 1\], not 1.5"),
        (
            "random:depth=1",
            "random has no option 'depth', which is for entropy, bansa, bansa-dropout: it has prefer, seed",
        ),
        ("previews", "previews needs verifier: write previews:verifier=..."),
        ("previews:verifier=os.system", "there is no verifier 'os.system'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        resolve(text)
    assert "\n" not in str(caught.value)


def test_something_that_is_no_acquisition_is_refused():
    with pytest.raises(BadInput, match="not float"):
        resolve(0.2)


def test_options_are_what_makes_the_function_again():
    for function in (
        Bansa(keep=0.5, rows=4),
        Bansa(masks=3, prefer="high", layers=["self"], depth=2, race=((1, 2),)),
        Entropy(steps=2),
        BansaDropout(),
        Random(seed=3),
        Learned(**NEEDED["learned"], step=2),
    ):
        assert create(function.name, **function.options()) == function
        with pytest.raises(dataclasses.FrozenInstanceError):
            function.prefer = "low"
    assert Acquisition().options() == {"prefer": None}
    with pytest.raises(TypeError):
        Bansa("expected")


def test_the_papers_functions_prefer_low_until_they_are_told_otherwise():
    ends = {name: kind.better for name, kind in REGISTRY.items()}
    assert [name for name, end in ends.items() if end == "high"] == ["learned", "previews", *SEARCHES]
    for name in ("random", "entropy", "bansa", "bansa-dropout"):
        assert (create(name).end, create(name, prefer="high").end) == ("low", "high")
    assert Previews(verifier="shapes", prefer="low").end == "low"


@pytest.mark.parametrize(
    ("base", "lacks"),
    [
        (Acquisition, "score"),
        (NoiseScore, "judge"),
        (AttentionScore, "observe"),
        (RolloutScore, "foresee"),
    ],
)
def test_a_function_that_implements_nothing_says_what_it_lacks(base, lacks):
    class Mine(base):
        pass

    call = {"judge": [None], "foresee": [None], "score": [None, None]}.get(lacks)
    with pytest.raises(NotImplementedError, match=f"Mine does not implement {lacks}"):
        getattr(Mine(), lacks if call else "observe")(*(call or [None]))


def test_entropy_is_the_mean_over_heads_and_rows():
    call = attention_call(candidates=3, fold=2, rows=5, keys=7, sharpness=2.0)
    rows = -torch.special.xlogy(attention_map(call), attention_map(call)).sum(-1)
    expected = rows.view(3, -1).mean(1)
    torch.testing.assert_close(Entropy().observe(call).mean(1), expected, atol=1e-6, rtol=1e-6)


def test_entropy_looks_at_the_sampled_rows_only():
    call = attention_call(rows=9)
    chosen = sample_rows(9, 4, drawn_seed(call, 2))
    entropies = -torch.special.xlogy(attention_map(call), attention_map(call)).sum(-1)
    expected = entropies[:, :, chosen].mean((1, 2))
    torch.testing.assert_close(Entropy(rows=4, seed=2).observe(call).mean(1), expected, atol=1e-6, rtol=1e-6)
    assert (expected - entropies.mean((1, 2))).abs().min() > 1e-4


@pytest.mark.parametrize("place", ["probabilities", "logits"])
def test_bansa_hands_its_options_on(place):
    call = attention_call(candidates=2, fold=2, rows=8, keys=8)
    options = dict(masks=4, keep=0.5, place=place)
    rows = sample_rows(8, 5, drawn_seed(call, 3))
    given = dict(scale=call.scale, mask=None, causal=False, rows=rows, **options)
    expected = bansa_expected(call.query, call.key, **given).double().view(2, -1).mean(1)
    torch.testing.assert_close(Bansa(rows=5, seed=3, **options).observe(call).mean(1), expected)

    function = Bansa(estimator="masked", rows=5, seed=3, **options)
    masked = (
        bansa_masked(call.query, call.key, seed=drawn_seed(call, 3), **given).double().view(2, -1).mean(1)
    )
    torch.testing.assert_close(function.observe(call).mean(1), masked)
    assert (masked - expected).abs().min() > 1e-6


def test_masks_and_rows_differ_between_layers_evaluations_and_seeds():
    calls = [attention_call(index=index, step=step) for index in range(3) for step in range(2)]
    seeds = {drawn_seed(call, seed) for call in calls for seed in (0, 1)}
    assert len(seeds) == 12


def test_random_depends_on_the_noise_and_its_seed_alone():
    noises = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    numbers = Random().judge(noises)
    assert len(set(numbers.tolist())) == 5
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert torch.equal(Random().judge(noises.flip(0)), numbers.flip(0))
    assert torch.equal(Random().judge(noises[2:3]), numbers[2:3])
    assert not torch.equal(Random(seed=1).judge(noises), numbers)


def test_random_is_uniform():
    numbers = Random().judge(torch.arange(4000.0)[:, None])
    # Four standard errors of the mean and of the variance of a uniform number.
    assert abs(numbers.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / 4000)
    assert abs(numbers.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / 4000)


def padded(candidates, rows, keys):
    """Candidate 0 sees all keys, candidate 1 only the first four."""
    mask = torch.ones(candidates, 1, rows, keys, dtype=torch.bool)
    mask[1, ..., 4:] = False
    return mask


def test_padded_rows_do_not_count_in_self_attention():
    full = padded(2, 1, 6)
    call = attention_call(mask=full, kind="joint")
    values = torch.arange(24.0).view(2, 2, 6)
    assert mean_over_rows(call, values).tolist() == [values[0].mean().item(), values[1, :, :4].mean().item()]
    additive = attention_call(mask=torch.where(full, -3.5, -10000.0), kind="joint")
    assert torch.equal(mean_over_rows(additive, values), mean_over_rows(call, values))
    # The same mask, written out for every row.
    whole = attention_call(mask=padded(2, 6, 6), kind="joint")
    assert torch.equal(mean_over_rows(whole, values), mean_over_rows(call, values))
    some = torch.tensor([1, 5])
    assert mean_over_rows(call, values[..., some], some).tolist() == [
        values[0][:, some].mean().item(),
        values[1, :, 1].mean().item(),
    ]


def test_the_parts_of_the_rows_have_the_score_as_their_mean():
    some = torch.tensor([0, 3, 5])
    values = torch.rand(4, 2, 6, generator=torch.Generator().manual_seed(0))
    for call in (
        attention_call(candidates=2, fold=2, mask=padded(4, 1, 6), kind="joint"),
        attention_call(candidates=2, fold=2),
    ):
        parts = contributions(call, values[..., some], some)
        assert parts.shape == (2, 3)
        torch.testing.assert_close(parts.mean(1), mean_over_rows(call, values[..., some], some))


def test_the_parts_of_equal_rows_are_equal():
    """Padding adds nothing to their spread, from which the confidence of a choice comes."""
    call = attention_call(mask=padded(2, 1, 6), kind="joint")
    parts = contributions(call, torch.full((2, 2, 6), 3.0))
    torch.testing.assert_close(parts, torch.full((2, 6), 3.0, dtype=torch.float64))


def test_padded_keys_of_another_sequence_leave_all_rows():
    values = torch.arange(24.0).view(2, 2, 6)
    call = attention_call(mask=padded(2, 1, 6), kind="cross")
    assert torch.equal(mean_over_rows(call, values), values.double().mean((1, 2)))


def test_rows_without_any_key_do_not_count():
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, :, 2:] = False
    values = torch.arange(24.0).view(2, 2, 6)
    values[1, :, 2:] = torch.nan
    assert mean_over_rows(attention_call(mask=mask), values)[1] == pytest.approx(15.5)


def dropped_maps(call, function):
    """The kept entries, by one draw of all rows at once: (copies, heads, rows, keys)."""
    generator = torch.Generator().manual_seed(function.seed * 1_000_003 + call.step * 10_007 + call.index)
    shape = (call.query.shape[2], function.masks, call.query.shape[1], call.key.shape[2])
    return (torch.rand(shape, generator=generator) < function.keep).permute(1, 2, 0, 3)


@pytest.mark.parametrize(
    "options",
    [{}, {"fold": 3}, {"kv_heads": 1}, {"causal": True}, {"rows": 5, "keys": 9, "kind": "cross"}],
    ids=str,
)
def test_dropout_scores_and_answers_as_written_out(options, monkeypatch):
    function = BansaDropout(masks=3, keep=0.6, seed=5)
    call = attention_call(candidates=6, index=2, **options)
    fold = options.get("fold", 1)
    kept = dropped_maps(call, function).double()
    maps = attention_map(call).unflatten(0, (2, 3, fold)) * kept[None, :, None]
    empty = maps.sum(-1, keepdim=True) == 0
    maps = torch.where(empty, attention_map(call).unflatten(0, (2, 3, fold)), maps)
    rows = maps / maps.sum(-1, keepdim=True)
    entropy = lambda p: -torch.special.xlogy(p, p).sum(-1)  # noqa: E731
    expected = (entropy(rows.mean(1)) - entropy(rows).mean(1)).flatten(1).mean(1)
    value = call.value.double().repeat_interleave(2 // call.value.shape[1], 1)
    answer = (maps / 0.6).flatten(0, 2) @ value

    scores, output = function.attend(call)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.double(), answer, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("seedbed.acquisition.bansa._CHUNK", 1)
    chunked, same = function.attend(call)
    torch.testing.assert_close(chunked, scores)
    torch.testing.assert_close(same, output)


def test_dropout_of_nothing_is_the_models_own_attention():
    mask = padded(2, 1, 6).repeat_interleave(2, 0)
    for call in (attention_call(candidates=4), attention_call(candidates=4, mask=mask, kind="joint")):
        # The copies of a candidate are equal until dropout tells them apart.
        call.query = call.query[::2].repeat_interleave(2, 0)
        call.key = call.key[::2].repeat_interleave(2, 0)
        scores, output = BansaDropout(masks=2, keep=1.0).attend(call)
        torch.testing.assert_close(output, call.output())
        torch.testing.assert_close(scores, torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
        assert BansaDropout(masks=2, keep=0.5).attend(call)[0].min() > 0.01


@pytest.mark.parametrize("masked", [False, True])
def test_dropout_of_a_value_that_is_not_finite_is_not(masked):
    mask = torch.ones(10, 1, 1, 6, dtype=torch.bool) if masked else None
    call = attention_call(candidates=10, mask=mask, kind="cross")
    call.query[-1, 0, 2, 1] = torch.nan
    scores, output = BansaDropout().attend(call)
    assert scores.isnan().tolist() == [True]
    assert output[-1, 0, 2].isnan().all()


def test_dropout_runs_as_many_copies_as_masks():
    assert BansaDropout(masks=7).copies == 7


def test_dropout_refuses_a_split_batch():
    with pytest.raises(NotSupported, match="splits its batch"):
        call = attention_call(candidates=2)
        BansaDropout(masks=2).attend(dataclasses.replace(call, candidates=3))


@pytest.mark.parametrize("name", REGISTRY)
def test_an_option_that_a_function_lacks_is_never_ignored(name):
    """Every option of every function: its own, or an error that says whose it is."""
    fields = {kind: {field.name for field in dataclasses.fields(found)} for kind, found in REGISTRY.items()}
    for option in set().union(*fields.values()) - fields[name]:
        owners = ", ".join(kind for kind, its in fields.items() if option in its)
        with pytest.raises(
            BadInput, match=rf"^{name} has no option '{option}', which is for {owners}: it has "
        ):
            resolve(f"{name}:{option}=1")
