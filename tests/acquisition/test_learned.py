"""The learned choice: its arithmetic, its fit, and its place in a selection."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from seedbed import BadInput, BadOutput
from seedbed.acquisition import Learned, RolloutScore, create, resolve
from seedbed.acquisition.learned import RIDGES, fit, standardised
from seedbed.selection.choosing import score, select
from tests.pipelines import CALLS, PROMPT


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def gain(score, outcome):
    """Outcome of each prompt's best-scored noise less the prompt's mean, averaged over prompts."""
    chosen = np.take_along_axis(outcome, score.argmax(1)[:, None], 1)[:, 0]
    return float((chosen - outcome.mean(1)).mean())


def slow_ridge(signals, outcome, ridge):
    """Row by row, and solved as one linear system."""
    rows, values = [], []
    for x, y in zip(signals, outcome, strict=True):
        columns = []
        for column in x.T:
            spread = column.std()
            columns.append((column - column.mean()) / spread if spread > 0 else 0 * column)
        rows += list(np.stack(columns, 1))
        values += list(y - y.mean())
    matrix = np.array(rows)
    penalty = ridge * len(rows) * np.eye(matrix.shape[1])
    return np.linalg.solve(matrix.T @ matrix + penalty, matrix.T @ np.array(values))


def test_a_fit_is_that_of_the_plain_definition():
    signals, outcome = 5 + 3 * drawn(0, 9, 6, 4), drawn(1, 9, 6)
    found = fit(signals, outcome)
    assert np.abs(found.weights - slow_ridge(signals, outcome, found.ridge)).max() < 1e-12


@pytest.mark.parametrize(("prompts", "folds"), [(7, 7), (7, 50), (9, 4)])
def test_each_prompt_is_predicted_by_a_fit_without_its_fold(prompts, folds):
    signals, outcome = drawn(2, prompts, 5, 3), drawn(3, prompts, 5)
    found = fit(signals, outcome, folds=folds)
    part = np.arange(prompts) % min(folds, prompts)
    errors = {}
    for ridge in RIDGES:
        predicted = np.empty_like(outcome)
        for prompt in range(prompts):
            kept = part != part[prompt]
            weights = slow_ridge(signals[kept], outcome[kept], ridge)
            predicted[prompt] = standardised(signals[prompt].T).T @ weights
        errors[ridge] = ((predicted - (outcome - outcome.mean(1, keepdims=True))) ** 2).mean()
        if ridge == found.ridge:
            assert np.abs(found.predicted - predicted).max() < 1e-12
    assert found.ridge == min(errors, key=lambda ridge: errors[ridge])


def test_a_planted_direction_is_found_and_pays_on_new_prompts():
    direction = np.array([1.0, 0.0, -2.0, 0.0, 0.5])
    signals = drawn(4, 200, 12, 5) * [1, 10, 0.1, 5, 2] + [0, 100, 3, -7, 1]
    outcome = standardised(signals.swapaxes(1, 2)).swapaxes(1, 2) @ direction + 2 * drawn(5, 200, 12)
    found = fit(signals[:100], outcome[:100])
    assert np.abs(found.weights - direction).max() < 0.25
    score = standardised(signals[100:].swapaxes(1, 2)).swapaxes(1, 2) @ found.weights
    best, chosen = gain(outcome[100:], outcome[100:]), gain(score, outcome[100:])
    assert 0.5 * best < chosen < best


def test_noise_is_shrunk_to_almost_nothing_and_does_not_pay():
    signals, outcome = drawn(6, 300, 10, 20), drawn(7, 300, 10)
    found = fit(signals[:150], outcome[:150])
    assert found.ridge >= 1
    assert np.abs(found.weights).max() < 0.03
    score = standardised(signals[150:].swapaxes(1, 2)).swapaxes(1, 2) @ found.weights
    # One noise's outcome has deviation 1, the mean over 150 prompts 0.08.
    assert abs(gain(score, outcome[150:])) < 0.25


def test_a_signal_that_does_not_vary_gets_no_weight():
    signals, outcome = drawn(8, 6, 4, 2), drawn(9, 6, 4)
    signals[..., 1] = 0.1 + 0.2
    assert fit(signals, outcome).weights[1] == 0


def test_standardised_values_have_mean_0_and_deviation_1_in_every_pool():
    values = standardised(1e6 + drawn(10, 3, 8))
    assert np.abs(values.mean(1)).max() < 1e-9
    assert values.std(1) == pytest.approx(np.ones(3), rel=1e-9)
    assert standardised(np.full((2, 3), 0.1) * 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert standardised(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def test_a_total_is_the_weighted_sum_of_standardised_signals():
    learned = Learned(coefficients={"entropy/1": -2.0, "guidance_gap": 0.5})
    signals = {"entropy/1": np.array([1.0, 2, 3]), "guidance_gap": np.array([4.0, 4, 4]), "x0_std": [9, 9, 1]}
    unit = np.sqrt(1.5)
    assert learned.total(signals) == pytest.approx([2 * unit, 0, -2 * unit])
    assert (learned.end, learned.options()) == (
        "high",
        {"coefficients": {"entropy/1": -2.0, "guidance_gap": 0.5}, "step": 0, "prefer": None},
    )


def test_the_learned_function_is_nothing_without_coefficients():
    with pytest.raises(BadInput, match="learned needs the coefficients of a calibration"):
        resolve("learned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": {}}, "needs the coefficients"),
        ({"coefficients": [1.0]}, "needs the coefficients"),
        ({"coefficients": {"entropy/0": float("nan")}}, "'entropy/0' must be a finite number"),
        ({"coefficients": {"entropy/0": "1"}}, "'entropy/0' must be a finite number"),
        ({"coefficients": {"entropy/0": 1.0}, "step": -1}, "step must be"),
        ({"coefficients": {"entropy/0": 1.0}, "step": True}, "step must be"),
    ],
)
def test_coefficients_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        create("learned", **options)


@dataclass(frozen=True, kw_only=True)
class Foreseeing(RolloutScore):
    """A function that denoises by itself, here to look at the first step's prediction."""

    name = "foreseeing"
    better = "high"
    answer: torch.Tensor | None = None

    def foresee(self, rollout):
        if self.answer is not None:
            return self.answer
        found = {}

        def look(step, candidates, conditional, unconditional, clean):
            found.update(zip(candidates, conditional.float().flatten(1).std(1), strict=True))

        rollout.advance(1, outputs=look)
        return torch.stack([found[candidate] for candidate in rollout.alive])


@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_a_function_may_run_the_pipeline_itself(pipe_of, batch_size):
    pipe, options = pipe_of("cogvideox"), {"candidates": 3, "progress": False, **CALLS["cogvideox"]}
    choice = select(pipe, PROMPT, acquisition=Foreseeing(), batch_size=batch_size, **options)
    assert choice.best == choice.totals.argmax()
    assert choice.ledger.entries == {"scoring": 6}  # one step each, with guidance
    assert (choice.layers, choice.scores.shape, choice.acquisition) == ((), (3, 0), "foreseeing")
    alone = select(pipe, PROMPT, acquisition=Foreseeing(), **{**options, "candidates": 1})
    assert alone.ledger.total == 0


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
def test_a_candidate_in_a_forward_of_its_own_is_read_alike(pipe_of, family):
    """Which keys are the text's is told by comparing candidates, where a batch has only one too."""
    pipe, options = pipe_of(family), {"candidates": 3, "progress": False, **CALLS[family]}
    weights = {"guidance_gap": 1.0, "text_mass/0": 1.0, "text_mass/1": -2.0, "entropy/1": 0.5}
    if family == "wan":  # which has no joint layers
        weights = {"guidance_gap": 1.0, "entropy/1": 0.5}
    together, alone = (
        select(pipe, PROMPT, acquisition=Learned(coefficients=weights), batch_size=rows, **options)
        for rows in (3, 1)
    )
    assert alone.totals.numpy() == pytest.approx(together.totals.numpy(), abs=1e-3)
    assert alone.ledger.entries["scoring"] == together.ledger.entries["scoring"] == 6
    # Twice as far as the first joint layer of three.
    assert alone.ledger.entries.get("layers", 0) == pytest.approx(2 / 3 if family == "cogvideox" else 0)
    (one,) = score(
        pipe, PROMPT, together.pool[:1], acquisition=Learned(coefficients=weights), progress=False,
        **CALLS[family],
    ).totals  # fmt: skip
    assert one == 0  # a pool of one has no spread


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (torch.zeros(2), BadInput, r"scores of shape \(2,\), not one for each of the 3"),
        (torch.tensor([1, torch.nan, 2]), BadOutput, "foreseeing of candidate 1 is nan"),
    ],
)
def test_what_it_answers_is_checked(pipe_of, answer, error, message):
    with pytest.raises(error, match=message):
        select(
            pipe_of("cogvideox"), PROMPT, acquisition=Foreseeing(answer=answer), candidates=3, progress=False,
            **CALLS["cogvideox"],
        )  # fmt: skip
