"""A sample of the rows: what it says of its own certainty holds."""

import math

import pytest
import torch

from seedbed import Selection
from seedbed.acquisition import AttentionScore, Bansa, Entropy
from seedbed.acquisition.sampling import confidence, drawn_rows
from seedbed.attention.rows import sample_rows
from seedbed.selection.choosing import select
from tests.pipelines import CALLS, PROMPT, cogvideox, wan

# 768 tokens in each self-attention, in place of the 12 of other tests.
CALL = CALLS["wan"] | {"height": 128, "width": 128}


@pytest.fixture(scope="module")
def pipe():
    return wan()


def choose(pipe, rows, seed=0, kind=Entropy, layers="self", race=None, **options):
    function = kind(rows=rows, seed=seed, layers=layers, race=race)
    return select(
        pipe, PROMPT, **{"candidates": 4, "acquisition": function, "progress": False, **CALL, **options}
    )


@pytest.fixture(scope="module")
def exact(pipe):
    return choose(pipe, None)


def drawn(table, rows, seed):
    """Sums of scores and samples of candidates from (candidates, layers, rows), as sampled rows give them."""
    parts = [sample_rows(table.shape[2], rows, seed * 1_000_003 + layer) for layer in range(table.shape[1])]
    values = [table[:, layer, some] for layer, some in enumerate(parts)]
    samples = [[(part[i], table.shape[2]) for part in values] for i in range(len(table))]
    return torch.stack([part.mean(1) for part in values], 1).sum(1), samples


def test_the_stated_share_of_choices_is_that_of_all_rows(pipe, exact):
    kept = []

    class Keeping(Entropy):
        def observe(self, call):
            kept.append(super().observe(call))
            return kept[-1]

    choose(pipe, None, kind=Keeping)
    table = torch.stack(kept, 1)
    assert table.shape == (4, 2, 768)
    torch.testing.assert_close(table.mean(2), exact.scores)
    for rows in (16, 64, 256):
        right, stated = [], []
        for seed in range(300):
            totals, samples = drawn(table, rows, seed)
            order = totals.argsort().tolist()
            stated.append(confidence(order, totals, samples))
            right.append(order[0] == exact.best)
        # A bound over three rivals says too little rather than too much, 300 draws have an error of their
        # own, and a leader in the sample is a little ahead of what it is.
        share, said = sum(right) / 300, sum(stated) / 300
        assert share >= said - 3 * math.sqrt(0.25 / 300), rows


def rivals(doubts):
    """The totals and samples, of one layer, of a leader, 0, and of rivals with these doubts about it."""
    gaps = torch.tensor([0.0, *(-math.sqrt(2) * torch.erfinv(2 * torch.tensor(d) - 1) for d in doubts)])
    # Differences of variance 4 over 4 of a great many rows: a standard error of 1.
    spread = math.sqrt(3) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    return gaps.double(), [[(spread * min(i, 1), 10**9)] for i in range(len(gaps))]


def test_the_doubts_about_all_rivals_add_up():
    totals, samples = rivals([0.3, 0.004, 0.012])
    assert confidence([0, 2, 3, 1], totals, samples) == pytest.approx(1 - 0.316, abs=1e-5)
    assert confidence([0, 2], totals, samples) == pytest.approx(1 - 0.004, abs=1e-5)
    assert confidence([0], totals, samples) == 1
    totals, samples = rivals([0.5, 0.5, 0.5])
    assert confidence([0, 1, 2, 3], totals, samples) == 0


def test_layers_and_evaluations_are_drawn_independently():
    totals, samples = rivals([0.3])
    for sample in samples:
        sample.extend(list(sample))
    # Twice the gap, at the square root of two times its error.
    expected = 1 - math.erfc(2 * float(totals[1]) / 2) / 2
    assert confidence([0, 1], 2 * totals, samples) == pytest.approx(expected, abs=1e-5)


def test_a_choice_says_how_sure_it_is(pipe, exact):
    for rows, least in ((32, 0.2), (767, 0.95)):
        choice = choose(pipe, rows)
        assert least <= choice.confidence <= 1
        assert choice.confidence < 0.95 or choice.best == exact.best
        assert choice.ledger.entries == exact.ledger.entries


def test_a_mean_of_several_evaluations_is_surer(pipe):
    """By the sums over evaluations, as each draws rows of its own."""
    one, two = (
        choose(pipe, None, acquisition=Entropy(rows=64, layers="self", steps=steps)) for steps in (1, 2)
    )
    kept = []

    class Keeping(Entropy):
        def observe(self, call):
            kept.append(super().observe(call))
            return kept[-1]

    again = choose(pipe, None, acquisition=Keeping(rows=64, layers="self", steps=2))
    assert len(kept) == 4 and torch.equal(again.scores, two.scores)
    samples = [[(rows[i], 768) for rows in kept] for i in range(4)]
    totals = torch.stack([rows.mean(1) for rows in kept]).sum(0)
    assert two.confidence == pytest.approx(confidence(two.order, totals, samples), abs=1e-9)
    assert one.confidence != two.confidence


def test_more_rows_end_at_the_exact_answer(pipe, exact):
    assert exact.confidence == 1
    enough = choose(pipe, 768)
    assert enough.confidence == 1 and torch.equal(enough.scores, exact.scores)


def test_the_choice_does_not_hang_on_the_batch(pipe):
    whole = choose(pipe, 8, batch_size=4)
    assert whole.confidence < 1
    for size in (1, 3):
        other = choose(pipe, 8, batch_size=size)
        assert other.order == whole.order
        torch.testing.assert_close(other.scores, whole.scores, rtol=1e-5, atol=0)
        assert other.confidence == pytest.approx(whole.confidence, abs=1e-4)
        assert other.ledger.entries == pytest.approx(whole.ledger.entries)


def test_a_race_says_how_sure_its_last_heat_is(pipe, tmp_path):
    choice = choose(pipe, 8, layers=None, race=((1, 3),))
    assert choice.ledger.entries.keys() == {"scoring"}
    assert 0 <= choice.confidence < 1
    exact = choose(pipe, None, layers=None, race=((1, 3),))
    assert exact.confidence == 1
    for selection, expected in ((choice, True), (exact, False)):
        page = selection.report(tmp_path / "page.html").read_text()
        assert ("% that all rows would choose it" in page) == expected


def test_a_record_keeps_the_confidence(pipe, exact, tmp_path):
    choice = choose(pipe, 256)
    assert 0 < choice.confidence < 1
    assert Selection.load(choice.save(tmp_path / "a.json")).confidence == choice.confidence
    random = select(pipe, PROMPT, candidates=2, acquisition="random", progress=False, **CALL)
    assert random.confidence is None and "confidence" not in random.to_dict()


def test_functions_without_rows_of_their_own_have_no_confidence(pipe):
    class Whole(AttentionScore):
        name = "whole"

        def observe(self, call):
            return call.by_candidate(call.query)

    assert choose(pipe, None, acquisition=Whole(layers="self")).confidence is None

    class Mine(Entropy):
        def observe(self, call):
            return call.by_candidate(call.query)

    mine = choose(pipe, None, acquisition=Mine(rows=4, layers="self"))
    assert mine.confidence is None
    assert torch.equal(mine.scores, choose(pipe, None, acquisition=Whole(layers="self")).scores)


def test_layers_have_rows_of_their_own(pipe):
    rows = []

    class Seen(Entropy):
        def observe(self, call):
            rows.append(drawn_rows(call, self.rows, self.seed))
            return super().observe(call)

    choose(pipe, 700, kind=Seen, candidates=2)
    assert len(rows) == 2 and not torch.equal(*rows)


def test_doubts_are_as_often_right_as_they_say():
    """Populations of 60 rows, a gap from a flat prior, 20 rows drawn of each of two layers."""
    draw = torch.Generator().manual_seed(0)
    bins = {0.02: [], 0.1: [], 0.3: []}
    for _ in range(4000):
        population = torch.randn(2, 2, 60, generator=draw, dtype=torch.float64)
        # The gap is spread much wider than the error of its estimate.
        population[0] += 4 * torch.rand(1, generator=draw, dtype=torch.float64) - 2
        some = torch.randperm(60, generator=draw)[:20]
        samples = [[(layer[some], 60) for layer in candidate] for candidate in population]
        sums = population[:, :, some].mean(2).sum(1)
        first = int(sums[1] < sums[0])
        chance = 1 - confidence([first, 1 - first], sums, samples)
        wrong = population.mean(2).sum(1).argmin() != first
        for edge, found in bins.items():
            if chance <= edge:
                found.append((chance, bool(wrong)))
                break
    for edge, found in bins.items():
        stated = sum(chance for chance, _ in found) / len(found)
        happened = sum(wrong for _, wrong in found) / len(found)
        error = math.sqrt(max(stated, 1e-3) / len(found))
        assert abs(happened - stated) < 3 * error + 0.1 * stated, edge


def test_confidence_by_hand():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([2.0, 2.0, 5.0, 7.0])
    # Differences -1, 0, -2, -1: variance 2/3; standard error sqrt(2/3/4 * (1 - 4/10)).
    gap, error = 1.0, math.sqrt(2 / 3 / 4 * 0.6)
    totals = torch.tensor([0.0, gap])
    found = confidence([0, 1], totals, [[(ours, 10)], [(theirs, 10)]])
    assert found == pytest.approx(1 - 0.5 * math.erfc(gap / error / math.sqrt(2)))
    assert confidence([0, 1], torch.zeros(2), [[], []]) == 1
    # One row says nothing of a spread.
    assert confidence([0, 1], totals, [[(ours[:1], 10)], [(theirs[:1], 10)]]) == 0.5


def test_a_forward_that_ran_out_of_memory_leaves_nothing_behind():
    """In the second of two evaluations, when the first was scored: the batch is halved and starts over."""
    pipe = cogvideox()
    function = Bansa(rows=8, steps=2)
    options = {"candidates": 4, "acquisition": function, "progress": False, **CALLS["cogvideox"]}
    expected = select(pipe, PROMPT, batch_size=2, **options)
    whole = []

    def run_out(module, args, kwargs):
        whole.extend([0] * (len(kwargs["hidden_states"]) == 4))
        if len(whole) == 2:
            whole.append(0)
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.transformer.register_forward_pre_hook(run_out, with_kwargs=True)
    choice = select(pipe, PROMPT, **options)
    assert len(whole) >= 3
    torch.testing.assert_close(choice.scores, expected.scores, rtol=1e-5, atol=0)
    assert choice.order == expected.order
    assert choice.confidence == pytest.approx(expected.confidence, abs=1e-4)
