"""Every signal against what it is by definition, computed the slow way."""

import numpy as np
import pytest
import torch

from seedbed.acquisition import AttentionScore, create
from seedbed.acquisition.signals import measure
from seedbed.errors import BadInput, BadOutput
from seedbed.noise import GivenNoise, Pool
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import CALLS, PROMPT, cogvideox

STEPS = [0, 2]


def rollout_of(pipe, family, count=3, batch_size=3, **arguments):
    session = Session(
        pipe, PROMPT, **CALLS[family] | {"num_inference_steps": 4, "guidance_scale": 3.0} | arguments
    )
    noises = torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    return Rollout(session, noises, batch_size=batch_size)


def test_at_the_first_step_signals_are_those_of_the_unguided_forward(pipe_of, family):
    rollout = rollout_of(pipe_of(family), family)
    table = measure(
        rollout, [0], functions={0: {"again": create("entropy"), "mine": create("bansa", keep=0.5)}}
    )
    pool = Pool.of([GivenNoise.of(noise, index) for index, noise in enumerate(rollout.noises)])
    for name, function in (("entropy", "entropy"), ("again", "entropy"), ("mine", "bansa")):
        made = create(function, depth=None, **({"keep": 0.5} if name == "mine" else {}))
        expected = made.score(rollout.session, pool).table
        for layer in range(expected.shape[1]):
            np.testing.assert_allclose(table[f"0/{name}/{layer}"], expected[:, layer], rtol=2e-5)


def test_text_mass_and_collision_are_read_off_the_whole_map(pipe_of):
    """The float64 map of the conditional half, text first as this model stacks it."""
    rollout = rollout_of(cogvideox(), "cogvideox")
    tokens, found = CALLS["cogvideox"]["max_sequence_length"], {}

    def look(call, candidates, rows):
        query, key = call.query[rows].double(), call.key[rows].double()
        maps = (query @ key.transpose(-1, -2) * call.scale).softmax(-1)
        found[call.step, call.index] = (
            maps[:, :, tokens:, :tokens].sum(-1).mean((1, 2)),
            maps.square().sum(-1).mean((1, 2)),
            maps[:, :, ::2].square().sum(-1).mean((1, 2)),
        )

    rollout.advance(3, handler=look)
    table = measure(rollout_of(cogvideox(), "cogvideox"), STEPS)
    for step in STEPS:
        for layer in range(len(rollout.session.layers)):
            mass, collision, even = found[step, layer]
            np.testing.assert_allclose(table[f"{step}/text_mass/{layer}"], mass, rtol=2e-5)
            np.testing.assert_allclose(table[f"{step}/collision/{layer}"], collision, rtol=2e-5)
            np.testing.assert_allclose(table[f"{step}/collision.even/{layer}"], even, rtol=2e-5)


def test_signals_of_predictions_are_those_of_the_outputs(pipe_of, family):
    rollout, seen = rollout_of(pipe_of(family), family), {}
    rollout.advance(3, outputs=lambda step, _, *rest: seen.update({step: rest}))
    table = measure(rollout_of(pipe_of(family), family), STEPS)
    for step in STEPS:
        conditional, unconditional, clean = (value.double().flatten(1) for value in seen[step])
        gap = (conditional - unconditional).square().mean(1).sqrt()
        np.testing.assert_allclose(table[f"{step}/guidance_gap"], gap, rtol=1e-4)
        np.testing.assert_allclose(table[f"{step}/x0_std"], clean.std(1), rtol=1e-4)
    change = (seen[2][2] - seen[1][2]).double().flatten(1).square().mean(1).sqrt()
    np.testing.assert_allclose(table["2/x0_change"], change, rtol=1e-4)
    assert "0/x0_change" not in table
    axis = rollout.session.spec.frame_axis
    assert ("0/x0_motion" in table) == (axis is not None)
    if axis is not None:
        motion = seen[0][2].double().diff(dim=axis + 1).flatten(1).square().mean(1).sqrt()
        np.testing.assert_allclose(table["0/x0_motion"], motion, rtol=1e-4)


def test_batches_judges_and_pauses_change_no_signal(pipe_of, family):
    whole = measure(rollout_of(pipe_of(family), family), STEPS)
    shown = []

    def judge(frames):
        shown.append(len(frames))
        return {"brightness": torch.tensor([float(video.mean()) for video in frames])}

    judged = measure(rollout_of(pipe_of(family), family), STEPS, judge=judge)
    assert shown == [3, 3]
    assert set(judged) - set(whole) == {"0/judge.brightness", "2/judge.brightness"}
    for name, values in whole.items():
        np.testing.assert_array_equal(judged[name], values)
    split = measure(rollout_of(pipe_of(family), family, batch_size=2), STEPS)
    for name, values in split.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4)


def test_without_guidance_there_is_no_gap_but_the_same_text_mass_in_every_batch():
    table = measure(rollout_of(cogvideox(), "cogvideox", guidance_scale=1.0), [0])
    assert "0/guidance_gap" not in table and "0/text_mass/0" in table
    alone = measure(rollout_of(cogvideox(), "cogvideox", batch_size=1), [0])
    np.testing.assert_allclose(alone["0/text_mass/0"], table["0/text_mass/0"], rtol=1e-4)


def test_dropped_candidates_have_no_signal():
    rollout = rollout_of(cogvideox(), "cogvideox")
    whole = measure(rollout_of(cogvideox(), "cogvideox"), [0])
    rollout.keep([0, 2])
    np.testing.assert_allclose(measure(rollout, [0])["0/x0_std"], whole["0/x0_std"][[0, 2]], rtol=1e-5)


@pytest.mark.parametrize("steps", [[], [2, 1], [1, 1], [-1], [0, 4]])
def test_steps_that_cannot_be_looked_at_are_refused(steps):
    with pytest.raises(BadInput):
        measure(rollout_of(cogvideox(), "cogvideox"), steps)


def test_a_signal_that_is_not_finite_is_named():
    class Broken(AttentionScore):
        def observe(self, call):
            return torch.full((call.candidates,), torch.nan)

    with pytest.raises(BadOutput, match="0/broken/0"):
        measure(rollout_of(cogvideox(), "cogvideox"), [0], functions={0: {"broken": Broken()}})
