"""What is made of measured signals: ends, depths, the learned predictor, and the courage to say "random"."""

import numpy as np
import pytest

from seedbed.acquisition import AttentionScore, Bansa, Entropy, Learned, Random
from seedbed.lab.choice import conclude
from seedbed.lab.evidence import Evidence

PROMPTS, NOISES, LAYERS = 28, 7, 4


class Mine(AttentionScore):
    """A function that only its author has."""


FUNCTIONS = {"entropy": Entropy(), "bansa": Bansa(depth=None), "mine": Mine()}


def measured(seed=0, functions=FUNCTIONS, steps=(0, 2), generation=40.0):
    """Columns as `measured` names them, all of them chance; layers share a part, so that they correlate."""
    rng = np.random.default_rng(seed)
    columns = {}
    for step in steps:
        for name in ("collision", *(functions if step == 0 else ("entropy",))):
            common = rng.normal(size=(PROMPTS, NOISES))
            for layer in range(LAYERS):
                columns[f"{step}/{name}/{layer}"] = common + 0.4 * rng.normal(size=(PROMPTS, NOISES))
        for name in ("guidance_gap", "judge.score", "judge.colour"):
            columns[f"{step}/{name}"] = rng.normal(size=(PROMPTS, NOISES))
    columns["outcome.score"] = rng.normal(size=(PROMPTS, NOISES))
    columns["cost.step"] = np.full((PROMPTS, NOISES), 2.0)
    columns["cost.generation"] = np.full((PROMPTS, NOISES), generation)
    return Evidence(tuple(f"prompt {i}" for i in range(PROMPTS)), columns)


def planted(evidence, signal, weight=1.0, layers=None):
    """The same evidence, with an outcome that follows a signal."""
    noise = np.random.default_rng(99).normal(size=(PROMPTS, NOISES))
    values = evidence.signal(signal, layers)
    columns = {**evidence.columns, "outcome.score": 3 + weight * values / values.std() + 0.3 * noise}
    return Evidence(evidence.prompts, columns)


def lines(found, signal, step=0):
    return {
        line.prefer: line for line in found.profile.evidence if (line.signal, line.step) == (signal, step)
    }


@pytest.mark.parametrize(("weight", "prefer"), [(1.0, "high"), (-1.0, "low")])
def test_a_planted_function_is_found_with_its_sign(weight, prefer):
    found = conclude(planted(measured(), "0/bansa", weight), FUNCTIONS)
    profile = found.profile
    assert (type(profile.acquisition), profile.acquisition.end) == (Bansa, prefer)
    assert profile.why.startswith("0/bansa gained +")
    line, other = lines(found, "bansa")[prefer], lines(found, "bansa")["low" if weight > 0 else "high"]
    assert line.gain[1] > 0 > other.gain[2]
    assert line.share[0] > 0.7
    assert (line.within[0] > 0.8) if weight > 0 else (line.within[0] < -0.8)
    assert (line.nfe, line.prompts, line.p < 0.05) == (1.0, PROMPTS, True)


def test_noise_gives_the_profile_random_and_the_reason():
    found = conclude(measured(), FUNCTIONS)
    assert found.profile.acquisition == Random()
    assert found.profile.why.startswith("no choice without a verifier is better than chance for sure")
    assert all(line.p > 0.05 for line in found.profile.evidence)


def test_chance_is_called_chance_at_about_the_nominal_rate():
    """Holm keeps the chance of any false choice below 5 %: four draws of noise give none, or one."""
    chosen = [conclude(measured(seed), FUNCTIONS).profile.acquisition.name for seed in range(1, 5)]
    assert chosen.count("random") >= 3


def test_a_planted_mixture_is_learned_and_tested_on_other_prompts():
    evidence = measured()
    gap, layer = evidence.columns["0/guidance_gap"], evidence.columns["0/collision/2"]
    noise = np.random.default_rng(7).normal(size=gap.shape)
    evidence.columns["outcome.score"] = gap - layer + 0.3 * noise
    found = conclude(evidence, FUNCTIONS)
    learned = found.profile.acquisition
    assert isinstance(learned, Learned) and found.profile.learned == learned
    assert (learned.step, learned.end) == (0, "high")
    assert learned.coefficients["guidance_gap"] > 0.6 and learned.coefficients["collision/2"] < -0.4
    assert set(learned.coefficients) == {"guidance_gap"} | {
        f"{name}/{layer}" for name in ("entropy", "collision") for layer in range(LAYERS)
    }
    assert len(found.tested) == PROMPTS // 2
    line = lines(found, "learned")["high"]
    assert (line.prompts, line.nfe) == (len(found.tested), 2.0)
    assert line.reliability > 0.8
    assert "held-out" in found.profile.why


def test_the_learned_predictor_has_not_seen_the_prompts_that_judge_it():
    """Were it fitted on all prompts, its gain on chance would be far from 0."""
    evidence = measured(5)
    found = conclude(evidence, FUNCTIONS)
    rows = sorted(set(range(PROMPTS)) - set(found.tested))
    other = dict(evidence.columns)
    # Outcomes of the tested prompts do not move the coefficients, those of the fitted ones do.
    changed = evidence.columns["outcome.score"].copy()
    changed[list(found.tested)] *= -3
    other["outcome.score"] = changed
    assert conclude(Evidence(evidence.prompts, other), FUNCTIONS).profile.learned == found.profile.learned
    changed[rows] *= -1
    assert conclude(Evidence(evidence.prompts, other), FUNCTIONS).profile.learned != found.profile.learned


def test_a_depth_that_agrees_with_all_layers_is_tried_and_priced():
    evidence = planted(measured(), "0/bansa", layers=2)
    found = conclude(evidence, FUNCTIONS)
    rule = found.depths["bansa"]["full_score"]
    assert rule["depth"] == 1 and rule["pooled"][-1] == pytest.approx(1) == rule["within"][-1]
    assert found.depths["bansa"]["quality"]["depth"] == 1
    line = lines(found, "bansa, depth 1")["high"]
    assert line.nfe == 1 / LAYERS
    assert line.gain[0] > 0


def test_a_shorter_score_that_gains_more_is_chosen_with_its_depth():
    found = conclude(planted(measured(), "0/bansa/0"), FUNCTIONS)
    assert found.profile.acquisition == Bansa(depth=1, prefer="high")


def test_what_comes_late_must_be_worth_its_price():
    """After 2 steps a learned choice costs 6 evaluations: 60 for a pool of ten."""
    cheap = planted(measured(generation=60.0), "2/guidance_gap")
    assert conclude(cheap, FUNCTIONS).profile.acquisition.step == 2
    dear = planted(measured(generation=59.0), "2/guidance_gap")
    found = conclude(dear, FUNCTIONS)
    assert found.profile.acquisition == Random()
    assert lines(found, "guidance_gap", 2)["high"].nfe == 6


def test_the_verifier_on_previews_is_evidence_but_no_choice_without_one():
    found = conclude(planted(measured(), "0/judge.score"), FUNCTIONS)
    assert found.profile.acquisition == Random()
    assert lines(found, "judge.score")["high"].gain[1] > 0
    assert not lines(found, "judge.colour")


def test_a_function_of_ones_own_is_evidence_but_cannot_be_named_by_a_profile():
    found = conclude(planted(measured(), "0/mine"), FUNCTIONS)
    assert lines(found, "mine")["high"].gain[1] > 0
    assert found.profile.acquisition == Random()


def test_two_sets_of_masks_tell_how_reliable_a_score_is():
    evidence = measured()
    rng = np.random.default_rng(3)
    for layer in range(LAYERS):
        values = evidence.columns[f"0/bansa/{layer}"]
        evidence.columns[f"0/bansa.again/{layer}"] = values + 0.5 * rng.normal(size=values.shape)
    found = conclude(evidence, FUNCTIONS)
    assert 0.8 < lines(found, "bansa")["low"].reliability < 1
    assert lines(found, "entropy")["low"].reliability is None
    assert not lines(found, "bansa.again")


def test_outcomes_that_are_all_alike_leave_nothing_to_choose():
    evidence = measured()
    evidence.columns["outcome.score"] = np.ones((PROMPTS, NOISES))
    found = conclude(evidence, FUNCTIONS)
    assert found.profile.acquisition == Random()
    line = lines(found, "bansa")["high"]
    assert (line.gain, line.share, line.within, line.p) == ((0, 0, 0), (None,) * 3, (None,) * 3, 1)
