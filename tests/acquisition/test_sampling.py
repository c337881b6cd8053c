"""A sample of the rows: what it says of its own certainty holds, and where it cannot tell, it looks again."""

import math
from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console

from seedbed import Selection
from seedbed.attention.rows import sample_rows
from seedbed.cli.tables import print_summary
from seedbed.selection import Acquisition, Bansa, Entropy, select
from seedbed.selection.confidence import SURE, Look, doubt, tell_apart
from tests.pipelines import CALLS, PROMPT, cogvideox, wan

# 768 tokens in each self-attention, in place of the 12 of other tests.
CALL = CALLS["wan"] | {"height": 128, "width": 128}


@pytest.fixture(scope="module")
def pipe():
    return wan()


def choose(pipe, rows, seed=0, **options):
    options = {"candidates": 4, "acquisition": Entropy(rows=rows, seed=seed), "layers": "self", **options}
    return select(pipe, PROMPT, progress=False, **CALL, **options)


@pytest.fixture(scope="module")
def exact(pipe):
    return choose(pipe, None)


def drawn(table, near, rows, seed):
    """Scores and looks of some candidates from (candidates, layers, rows), as sampled rows give them."""
    parts = [sample_rows(table.shape[2], rows, seed * 1_000_003 + layer) for layer in range(table.shape[1])]
    values = [table[near, i] if some is None else table[near, i][:, some] for i, some in enumerate(parts)]
    sampled = [(part, some is not None) for part, some in zip(values, parts, strict=True)]
    looks = [Look([(part[i], table.shape[2]) for part, few in sampled if few]) for i in range(len(near))]
    return torch.stack([part.mean(1) for part in values], 1), looks


def test_the_stated_share_of_choices_is_that_of_all_rows(pipe, exact):
    kept = []

    class Keeping(Entropy):
        def by_row(self, call):
            kept.append(super().by_row(call))
            return kept[-1]

    choose(pipe, None, acquisition=Keeping(rows=None))
    table = torch.stack(kept, 1)
    assert table.shape == (4, 2, 768)
    torch.testing.assert_close(table.mean(2), exact.scores)
    for rows in (16, 64):
        right, stated, again = [], [], []
        for seed in range(300):
            scores, looks = drawn(table, [0, 1, 2, 3], rows, seed)
            times = torch.zeros(4)
            more = partial(lambda seed, near, rows: drawn(table, near, rows, seed), seed)
            stated.append(tell_apart([0, 1, 2, 3], scores, looks, times, rows, more, "low"))
            right.append(min(range(4), key=lambda i: (-times[i], scores[i].mean())) == exact.best)
            again.append(times.max() > 0)
        assert min(stated) >= SURE and any(again)
        # Looking until it is sure makes it a little too sure, and 300 draws have an error of their own.
        assert sum(right) / 300 >= SURE - 3 * math.sqrt(SURE * (1 - SURE) / 300)


def rivals(doubts):
    """One layer's scores and looks of a leader, 0, and of rivals with these doubts about it."""
    gaps = torch.tensor([0.0, *(-math.sqrt(2) * torch.erfinv(2 * torch.tensor(d) - 1) for d in doubts)])
    # Differences of variance 4 over 4 of a great many rows: a standard error of 1.
    spread = math.sqrt(3) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    looks = [Look([(spread * min(i, 1), 10**9)]) for i in range(len(gaps))]
    return gaps[:, None].double(), looks


def test_only_rivals_in_doubt_are_seen_again_and_what_is_set_aside_still_counts():
    scores, looks = rivals([0.3, 0.004, 0.012])
    asked, times = [], torch.zeros(4)

    def again(near, rows):
        asked.append((near, rows))
        return scores[near], [Look() for _ in near]

    confidence = tell_apart([0, 1, 2, 3], scores, looks, times, 4, again, "low")
    # Of the 5 % at most half goes to those set aside, in equal parts: 0.8 % for each of three.
    assert asked == [([0, 1, 3], 16)] and times.tolist() == [1, 1, 0, 1]
    assert confidence == pytest.approx(1 - 0.004, abs=1e-5)


def test_scores_of_several_evaluations_are_their_means():
    scores, looks = rivals([0.3])
    for look in looks:
        look.layers *= 2
    confidence = tell_apart([0, 1], scores, looks, torch.zeros(2), None, None, "low", evaluations=2)
    # Twice the gap, at the square root of two times its error.
    assert confidence == pytest.approx(1 - math.erfc(2 * float(scores[1]) / 2) / 2, abs=1e-5)


def test_a_choice_is_sure_and_says_how(pipe, exact):
    choice = choose(pipe, 32)
    assert SURE <= choice.confidence <= 1 and choice.best == exact.best


def test_more_rows_end_at_the_exact_answer(pipe, exact):
    assert exact.confidence == 1 and "more rows" not in exact.ledger.entries
    enough = choose(pipe, 768)
    assert enough.confidence == 1 and torch.equal(enough.scores, exact.scores)


def test_the_choice_does_not_hang_on_the_batch(pipe):
    whole = choose(pipe, 8, batch_size=4)
    assert whole.ledger.entries["more rows"] > 0
    for size in (1, 3):
        other = choose(pipe, 8, batch_size=size)
        assert other.order == whole.order
        torch.testing.assert_close(other.scores, whole.scores, rtol=1e-5, atol=0)
        assert other.confidence == pytest.approx(whole.confidence, abs=1e-4)
        assert other.ledger.entries == pytest.approx(whole.ledger.entries)


def test_a_second_look_is_paid_for(pipe):
    again = choose(pipe, 8).ledger.entries["more rows"]
    # The leader and a rival at least, down to the last self-attention of four layers.
    assert again >= 2 * 3 / 4 and again / (3 / 4) == pytest.approx(round(again / (3 / 4)))


def test_a_race_says_how_sure_it_is_and_leaves_it_at_that(pipe, tmp_path):
    choice = choose(pipe, 8, layers=None, race=((1, 3),))
    assert choice.ledger.entries.keys() == {"scoring"}
    assert 0 <= choice.confidence < 1
    exact = choose(pipe, None, layers=None, race=((1, 3),))
    assert exact.confidence == 1
    said = f"{choice.confidence:.0%} sure"
    for selection, expected in ((choice, True), (exact, False)):
        lines = Console(file=StringIO(), width=300)
        print_summary(lines, selection.to_dict(), {})
        page = selection.report(tmp_path / "page.html").read_text()
        assert (said in lines.file.getvalue()) == ("% that all rows would choose it" in page) == expected


def test_a_record_keeps_the_confidence(pipe, exact, tmp_path):
    choice = choose(pipe, 256)
    assert SURE <= choice.confidence <= 1
    assert Selection.load(choice.save(tmp_path / "a.json")).confidence == choice.confidence
    random = select(pipe, PROMPT, candidates=2, acquisition="random", progress=False, **CALL)
    assert random.confidence is None and "confidence" not in random.to_dict()


def test_functions_without_rows_of_their_own_have_no_confidence(pipe):
    class Whole(Acquisition):
        name = "whole"

        def observe(self, call):
            return call.by_candidate(call.query)

    assert choose(pipe, None, acquisition=Whole()).confidence is None

    class Mine(Entropy):
        def observe(self, call):
            return call.by_candidate(call.query)

    mine = choose(pipe, None, acquisition=Mine(rows=4))
    assert mine.confidence is None
    assert torch.equal(mine.scores, choose(pipe, None, acquisition=Whole()).scores)


def test_layers_have_rows_of_their_own(pipe):
    rows = []

    class Seen(Bansa):
        def by_row(self, call):
            from seedbed.selection.rows import drawn_rows

            rows.append(drawn_rows(call, self.rows, self.seed))
            return super().by_row(call)

    choose(pipe, None, acquisition=Seen(rows=700), candidates=2)
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
        looks = [Look([(layer[some], 60) for layer in candidate]) for candidate in population]
        sums = population[:, :, some].mean(2).sum(1)
        first = int(sums[1] < sums[0])
        chance = doubt(float((sums[0] - sums[1]).abs()), looks[first], looks[1 - first])
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


def test_doubt_by_hand():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([2.0, 2.0, 5.0, 7.0])
    # Differences -1, 0, -2, -1: variance 2/3; standard error sqrt(2/3/4 * (1 - 4/10)).
    gap, error = 1.0, math.sqrt(2 / 3 / 4 * 0.6)
    chance = doubt(gap, Look([(ours, 10)]), Look([(theirs, 10)]))
    assert chance == pytest.approx(0.5 * math.erfc(gap / error / math.sqrt(2)))
    assert doubt(0.0, Look(), Look()) == 0
    assert doubt(1.0, Look([(ours[:1], 10)]), Look([(theirs[:1], 10)])) == 0.5


def test_rivals_that_are_told_apart_are_left_alone():
    scores = torch.tensor([[1.0], [1.001], [9.0]])
    noise = torch.randn(8, generator=torch.Generator().manual_seed(0))
    looks = [Look([(score + place * 0.01 * noise, 100)]) for place, score in enumerate(scores)]
    asked = []

    def again(near, rows):
        asked.append((near, rows))
        return torch.tensor([[1.0], [0.9]]), [Look(), Look()]

    times = torch.zeros(3)
    confidence = tell_apart([0, 1, 2], scores, looks, times, 8, again, "low")
    assert asked == [([0, 1], 32)] and times.tolist() == [1, 1, 0]
    assert confidence > 0.999 and scores[1, 0] < scores[0, 0]


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
