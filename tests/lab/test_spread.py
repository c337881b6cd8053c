"""How much of the spread of videos the noise explains: components of variance, and what measures them."""

import numpy as np
import pytest

import seedbed.lab.spread as module
from seedbed.errors import BadInput
from seedbed.lab.spread import FRAMES, SIDE, coarse_look, split, spread
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from tests.pipelines import CALLS, cogvideox, wan

PROMPTS = ["a red circle", "a blue square", "a green triangle"]
CALL = CALLS["cogvideox"]


def slow(values):
    """Mean squares cell by cell, and the components that they are expected to be made of."""
    prompts, noises, _ = values.shape
    mean = values.mean((0, 1))
    of_prompt = of_noise = left = 0.0
    for p in range(prompts):
        of_prompt += noises * ((values[p].mean(0) - mean) ** 2).sum() / (prompts - 1)
        for n in range(noises):
            cell = values[p, n] - values[p].mean(0) - values[:, n].mean(0) + mean
            left += (cell**2).sum() / ((prompts - 1) * (noises - 1))
    for n in range(noises):
        of_noise += prompts * ((values[:, n].mean(0) - mean) ** 2).sum() / (noises - 1)
    parts = np.array([max(of_prompt - left, 0) / noises, max(of_noise - left, 0) / prompts, left])
    return parts / parts.sum(), parts.sum() / values.shape[2]


def test_components_against_sums_over_cells():
    values = np.random.default_rng(0).random((5, 4, 7)) + np.random.default_rng(1).random((5, 1, 7))
    found, (shares, variance) = split(values), slow(values)
    assert [found.prompt.mean, found.noise.mean, found.both.mean] == pytest.approx(shares)
    assert found.within.mean == pytest.approx(1 - found.prompt.mean)
    assert found.variance.mean == pytest.approx(variance)
    # Jackknife: what is left without each prompt, times (n - 1) / n; Student's t with n - 1 degrees, 2.776.
    without = np.array([slow(np.delete(values, p, 0))[0][0] for p in range(5)])
    error = np.sqrt(4 / 5 * ((without - without.mean()) ** 2).sum())
    assert found.prompt.high - found.prompt.mean == pytest.approx(
        min(2.77645 * error, 1 - shares[0]), rel=1e-4
    )


def test_planted_components_are_found_and_lie_in_nine_of_ten_intervals():
    rng = np.random.default_rng(0)
    truth, means, inside = np.array([0.5, 0.3, 0.2]), [], 0
    for _ in range(60):
        size = 20
        parts = [rng.normal(size=shape) for shape in ((12, 1, size), (1, 8, size), (12, 8, size))]
        found = split(sum(np.sqrt(share) * part for share, part in zip(truth, parts, strict=True)))
        means.append([found.prompt.mean, found.noise.mean, found.both.mean])
        inside += found.both.low <= 0.2 <= found.both.high
    assert np.abs(np.mean(means, 0) - truth).max() < 0.02
    assert inside >= 50


def test_the_ends_of_the_scale():
    rng = np.random.default_rng(0)
    prompt = split(np.broadcast_to(rng.random((4, 1, 6)), (4, 3, 6)))
    noise = split(np.broadcast_to(rng.random((1, 3, 6)), (4, 3, 6)))
    assert prompt.prompt.mean == pytest.approx(1) and noise.noise.mean == pytest.approx(1)
    assert noise.within == pytest.approx((1, 1, 1))
    with pytest.raises(BadInput, match="all videos look alike"):
        split(np.ones((4, 3, 6)))


def test_a_look_is_the_mean_of_equal_squares_of_some_frames():
    frames = np.random.default_rng(0).integers(0, 256, (15, 32, 48, 3), dtype=np.uint8)
    seen = coarse_look(frames)
    assert seen.shape == (FRAMES, SIDE, SIDE, 3)
    squares = frames[::2].reshape(FRAMES, SIDE, 2, SIDE, 3, 3).mean((2, 4))
    assert np.abs(seen - squares).max() <= 0.5 + 1e-9
    assert coarse_look(frames[:1]).shape == (1, SIDE, SIDE, 3)


def test_every_noise_is_given_to_every_prompt_and_a_run_goes_on(tmp_path, monkeypatch):
    pipe = cogvideox()
    looks = []
    for prompt in PROMPTS:
        session = Session(pipe, prompt, **CALL)
        noises = draw_pool(session, 2, seed=5).noises
        looks.append([coarse_look(session.generate(noise)).reshape(-1) / 255 for noise in noises])
    expected = split(np.array(looks))
    real, made = Session.generate, []

    def stopped(self, noise):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(self.prompt)
        return real(self, noise)

    options = {"seed": 5, "cache": tmp_path / "kept", "progress": False, **CALL}
    with monkeypatch.context() as patch:
        patch.setattr(Session, "generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            spread(pipe, PROMPTS, 2, **options)
    monkeypatch.setattr(Session, "generate", lambda self, noise: made.append("") or real(self, noise))
    assert spread(pipe, PROMPTS, 2, **options) == expected and len(made) == 6
    assert spread(pipe, PROMPTS, 2, **options) == expected and len(made) == 6
    with pytest.raises(BadInput, match="rows of another spread"):
        spread(wan(), PROMPTS, 2, **options | CALLS["wan"])


@pytest.mark.parametrize(
    ("prompts", "noises", "message"),
    [
        (PROMPTS[:2], 2, "2 prompts are too few to tell a spread: give at least 3"),
        ([*PROMPTS, PROMPTS[0]], 2, "the prompt 'a red circle' is given twice"),
        (PROMPTS, 1, "noises must be a whole number of at least 2"),
        ("a red circle", 2, "prompts must be a list of texts"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_made(monkeypatch, prompts, noises, message):
    monkeypatch.setattr(module, "Session", None)
    with pytest.raises(BadInput, match=message):
        spread(None, prompts, noises)
