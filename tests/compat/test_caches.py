"""Step caches: diffusers' are set aside while noises are scored; what others keep there is put back."""

import types

import numpy as np
import pytest
import torch
from diffusers import FasterCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import FirstBlockCacheConfig

import seedbed
from seedbed import NotSupported
from seedbed.acquisition import Bansa, Previews
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, PROMPT

QUIET = dict(candidates=3, progress=False)


def scores(pipe, call, **options):
    return seedbed.select(pipe, PROMPT, acquisition=Bansa(depth=None), **QUIET, **call, **options).scores


def faster(pipe):
    return FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 1001),
        unconditional_batch_timestep_skip_range=(-1, 1001),
        attention_weight_callback=lambda _: 0.3,
        current_timestep_callback=lambda: pipe.current_timestep or 0,
        tensor_format="BFCHW",
    )


def pyramid(pipe):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep or 0,
    )


def first_block(pipe):
    return FirstBlockCacheConfig(threshold=0.5)


def taylor(pipe):
    return pytest.importorskip("diffusers.hooks").TaylorSeerCacheConfig(
        cache_interval=2, cache_identifiers=[r"transformer_blocks.*attn1"]
    )


def magnitudes(pipe):
    return pytest.importorskip("diffusers.hooks").MagCacheConfig(num_inference_steps=2, mag_ratios=[1.0, 1.0])


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("config", [faster, pyramid, first_block, taylor, magnitudes])
def test_scores_are_those_of_the_model_without_its_cache(pipe_of, config, batch_size):
    """Also of a cache that cannot run without guidance, as it halves the batch (FasterCache)."""
    pipe, call = BUILDERS["cogvideox"](), CALLS["cogvideox"]
    expected = scores(pipe_of("cogvideox"), call, batch_size=batch_size)
    try:
        pipe.transformer.enable_cache(config(pipe))
    except (AttributeError, ValueError) as error:
        pytest.skip(str(error))
    hooks = [dict(vars(ref)) for part in pipe.transformer.modules() for ref in references(part)]
    assert torch.equal(scores(pipe, call, batch_size=batch_size), expected)
    steps = Bansa(depth=None, steps=2)
    assert seedbed.select(pipe, PROMPT, acquisition=steps, **QUIET, **call).scores.isfinite().all()
    assert hooks and hooks == [
        dict(vars(ref)) for part in pipe.transformer.modules() for ref in references(part)
    ]
    session = Session(pipe, PROMPT, **call)
    with pytest.raises(NotSupported, match="the transformer caches between steps"):
        Rollout(session, torch.randn(1, *session.spec.shape))


def references(part):
    return vars(part)["_diffusers_hook"]._fn_refs if "_diffusers_hook" in vars(part) else []


def counted(module, by_class=False):
    """Skips all blocks in every second call, as TeaCache does, which counts its calls on the module."""
    own = type(module).forward

    def forward(self, *args, **kwargs):
        self.count += 1
        if self.count % 2 == 0:
            return self.remembered["output"]
        output = own(self, *args, **kwargs)
        self.remembered["output"], self.seen = output, [*self.seen, self.count]
        return output

    kind = type(type(module).__name__, (type(module),), {"forward": forward, "count": 0, "seen": []})
    module.__class__ = kind
    module.remembered = {}
    if not by_class:
        module.count = 0
    return module


def generated(pipe, call):
    generator = torch.Generator().manual_seed(0)
    output = pipe(PROMPT, generator=generator, output_type="np", **call)
    return np.asarray(output[0])


@pytest.mark.parametrize("by_class", [False, True])
def test_counters_of_others_are_as_before(by_class):
    """A forward that is stopped midway, or run for one step, must not make the user's next video another."""
    call = CALLS["cogvideox"] | {"num_inference_steps": 3}
    fresh = BUILDERS["cogvideox"]()
    counted(fresh.transformer, by_class)
    expected, state = generated(fresh, call), dict(fresh.transformer.remembered)
    assert state
    pipe = BUILDERS["cogvideox"]()
    denoiser = counted(pipe.transformer, by_class)
    choice = seedbed.select(pipe, PROMPT, acquisition=Bansa(depth=1), **QUIET, **call)
    assert (denoiser.count, denoiser.remembered, denoiser.seen) == (0, {}, [])
    assert ("count" in vars(denoiser)) is not by_class
    assert torch.equal(choice.scores, scores(BUILDERS["cogvideox"](), call)[:, :1])
    made = seedbed.generate(pipe, PROMPT, acquisition=Bansa(depth=1), **QUIET, **call)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    assert denoiser.remembered == {}
    assert np.array_equal(generated(pipe, call), expected)


def test_small_tensors_lists_and_processors_are_as_before(pipe_of):
    pipe, call = BUILDERS["wan"](), CALLS["wan"]
    denoiser = pipe.transformer
    denoiser.number, denoiser.list, denoiser.once = torch.zeros(1), [1, {"a": [2]}], None
    processor = denoiser.blocks[0].attn1.processor
    processor.calls = 0
    own = denoiser.forward

    def forward(self, *args, **kwargs):
        self.number += 1
        self.list[1]["a"].append(3)
        self.once, self.more = torch.ones(5000), 7
        processor.calls += 1
        return own(*args, **kwargs)

    denoiser.forward = types.MethodType(forward, denoiser)
    expected = scores(pipe_of("wan"), call)
    assert torch.equal(scores(pipe, call), expected)
    assert (denoiser.number, denoiser.list, denoiser.once) == (0, [1, {"a": [2]}], None)
    assert processor.calls == 0 and not hasattr(denoiser, "more")


@pytest.mark.parametrize("by_class", [False, True])
def test_previews_of_what_counts_its_calls_are_refused(by_class):
    """Remembered evaluations are not run again, so a counter would be wrong from the second pause on."""
    pipe = BUILDERS["cogvideox"]()
    denoiser = counted(pipe.transformer, by_class)
    previews = Previews(verifier=lambda videos, prompts: np.arange(len(videos)), schedule=((1, 1),))
    with pytest.raises(
        NotSupported, match=r"keeps '(count|remembered)' from one evaluation to the next"
    ) as raised:
        seedbed.select(pipe, PROMPT, acquisition=previews, **QUIET, **CALLS["cogvideox"])
    assert "\n" not in str(raised.value) and denoiser.count == 0


def test_what_is_computed_once_is_no_cache_of_steps():
    pipe = BUILDERS["cogvideox"]()
    denoiser, own = pipe.transformer, pipe.transformer.forward
    denoiser.table = None

    def forward(self, *args, **kwargs):
        if self.table is None:
            self.table = torch.ones(3)
        return own(*args, **kwargs)

    denoiser.forward = types.MethodType(forward, denoiser)
    session = Session(pipe, PROMPT, **CALLS["cogvideox"])
    noises = torch.randn(1, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(Rollout(session, noises).finish()[0], session.generate(noises[0]))
