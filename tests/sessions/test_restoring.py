"""After a session the pipeline is as before: state, models, offloading; and nothing holds on to it."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig

from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.compat.test_offloading import in_groups
from tests.pipelines import BUILDERS, CALLS, PROMPT, animatediff_, wan
from tests.sessions.previews import preview


def comparable(value):
    """Tensors, arrays and containers of them in a form that `==` compares by content."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.shape, value.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value


def snapshot(pipe):
    modules = [c for c in pipe.components.values() if isinstance(c, torch.nn.Module)]
    return {
        "pipe": {k: v for k, v in vars(pipe).items() if k != "_all_hooks"},
        "scheduler": copy.deepcopy(comparable(vars(pipe.scheduler))),
        "weights": [comparable(dict(m.state_dict())) for m in modules],
        "hooks": [
            [
                dict(getattr(sub, n))
                for n in vars(sub)
                if n.endswith(("_hooks", "_always_called", "_with_kwargs"))
            ]
            for m in modules
            for sub in m.modules()
        ],
        "processors": [
            (s.processor, dict(vars(s.processor)))
            for m in modules
            for s in m.modules()
            if hasattr(s, "processor")
        ],
        "forwards": [vars(s).get("forward") for m in modules for s in m.modules()],
        "training": [s.training for m in modules for s in m.modules()],
    }


def noises_for(session, count):
    return torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))


def interrupted(error):
    def handler(call, *rows):
        if call.index == 1:
            raise error

    return handler


USES = {
    "spec": lambda session, z: session.spec,
    "layers": lambda session, z: session.layers,
    "evaluate": lambda session, z: session.evaluate(z, steps=2),
    "stop": lambda session, z: session.evaluate(z, depth=1),
    "stop by the handler": lambda session, z: session.evaluate(z, lambda call: call.stop()),
    "error": lambda session, z: session.evaluate(z, interrupted(RuntimeError("from the handler"))),
    "ctrl-c": lambda session, z: session.evaluate(z, interrupted(KeyboardInterrupt())),
    "preview": lambda session, z: preview(session, z),
    "generate": lambda session, z: session.generate(z[0]),
    "rollout": lambda session, z: Rollout(session, z, batch_size=2).advance(1, lambda call, *rows: None),
    "rollout, error": lambda session, z: Rollout(session, z).advance(1, interrupted(RuntimeError("handler"))),
    "rollout, ctrl-c": lambda session, z: Rollout(session, z).advance(2, interrupted(KeyboardInterrupt())),
}


@pytest.mark.parametrize("use", USES)
def test_the_pipeline_is_as_before(family, use):
    pipe = BUILDERS[family]()
    # Used before: some text encoders put hooks on themselves in their first run.
    pipe(PROMPT, output_type="latent", **CALLS[family])
    # A state that a run would change: another schedule, an interrupt, a bar of the user's.
    pipe.scheduler.set_timesteps(5, **({"mu": 0.5} if family == "ltx" else {}))
    pipe._interrupt = True
    pipe.set_progress_bar_config(disable=True, desc="mine")
    before, random = snapshot(pipe), torch.get_rng_state()
    session = Session(pipe, PROMPT, **CALLS[family])
    try:
        USES[use](session, torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(0)))
    except (RuntimeError, KeyboardInterrupt) as error:
        assert use.endswith(("error", "ctrl-c")), error
    else:
        assert not use.endswith(("error", "ctrl-c"))
    after = snapshot(pipe)
    for part in before:
        assert before[part] == after[part], part
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_the_pipeline_generates_the_same_afterwards(family):
    pipe = BUILDERS[family]()

    def generate():
        generator = torch.Generator().manual_seed(3)
        output = pipe(PROMPT, generator=generator, output_type="np", **CALLS[family])
        return np.asarray(output.frames if hasattr(output, "frames") else output.images)

    before = generate()
    session = Session(pipe, PROMPT, **CALLS[family])
    session.evaluate(noises_for(session, 3), depth=1)
    preview(session, noises_for(session, 1))
    with pytest.raises(RuntimeError):
        session.evaluate(noises_for(session, 2), interrupted(RuntimeError()))
    assert np.array_equal(generate(), before)


def test_a_cache_that_asks_the_pipeline_for_its_timestep_is_told():
    pipe, told = wan(), []
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 990),
        current_timestep_callback=lambda: told.append(pipe.current_timestep) or told[-1],
    )
    pipe.transformer.enable_cache(config)
    session = Session(pipe, PROMPT, **CALLS["wan"] | {"num_inference_steps": 4})
    noises = noises_for(session, 2)
    session.evaluate(noises, depth=1)
    assert "_current_timestep" not in vars(pipe)
    made = session.generate(noises[0])
    assert "_current_timestep" not in vars(pipe) and len(set(map(int, told))) == 4
    own = pipe(PROMPT, latents=noises[:1], output_type="np", **session.call).frames[0]
    assert np.array_equal(made, (own * 255).round().astype(np.uint8))


def test_attention_processors_of_the_pipelines_own_are_taken_off_when_it_fails():
    (family,) = (family for family in animatediff_.FAMILIES if family.name == "AnimateDiff, PAG")
    pipe = family.built()
    before = snapshot(pipe)["processors"]
    seen = []

    def fail(pipe, step, timestep, given):
        seen.extend(snapshot(pipe)["processors"])
        raise RuntimeError

    session = Session(pipe, PROMPT, callback_on_step_end=fail, **family.call)
    with pytest.raises(RuntimeError):
        session.generate(noises_for(session, 1)[0])
    assert seen != before and snapshot(pipe)["processors"] == before


def test_an_earlier_state_of_the_pipeline_does_not_matter(family):
    """A pipeline that was interrupted, or stopped mid-schedule, is probed as a fresh one."""
    pipe = BUILDERS[family]()
    session = Session(pipe, PROMPT, **CALLS[family])
    noises = noises_for(session, 2)
    fresh = session.evaluate(noises).prediction
    pipe(PROMPT, output_type="latent", **CALLS[family])
    pipe._interrupt = True
    assert torch.equal(Session(pipe, PROMPT, **CALLS[family]).evaluate(noises).prediction, fresh)


def test_model_offloading_goes_on_working(family):
    pytest.importorskip("accelerate")
    pipe = BUILDERS[family]()
    plain = Session(pipe, PROMPT, **CALLS[family])
    noises = noises_for(plain, 2)
    expected, frames = plain.evaluate(noises).prediction, plain.generate(noises[0])
    # On a CPU nothing moves, but the hooks, their order and their freeing are the real ones.
    pipe.enable_model_cpu_offload(device="cpu")
    hooked = {name for name, c in pipe.components.items() if hasattr(c, "_hf_hook")}
    session = Session(pipe, PROMPT, **CALLS[family])
    assert torch.equal(session.evaluate(noises).prediction, expected)
    assert len(session.layers) == len(plain.layers) and "layers" not in session.ledger.entries
    moved = []
    for hook in pipe._all_hooks:
        hook.offload = lambda: moved.append(1)
    session.evaluate(noises, depth=1)
    with pytest.raises(RuntimeError, match="mine"):
        session.evaluate(noises, interrupted(RuntimeError("mine")))
    assert np.array_equal(session.generate(noises[0]), frames)
    assert {name for name, c in pipe.components.items() if hasattr(c, "_hf_hook")} == hooked
    # The pipeline's own list is that of the hooks now on its models, so that it can free them.
    on_models = {id(c._hf_hook) for c in pipe.components.values() if hasattr(c, "_hf_hook")}
    assert {id(user.hook) for user in pipe._all_hooks} == on_models
    pipe.remove_all_hooks()
    assert not any(hasattr(c, "_hf_hook") for c in pipe.components.values())
    assert torch.equal(Session(pipe, PROMPT, **CALLS[family]).evaluate(noises).prediction, expected)


@pytest.mark.parametrize("options", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}])
def test_group_offloading_goes_on_working(family, options):
    pipe = BUILDERS[family]()
    plain = Session(pipe, PROMPT, **CALLS[family])
    noises = noises_for(plain, 2)
    expected = plain.evaluate(noises).prediction
    in_groups(plain.denoiser, **{"offload_type": "block_level"} | options)
    session = Session(pipe, PROMPT, **CALLS[family])
    session.evaluate(noises, depth=1)
    assert torch.equal(session.evaluate(noises).prediction, expected)


def test_nothing_keeps_the_pipeline_alive(family):
    pipe = BUILDERS[family]()
    alive = [weakref.ref(pipe), *(weakref.ref(c) for c in pipe.components.values() if hasattr(c, "forward"))]
    session = Session(pipe, PROMPT, **CALLS[family])
    noises = noises_for(session, 2)
    assert session.layers
    session.evaluate(noises, lambda call: None, depth=1)
    preview(session, noises[:1])
    with pytest.raises(RuntimeError):
        session.evaluate(noises, interrupted(RuntimeError()))
    del pipe, session
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)


def test_pipelines_in_two_threads_do_not_see_each_other():
    families, results, errors = ("cogvideox", "wan"), {}, []
    pipes = {name: BUILDERS[name]() for name in families}
    barrier = threading.Barrier(2, timeout=60)

    def work(name):
        try:
            session = Session(pipes[name], PROMPT, **CALLS[name])
            noises, seen = noises_for(session, 2), []
            for _ in range(4):
                barrier.wait()
                prediction = session.evaluate(noises, lambda call: seen.append(call.layer)).prediction
            results[name] = (prediction, seen, [layer.name for layer in session.layers])
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(name,)) for name in families]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    for name in families:
        prediction, seen, layers = results[name]
        assert seen == layers * 4
        session = Session(pipes[name], PROMPT, **CALLS[name])
        torch.testing.assert_close(session.evaluate(noises_for(session, 2)).prediction, prediction)
