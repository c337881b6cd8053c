"""A session on five families: what it asks, what it costs, and that candidates do not see each other."""

import gc

import numpy as np
import pytest
import torch

from seedbed.attention.tap import Tap
from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.pipelines.layers import LayerInfo
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, PROMPT, animatediff, sdxl, wan
from tests.sessions.previews import preview

SPECS = {
    "cogvideox": ((3, 4, 4, 4), 0, "b f c h w", "transformer"),
    "wan": ((4, 3, 2, 2), 1, "b c f h w", "transformer"),
    "ltx": ((12, 8), None, "b tokens c", "transformer"),
    "animatediff": ((4, 3, 8, 8), 1, "b c f h w", "unet"),
    "sdxl": ((4, 8, 8), None, "b c h w", "unet"),
}


def noises_for(session, count, seed=0):
    return torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(seed))


def frames_of(output):
    """What a pipeline returned for its first prompt, as the session gives it."""
    frames = np.asarray((output.frames if hasattr(output, "frames") else output.images)[0])
    pixels = (frames.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels if pixels.ndim == 4 else pixels[None]


@pytest.fixture
def session(pipe_of, family):
    return Session(pipe_of(family), PROMPT, **CALLS[family])


def test_spec_is_the_noise_the_pipeline_would_draw(session, family):
    shape, frame_axis, layout, denoiser = SPECS[family]
    spec = session.spec
    assert (spec.shape, spec.frame_axis, spec.layout) == (shape, frame_axis, layout)
    assert spec.dtype == torch.float32 and spec.device.type == "cpu"
    assert session.facts.denoiser_name == denoiser and session.denoiser is getattr(session.pipe, denoiser)
    assert session.ledger.total == 0


def test_layers_cost_nothing_and_are_those_of_a_real_forward(session):
    layers = session.layers
    assert session.ledger.entries == {}
    seen = []
    session.evaluate(noises_for(session, 1), lambda c: seen.append(LayerInfo(c.layer, c.kind, c.block)))
    assert layers == tuple(seen) == session.layers


def test_layers_of_a_model_that_needs_data_are_counted():
    pipe = BUILDERS["wan"]()
    block = pipe.transformer.blocks[0]
    plain = type(block).forward

    class Peeking(type(block)):
        def forward(self, hidden_states, *args):
            return plain(self, hidden_states * (2.0 if hidden_states.sum().item() > 1e9 else 1.0), *args)

    block.__class__ = Peeking
    session = Session(pipe, PROMPT, **CALLS["wan"])
    assert len(session.layers) == 4
    assert session.ledger.to_dict() == {"layers": 1.0}
    session.evaluate(noises_for(session, 2), depth=1)
    assert session.ledger.to_dict() == {"layers": 1.0, "scoring": 0.5}


def test_a_candidate_is_the_same_in_every_batch(session):
    """Float32 kernels may sum in another order for another batch: relative 1e-5 allows for that."""
    noises, scores, outputs = noises_for(session, 10), {}, {}
    for size in (1, 3, 10):
        rows, predictions = [], []
        for batch in noises.split(size):
            seen = []
            predictions.append(session.evaluate(batch, lambda c, to=seen: to.append(statistic(c))).prediction)
            rows.append(torch.stack(seen, 1))
        scores[size], outputs[size] = torch.cat(rows), torch.cat(predictions)
    assert scores[10].std(0).min() > 0
    for size in (1, 3):
        torch.testing.assert_close(scores[size], scores[10], rtol=1e-5, atol=0)
        torch.testing.assert_close(outputs[size], outputs[10], rtol=1e-4, atol=1e-5)


def statistic(call):
    """Of the map alone and of every row: a mix-up of batch rows anywhere would show."""
    logits = call.query @ call.key.mT * call.scale
    if call.mask is not None and call.mask.dtype != torch.bool:
        logits = logits + call.mask
    return call.by_candidate(call.query.square().mean(-1)) + call.by_candidate(logits.logsumexp(-1))


def test_predictions_are_those_of_the_pipelines_own_unguided_call(session, family):
    noises, outputs = noises_for(session, 2), []
    prediction = session.evaluate(noises).prediction
    hook = session.denoiser.register_forward_hook(
        lambda module, args, output: outputs.append(output[0] if isinstance(output, tuple) else output.sample)
    )
    session.pipe([PROMPT] * 2, latents=noises, guidance_scale=1, output_type="latent", **CALLS[family])
    hook.remove()
    torch.testing.assert_close(prediction, outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_generates_what_the_pipeline_generates(session, family, guidance):
    arguments = CALLS[family] | {"guidance_scale": guidance, "negative_prompt": "blue"}
    session = Session(session.pipe, PROMPT, **arguments)
    noise = noises_for(session, 1)
    generated = session.generate(noise[0])
    expected = frames_of(session.pipe(PROMPT, latents=noise, output_type="np", **arguments))
    assert generated.dtype == np.uint8 and np.array_equal(generated, expected)
    assert generated.std() > 1
    steps = CALLS[family]["num_inference_steps"]
    assert session.ledger.to_dict() == {"generation": steps * (1 if guidance == 1 else 2)}


def test_a_preview_after_the_last_step_is_the_generation(session, family):
    noise = noises_for(session, 1)
    steps = CALLS[family]["num_inference_steps"]
    (last,) = preview(session, noise, steps=steps)
    assert np.array_equal(last, session.generate(noise[0]))
    spent = session.ledger.to_dict()
    assert spent["preview"] == spent["generation"]


def test_a_preview_leaves_nothing_to_the_garbage_collector():
    """On a GPU, what a scheduler remembers would take memory until the next collection."""
    pipe = wan()
    session = Session(pipe, PROMPT, **CALLS["wan"])
    noises = noises_for(session, 1)
    preview(session, noises)

    def tensors():
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = tensors()
        preview(session, noises)
        assert tensors() == before
    finally:
        gc.enable()


def test_a_preview_costs_only_its_steps(session):
    previews = preview(session, noises_for(session, 2))
    assert len(previews) == 2 and not np.array_equal(*previews)
    assert all(p.dtype == np.uint8 and p.ndim == 4 and p.shape[-1] == 3 for p in previews)
    assert session.ledger.to_dict() == {"preview": 4.0}


def test_stopping_early_costs_its_share_of_the_layers(session):
    noises, total, seen = noises_for(session, 3), len(session.layers), []
    evaluation = session.evaluate(noises, lambda c: seen.append(c.index), depth=2, what="probing")
    assert seen == [0, 1] and evaluation.stopped and evaluation.prediction is None
    assert session.ledger.to_dict() == {"probing": pytest.approx(3 * 2 / total)}
    assert not session.evaluate(noises).stopped
    assert session.ledger.total == pytest.approx(3 * 2 / total + 3)


def test_depth_is_in_layers_of_the_last_of_the_steps(session):
    noises, total, seen = noises_for(session, 2), len(session.layers), []
    evaluation = session.evaluate(noises, lambda c: seen.append((c.step, c.index)), depth=1, steps=2)
    assert seen == [(0, i) for i in range(total)] + [(1, 0)]
    assert evaluation.stopped and evaluation.prediction.shape[0] == 2
    assert session.ledger.total == pytest.approx(2 * (1 + 1 / total))


def test_the_prompt_is_encoded_once_for_all_candidates(pipe_of, family):
    pipe, texts = pipe_of(family), []
    encoders = [module for name, module in pipe.components.items() if name.startswith("text_encoder")]
    hooks = [
        e.register_forward_hook(lambda module, args, output: texts.append(len(args[0]))) for e in encoders
    ]
    try:
        session = Session(pipe, PROMPT, negative_prompt="blue", **CALLS[family])
        for size in (1, 3, 4):
            session.evaluate(noises_for(session, size))
        assert texts == [1] * len(encoders)
        texts.clear()
        # Guided, so once more, and the negative prompt.
        for _ in range(2):
            preview(session, noises_for(session, 2))
        assert len(texts) == 2 * len(encoders)
    finally:
        for hook in hooks:
            hook.remove()


EMBEDDED = {
    "cogvideox": ["prompt_embeds"],
    "wan": ["prompt_embeds"],
    "ltx": ["prompt_embeds", "prompt_attention_mask"],
    "animatediff": ["prompt_embeds"],
    "sdxl": [
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ],
}


def test_a_prompt_for_several_frames_is_encoded_as_often():
    """FreeNoise encodes the prompt of the first and of the last frame, and goes from one to the other."""
    pipe = animatediff()
    pipe.enable_free_noise(context_length=4, context_stride=2)
    call = CALLS["animatediff"] | {"num_frames": 8}
    session = Session(pipe, PROMPT, **call)
    noises = noises_for(session, 1)
    plain = pipe(PROMPT, latents=noises, output_type="np", **call)
    assert np.array_equal(session.generate(noises[0]), frames_of(plain))


def test_prompt_embeds_take_the_place_of_the_prompt(session, family):
    pipe = session.pipe
    if family == "animatediff":
        encoded = pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, False)
    else:
        options = {"max_sequence_length": 8} if family != "sdxl" else {}
        encoded = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, **options)
    embeds = {n: v for n, v in zip(EMBEDDED[family], encoded, strict=False) if v is not None}
    noises = noises_for(session, 3)
    expected = session.evaluate(noises).prediction
    given = Session(pipe, **embeds, **CALLS[family])
    assert torch.equal(given.evaluate(noises).prediction, expected)


def test_guidance_is_off_whatever_the_caller_asks(session, family):
    noises, rows = noises_for(session, 2), []
    plain = session.evaluate(noises).prediction
    guided = Session(session.pipe, PROMPT, guidance_scale=7.0, negative_prompt="blue", **CALLS[family])
    hook = session.denoiser.register_forward_hook(lambda module, args, output: rows.append(0))
    assert torch.equal(guided.evaluate(noises, steps=2).prediction, plain)
    hook.remove()
    assert len(rows) == 2


def test_guidance_that_is_an_input_of_the_model_stays():
    from diffusers import UNet2DConditionModel

    pipe = sdxl()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {k: v for k, v in pipe.unet.config.items() if k != "_use_default_values"}
        pipe.unet = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 8}).eval()
    predictions = []
    for scale in (1.5, 9.0):
        session = Session(pipe, PROMPT, guidance_scale=scale, **CALLS["sdxl"])
        predictions.append(session.evaluate(noises_for(session, 1)).prediction)
    assert not torch.allclose(*predictions)


def test_guidance_that_cannot_be_turned_off_is_refused(pipe_of):
    class Stubborn(type(pipe_of("sdxl"))):
        do_classifier_free_guidance = True

    session = Session(Stubborn(**pipe_of("sdxl").components), PROMPT, **CALLS["sdxl"])
    with pytest.raises(NotSupported, match="with 4 rows for 2 candidates"):
        session.evaluate(noises_for(session, 2))
    assert session.ledger.total == 0


def test_of_two_denoisers_the_first_is_probed():
    pipe = wan(two_denoisers=True)
    session = Session(pipe, PROMPT, **CALLS["wan"] | {"num_inference_steps": 4})
    assert session.denoiser is pipe.transformer
    noises = noises_for(session, 2)
    session.evaluate(noises, steps=2)
    assert session.ledger.to_dict() == {"scoring": 4.0}
    with pytest.raises(
        NotSupported, match=r"another denoiser follows the transformer after [23] evaluations"
    ):
        session.evaluate(noises, steps=4)
    generated = session.generate(noises[0])
    assert session.ledger.entries["generation"] == 8
    pipe = wan(two_denoisers=True)
    pipe.register_to_config(boundary_ratio=2.0)
    late = Session(pipe, PROMPT, **CALLS["wan"])
    assert late.denoiser is pipe.transformer_2 and late.facts.denoiser_name == "transformer_2"
    late.evaluate(noises, depth=1)
    assert generated.shape == (9, 16, 16, 3)


def test_progress_is_reported_by_step(session, family):
    seen = []
    session.generate(noises_for(session, 1)[0], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_a_users_tap_sees_what_the_probe_runs(session):
    calls = []
    with Tap(session.denoiser, calls.append) as tap:
        session.evaluate(noises_for(session, 2), depth=3)
    # The session stops at the third before the tap around it is asked.
    assert [c.index for c in calls] == [0, 1] and not tap.stopped and {c.candidates for c in calls} == {2}


def test_stochastic_steps_are_the_same_in_every_batch_and_leave_the_generator_alone(pipe_of):
    from diffusers import EulerAncestralDiscreteScheduler

    pipe = sdxl()
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    session = Session(pipe, PROMPT, generator=generator, **CALLS["sdxl"] | {"num_inference_steps": 3})
    noises, seen = noises_for(session, 3), {}
    for size in (1, 3):
        rows = []
        for batch in noises.split(size):
            last = []
            session.evaluate(
                batch, lambda c, to=last: to.append(c.by_candidate(c.query.square().mean(-1))), steps=3
            )
            rows.append(last[-1])
        seen[size] = torch.cat(rows)
    torch.testing.assert_close(seen[1], seen[3], rtol=1e-5, atol=0)
    first = session.generate(noises[0])
    assert np.array_equal(first, session.generate(noises[0]))
    assert torch.equal(generator.get_state(), state)
    assert np.array_equal(
        first,
        frames_of(
            pipe(
                PROMPT,
                latents=noises[:1],
                generator=generator,
                output_type="np",
                **CALLS["sdxl"] | {"num_inference_steps": 3},
            )
        ),
    )


def test_output_that_is_not_finite_is_an_error_at_every_depth(family):
    pipe = BUILDERS[family]()
    session = Session(pipe, PROMPT, **CALLS[family])
    noises = noises_for(session, 2)
    list(session.denoiser.modules())[-1].register_forward_hook(
        lambda module, args, output: output * torch.nan
    )
    with pytest.raises(BadOutput, match=f"the output of the {session.facts.denoiser_name} is not finite"):
        session.evaluate(noises)
    with pytest.raises(BadOutput, match="decoded values that are not finite"):
        session.generate(noises[0])
    with torch.no_grad():
        for parameter in session.denoiser.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(BadOutput, match=r"the queries of .* not finite"):
        session.evaluate(noises, depth=1)


def test_a_model_without_softmax_attention_is_refused():
    pipe = sdxl()
    # Attention slicing goes round torch's function, as xformers does.
    pipe.enable_attention_slicing(1)
    session = Session(pipe, PROMPT, **CALLS["sdxl"])
    with pytest.raises(NotSupported, match="attn1 attends by SlicedAttnProcessor without torch") as error:
        session.evaluate(noises_for(session, 1))
    assert "\n" not in str(error.value)
    with pytest.raises(NotSupported, match="attends by SlicedAttnProcessor"):
        _ = session.layers


@pytest.mark.parametrize("family", ["wan", "animatediff"])
def test_previews_of_a_pipeline_that_looks_at_no_interrupt(family, pipe_of):
    """It goes on to its end, where nothing changes any more and no evaluation is run."""
    pipe = pipe_of(family)
    call = {**CALLS[family], "num_inference_steps": 4}
    plain = Session(pipe, PROMPT, **call)
    noises = noises_for(plain, 2)

    class Relentless(type(pipe)):
        interrupt = property(lambda self: False)

    pipe.__class__ = Relentless
    session = Session(pipe, PROMPT, **call)
    previews = preview(session, noises, steps=2)
    paused = Rollout(session, noises).advance(2)
    pipe.__class__ = Relentless.__base__
    assert session.ledger.entries["preview"] == 2 * 2 * 2 * 2
    for expected, *got in zip(preview(plain, noises, steps=2), previews, paused, strict=True):
        assert all(np.array_equal(expected, frames) for frames in got)


@pytest.mark.parametrize(
    "run, least",
    [
        (Session.evaluate, "steps must be 1 or more"),
        (preview, "cannot advance to 0 steps: 0 are done, and 1 is"),
    ],
)
def test_more_steps_than_the_schedule_has(session, run, least):
    with pytest.raises(BadInput, match="steps=3, but the schedule has only 2: raise num_inference_steps"):
        run(session, noises_for(session, 1), steps=3)
    with pytest.raises(BadInput, match=least):
        run(session, noises_for(session, 1), steps=0)


def test_noises_of_another_shape_are_refused(session):
    shape = session.spec.shape
    wrong = torch.zeros(2, *shape[:-1], shape[-1] + 1)
    for run in (Session.evaluate, preview, lambda session, noises: session.generate(noises[0])):
        with pytest.raises(BadInput) as error:
            run(session, wrong)
        message = str(error.value)
        assert f"{shape[-1] + 1})" in message and f"(candidates, {', '.join(map(str, shape))})" in message
        assert "\n" not in message
    for depth in (0, len(session.layers) + 1):
        with pytest.raises(BadInput, match=f"depth must be between 1 and {len(session.layers)}"):
            session.evaluate(noises_for(session, 1), depth=depth)
