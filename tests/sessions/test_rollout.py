"""Rollouts on five families: pauses and drops change nothing, and nothing is paid twice."""

import gc
import weakref

import diffusers
import numpy as np
import pytest
import torch

from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT, cogvideox, sdxl, wan
from tests.sessions.previews import preview


def noises_for(session, count):
    return torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))


def session_of(pipe, family, steps=4, **arguments):
    return Session(pipe, PROMPT, **CALLS[family] | {"num_inference_steps": steps} | arguments)


def same(videos, others):
    return len(videos) == len(others) and all(map(np.array_equal, videos, others))


def test_pauses_and_drops_change_nothing_and_nothing_is_paid_twice(pipe_of, family):
    session = session_of(pipe_of(family), family)
    noises = noises_for(session, 3)
    expected = {s: preview(session, noises, steps=s) for s in (1, 2, 3)} | {
        4: [session.generate(z) for z in noises]
    }
    session.ledger.entries.clear()
    rollout = Rollout(session, noises, what="rollout")
    assert rollout.alive == [0, 1, 2] and (rollout.step, rollout.steps) == (0, 4)
    assert same(rollout.advance(1), expected[1]) and session.ledger.to_dict() == {"rollout": 6}
    assert same(rollout.advance(1), expected[1]) and session.ledger.to_dict() == {"rollout": 6}
    rollout.keep([2, 1])
    assert rollout.alive == [1, 2]
    assert same(rollout.advance(2), expected[2][1:]) and session.ledger.to_dict() == {"rollout": 10}
    assert same(rollout.advance(3), expected[3][1:]) and session.ledger.to_dict() == {"rollout": 14}
    rollout.keep([2])
    assert same(rollout.finish(), expected[4][2:]) and session.ledger.to_dict() == {"rollout": 16}
    assert rollout.step == 4
    assert not same(expected[4][:1], expected[4][1:2])


def test_a_scheduler_that_returns_tuples_unasked():
    pipe = cogvideox()
    pipe.scheduler = diffusers.CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    session = session_of(pipe, "cogvideox")
    noises = noises_for(session, 2)
    rollout = Rollout(session, noises)
    for step in (1, 2, 3):
        outputs = record(rollout, step)[1]
        assert set(outputs) == {(step - 1, 0), (step - 1, 1)}
        assert same(rollout.advance(step), preview(session, noises, steps=step))
    assert same(rollout.finish(), [session.generate(z) for z in noises])


def test_a_pipeline_that_ends_before_its_schedule(pipe_of):
    session = session_of(pipe_of("sdxl"), "sdxl", denoising_end=0.6)
    rollout = Rollout(session, noises_for(session, 1))
    rollout.advance(2)
    with pytest.raises(BadInput, match="steps=3, but the schedule has only 2"):
        rollout.advance(3)
    assert same(rollout.finish(), [session.generate(noises_for(session, 1)[0])])


SCHEDULERS = {
    "stochastic": ("EulerAncestralDiscreteScheduler", 5),
    "multistep": ("DPMSolverMultistepScheduler", 5),
    "two evaluations a step": ("HeunDiscreteScheduler", 9),
}


@pytest.mark.parametrize("name", [slow(name) if "two" in name else name for name in SCHEDULERS])
def test_schedulers_with_noise_and_history(pipe_of, name):
    kind, steps = SCHEDULERS[name]
    pipe = sdxl()
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    session = session_of(pipe, "sdxl", steps=5, generator=generator)
    noises = noises_for(session, 2)
    rollout = Rollout(session, noises)
    assert rollout.steps == steps
    for step in range(1, steps):
        assert same(rollout.advance(step), preview(session, noises, steps=step))
    assert same(rollout.finish(), [session.generate(z) for z in noises])
    assert torch.equal(generator.get_state(), state)
    batched = Rollout(session, noises, batch_size=2)
    batched.advance(2)
    for one, other in zip(batched.finish(), rollout.finish(), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_batches_agree_up_to_rounding(pipe_of, family):
    session = session_of(pipe_of(family), family, negative_prompt="blue")
    noises, frames, cost = noises_for(session, 4), {}, {}
    for size in (1, 3, 16):
        rollout = Rollout(session, noises, batch_size=size, what=str(size))
        frames[size] = rollout.advance(2)
        rollout.keep([0, 2, 3])
        frames[size] += rollout.finish()
        cost[size] = session.ledger.entries[str(size)]
    assert cost == {1: 28, 3: 28, 16: 28}
    for size in (3, 16):
        for one, other in zip(frames[1], frames[size], strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


def record(rollout, to):
    """Every attention call and every output that an advance shows: (step, candidate) -> tensors."""
    queries, outputs = {}, {}

    def handler(call, candidates, rows):
        fold = call.query.shape[0] // call.candidates
        assert len(rows) == len(candidates)
        for candidate, row in zip(candidates, rows, strict=True):
            mine = call.query.reshape(call.candidates, fold, *call.query.shape[1:])[row]
            queries.setdefault((call.step, candidate), []).append(mine.clone())

    def after(step, candidates, *tensors):
        for position, candidate in enumerate(candidates):
            assert (step, candidate) not in outputs
            outputs[step, candidate] = [None if t is None else t[position].clone() for t in tensors]

    rollout.advance(to, handler, after)
    return queries, outputs


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_prompts_rows_are_told_from_the_others(pipe_of, family, batch_size):
    """Their first evaluation is that of an unguided call; guidance only changes what follows."""
    session = session_of(pipe_of(family), family, negative_prompt="blue circle")
    noises = noises_for(session, 3)
    queries, outputs = record(Rollout(session, noises, batch_size=batch_size), 2)
    assert set(queries) == set(outputs) == {(step, candidate) for step in (0, 1) for candidate in range(3)}
    for candidate in range(3):
        plain = []
        prediction = session.evaluate(
            noises[candidate, None], lambda call, to=plain: to.append(call.query.clone())
        ).prediction
        conditional, unconditional, clean = outputs[0, candidate]
        torch.testing.assert_close(conditional, prediction[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(conditional, unconditional, rtol=1e-4, atol=1e-5)
        assert clean.shape == session.spec.shape and clean.isfinite().all()
        assert len(plain) == len(queries[0, candidate]) == len(queries[1, candidate])
        for one, other in zip(queries[0, candidate], plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_clean_latents_are_what_is_decoded():
    pipe = cogvideox()
    session = session_of(pipe, "cogvideox")
    rollout = Rollout(session, noises_for(session, 1))
    _, outputs = record(rollout, 2)
    (frames,) = rollout.advance(2)
    with torch.no_grad():
        video = pipe.decode_latents(outputs[1, 0][2][None])
    pixels = np.asarray(pipe.video_processor.postprocess_video(video, output_type="np")[0])
    assert np.array_equal(frames, (pixels.clip(0, 1) * 255).round().astype(np.uint8))


def test_without_guidance_every_row_is_the_prompts(pipe_of, family):
    session = session_of(pipe_of(family), family, guidance_scale=1.0)
    rollout = Rollout(session, noises_for(session, 2), batch_size=2)
    queries, outputs = record(rollout, 2)
    assert len(queries) == len(outputs) == 4
    assert all(unconditional is None for _, unconditional, _ in outputs.values())
    assert session.ledger.to_dict() == {"preview": 4}


def test_handlers_see_fresh_evaluations_alone(pipe_of, family):
    session = session_of(pipe_of(family), family)
    rollout = Rollout(session, noises_for(session, 2))
    assert {step for step, _ in record(rollout, 2)[0]} == {0, 1}
    queries, outputs = record(rollout, 3)
    assert set(queries) == set(outputs) == {(2, 0), (2, 1)}
    assert record(rollout, 3) == ({}, {})
    rollout.keep([1])
    queries, outputs = record(rollout, 4)
    assert set(queries) == set(outputs) == {(3, 1)}


def test_of_two_denoisers_both_are_remembered():
    pipe = wan(two_denoisers=True)
    session = session_of(pipe, "wan", guidance_scale=4.0)
    noises = noises_for(session, 2)
    rollout = Rollout(session, noises)
    for step in (1, 2, 3):
        assert same(rollout.advance(step), preview(session, noises, steps=step))
    assert same(rollout.finish(), [session.generate(z) for z in noises])
    assert session.ledger.entries["preview"] == 2 * 2 * (1 + 2 + 3) + 2 * 2 * 4


def test_memories_go_on_in_another_rollout(pipe_of, family):
    session = session_of(pipe_of(family), family)
    noises = noises_for(session, 3)
    first = Rollout(session, noises, batch_size=2)
    first.advance(2)
    saved = first.memory(2)
    session.ledger.entries.clear()
    second = Rollout(session, noises[2:], what="second")
    second.recall(0, saved, 2)
    (finished,) = second.finish()
    assert session.ledger.to_dict() == {"second": 4}
    first.keep([2])
    assert np.array_equal(finished, first.finish()[0])


def raising(call, candidates, rows):
    raise RuntimeError("from the handler")


def test_offloading_goes_on_working(family):
    pytest.importorskip("accelerate")
    pipe = BUILDERS[family]()
    session = session_of(pipe, family)
    noises = noises_for(session, 2)
    expected = [session.generate(z) for z in noises]
    pipe.enable_model_cpu_offload(device="cpu")
    hooked = {name for name, c in pipe.components.items() if hasattr(c, "_hf_hook")}
    rollout = Rollout(session, noises)
    rollout.advance(2)
    assert same(rollout.finish(), expected)
    with pytest.raises(RuntimeError, match="from the handler"):
        Rollout(session, noises).advance(1, raising)
    assert same([session.generate(z) for z in noises], expected)
    for name in hooked:
        assert pipe.components[name].forward.func.__name__ == "new_forward", name


def test_progress_counts_fresh_steps(pipe_of, family):
    session, begun = session_of(pipe_of(family), family), []
    rollout = Rollout(session, noises_for(session, 3), batch_size=2, progress=begun.append)
    rollout.advance(2)
    assert begun == [2, 2, 1, 1]
    rollout.keep([0])
    rollout.finish()
    assert begun == [2, 2, 1, 1, 1, 1]


def test_nothing_holds_on_to_a_rollout(pipe_of, family):
    session = session_of(pipe_of(family), family)
    gc.collect()
    gc.disable()
    try:
        rollout = Rollout(session, noises_for(session, 2), batch_size=2)
        record(rollout, 2)
        rollout.finish()
        outputs = [part for parts in rollout.memory(1) for part in parts]
        references = [weakref.ref(rollout), *map(weakref.ref, outputs)]
        del rollout, outputs
        assert [reference() for reference in references] == [None] * len(references)
    finally:
        gc.enable()


def test_refusals(pipe_of):
    session = session_of(pipe_of("cogvideox"), "cogvideox")
    noises = noises_for(session, 3)
    for size in (0, 1.5, True):
        with pytest.raises(BadInput, match="batch_size must be a whole number of at least 1"):
            Rollout(session, noises, batch_size=size)
    with pytest.raises(BadInput, match="wants latents of shape"):
        Rollout(session, noises[..., :1])
    rollout = Rollout(session, noises)
    with pytest.raises(BadInput, match="cannot advance to 0 steps: 0 are done"):
        rollout.advance(0)
    with pytest.raises(BadInput, match="steps=5, but the schedule has only 4"):
        rollout.advance(5)
    rollout.advance(2)
    with pytest.raises(BadInput, match="cannot advance to 1 steps: 2 are done"):
        rollout.advance(1)
    rollout.keep([0, 2])
    for wrong in ([1], [0, 3]):
        with pytest.raises(BadInput, match=rf"candidate {wrong[-1]} cannot be kept: alive are \[0, 2\]"):
            rollout.keep(wrong)
    with pytest.raises(BadInput, match="every candidate would be dropped"):
        rollout.keep([])
    with pytest.raises(BadInput, match="the handler of a rollout cannot stop it"):
        rollout.advance(3, lambda call, candidates, rows: call.stop())
    assert rollout.alive == [0, 2] and rollout.step == 2


@pytest.mark.parametrize("by_function", [False, True])
def test_a_cache_between_steps_is_refused(by_function):
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks import apply_first_block_cache

    pipe, config = wan(), FirstBlockCacheConfig(threshold=0.1)
    if by_function:
        apply_first_block_cache(pipe.transformer, config)
    else:
        pipe.transformer.enable_cache(config)
    session = session_of(pipe, "wan")
    with pytest.raises(NotSupported, match="the transformer caches between steps"):
        Rollout(session, noises_for(session, 1))


def test_a_denoiser_with_more_than_one_output_is_refused():
    pipe = wan()
    plain = type(pipe.transformer).forward

    class Talkative(type(pipe.transformer)):
        def forward(self, hidden_states, timestep, encoder_hidden_states, **kwargs):
            return (*plain(self, hidden_states, timestep, encoder_hidden_states, **kwargs), "more")

    pipe.transformer.__class__ = Talkative
    session = session_of(pipe, "wan")
    with pytest.raises(NotSupported, match="other things than tensors of 1 rows"):
        Rollout(session, noises_for(session, 1)).advance(1)


def test_text_that_cannot_be_compared_is_refused(pipe_of):
    """Only where somebody asks for the prompt's rows: the frames do not need them."""
    session = session_of(pipe_of("cogvideox"), "cogvideox")
    noises = noises_for(session, 1)
    alone = session.alone
    alone.kwargs["encoder_hidden_states"] = alone.kwargs["encoder_hidden_states"][..., :-1]
    with pytest.raises(NotSupported, match="the rows of the prompt cannot be told in the transformer"):
        Rollout(session, noises).advance(1, lambda call, candidates, rows: None)
    assert same(Rollout(session, noises).advance(1), preview(session, noises))


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
def test_a_negative_prompt_that_is_the_prompt_is_refused_where_rows_are_asked_for(pipe_of, family):
    """Both halves of a forward match, or both forwards of a step: neither is taken for the other."""
    session = session_of(pipe_of(family), family, negative_prompt=PROMPT)
    noises = noises_for(session, 1)
    with pytest.raises(NotSupported, match="cannot be told from those of the negative prompt") as error:
        Rollout(session, noises).advance(1, lambda call, candidates, rows: None)
    assert "\n" not in str(error.value)
    assert same(Rollout(session, noises).advance(1), preview(session, noises))
