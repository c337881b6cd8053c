"""The recipe of linear previews: what it makes of agreement that is known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/previews"))
import agreement


def rows(linear):
    """Three captions of four noises; `linear` makes of the exact scores those on linear previews."""
    draw, made = np.random.default_rng(0), []
    for _ in range(3):
        exact, finished = draw.permutation(4.0 + np.arange(4)), draw.random(4)
        row = {f"pixels {steps}": 2.0 for steps in agreement.STEPS}
        for steps in agreement.STEPS:
            row[f"exact {steps}"] = dict.fromkeys(agreement.MEASURES, exact)
            row[f"linear {steps}"] = dict.fromkeys(agreement.MEASURES, linear(exact))
        made.append({**row, "finished": dict.fromkeys(agreement.MEASURES, finished)})
    return made


@pytest.mark.parametrize("linear, spearman, lost", [(lambda x: x / 2, 1, 0), (lambda x: -x, -1, 3)])
def test_agreement_is_of_ranks_and_a_loss_in_the_score_of_exact_previews(linear, spearman, lost):
    found = agreement.summary(rows(linear))
    for steps in agreement.STEPS:
        after = found[f"after {steps}"]
        for measure in agreement.MEASURES:
            assert after["spearman"][measure] == pytest.approx((spearman,) * 3)
        assert after["lost"] == pytest.approx((lost,) * 3) and after["pixels"] == (2, 2, 2)
    finished = found["finished"]
    assert finished["difference"][0] == pytest.approx(finished["linear"][0] - finished["exact"][0])
    assert (finished["difference"][0] == 0) == (spearman == 1) and finished["gap"][0] > 0


def test_captions_without_an_order_are_counted():
    after = agreement.summary(rows(np.zeros_like))["after 10"]
    assert after["without"] == dict.fromkeys(agreement.MEASURES, 3)
    # A choice among equals is one at random.
    assert after["lost"] == pytest.approx((1.5,) * 3)


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    """The second caption stops the first run."""
    made, asked = rows(lambda x: x / 2), []

    def measure(pipe, prompt, number, noises):
        asked.append(number)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        return json.loads(json.dumps(made[number], default=np.ndarray.tolist))

    monkeypatch.setattr(agreement, "measure", measure)
    monkeypatch.setattr(agreement, "load", lambda name: None)
    out = tmp_path / "out.json"
    arguments = ["agreement", "--captions", "3", "--kept", str(tmp_path / "kept"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        agreement.main()
    assert not out.exists()
    agreement.main()
    assert asked == [0, 1, 1, 2] and json.loads(out.read_text())["after 7"]["lost"] == [0, 0, 0]
