"""Enhancement and perturbed guidance on real pipelines: what they touch, what they cost, what they leave."""

import functools
import warnings

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from torch import nn

import seedbed
from seedbed.acquisition import Bansa
from seedbed.adaptation import Enhance, Guide, adapt, adaptations_named
from seedbed.adaptation.guidance import _skipped
from seedbed.adaptation.layout import entropies_of, layers_named, layout_of
from seedbed.attention import Tap
from seedbed.attention.interventions import identity
from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.call import BLOCK
from seedbed.pipelines.session import Session
from seedbed.pipelines.steps import Position
from seedbed.texts import text_of
from tests.compat.test_offloading import model
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT
from tests.sessions.test_restoring import snapshot

ACTING = [
    "enhance:layers=all,strength=0.5",
    "enhance:layers=all,rule=temperature,strength=2",
    "enhance:layers=all,rule=frames,strength=5",
    "guide:layers=all",
    "guide:layers=all,perturb=uniform",
    "guide:layers=all,perturb=skip",
]
EVERY = Bansa(depth=None)
STILL = ["enhance:layers=all,strength=0", "guide:layers=all,scale=0"]


def made(pipe, name, adaptation=None, **more):
    asked = {"candidates": 1, "progress": False, "adaptation": adaptation, **CALLS[name], **more}
    return seedbed.generate(pipe, PROMPT, **asked)


def session_of(pipe, name, **call):
    return Session(pipe, PROMPT, **{**CALLS[name], **call})


def test_strength_cost_replay_and_what_is_left(family):
    pipe = BUILDERS[family]()
    plain = made(pipe, family)
    before, random = snapshot(pipe), torch.get_rng_state()
    for still in STILL:
        again = made(pipe, family, still)
        assert np.array_equal(again.frames, plain.frames)
        assert again.selection.ledger.entries["generation"] == plain.selection.ledger.entries["generation"]
    for asked in ACTING:
        found = made(pipe, family, asked)
        assert not np.array_equal(found.frames, plain.frames), asked
        entries = found.selection.ledger.entries
        (text,) = found.selection.adaptations
        fitted = adaptations_named(text)[0]
        session = session_of(pipe, family)
        assert entries["generation"] == plain.selection.ledger.entries["generation"]
        steps = session.facts.steps
        within = sum(fitted.start <= step / steps < fitted.stop for step in range(steps))
        assert entries.get("guidance", 0) == (within if fitted.name == "guide" else 0)
        assert fitted.layers == layers_named(session, "all")
        replayed = seedbed.replay(found.record(), pipe, progress=False)
        assert replayed.identical and replayed.selection.adaptations == (text,)
    assert snapshot(pipe) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(made(pipe, family).frames, plain.frames)


def test_the_rows_of_the_video(pipe_of):
    for name, at in (("cogvideox", (8, 56)), ("wan", (None, None)), ("ltx", (None, None))):
        session = session_of(pipe_of(name), name)
        found = layout_of(session)
        assert {(rows.start, rows.stop) for rows in found.video.values()} == {at}, name
        assert layout_of(session) is found  # remembered
    assert layout_of(session_of(pipe_of("cogvideox"), "cogvideox")).grid(48) == (3, 4, 4)
    assert layout_of(session_of(pipe_of("cogvideox"), "cogvideox")).grid(47) is None


def test_only_the_named_layers_within_the_window(pipe_of):
    """The first layer that is touched gets what it always gets; those before answer as they would."""
    pipe = pipe_of("cogvideox")
    session = session_of(pipe, "cogvideox", num_inference_steps=4)
    names = layers_named(session, "all")

    def outputs(*adaptations):
        session = session_of(pipe, "cogvideox", num_inference_steps=4)
        adapt(session, adaptations)
        seen = []

        def hook(number, name):
            return lambda module, args, output: seen.append((name, output[0].clone()))

        handles = [
            session.denoiser.get_submodule(name).register_forward_hook(hook(i, name))
            for i, name in enumerate(names)
        ]
        session.generate(torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0)))
        for handle in handles:
            handle.remove()
        return seen

    plain = outputs()
    late = outputs(Enhance(layers=[names[1]], strength=0.9, start=0.5))
    assert len(plain) == len(late) == 4 * len(names)
    same = [torch.equal(one, other) for (_, one), (_, other) in zip(plain, late, strict=True)]
    first = 2 * len(names) + 1  # the third of four steps, the second layer
    assert all(same[:first]) and not same[first] and not any(same[first:])


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("family", ["cogvideox", "wan"])  # both halves in one forward, and one after another
def test_guidance_adds_the_term_to_both_halves(pipe_of, family, rescale):
    """Against the formula in float64, from the denoiser's own outputs of one step."""
    pipe, scale = pipe_of(family), 2.5
    session = session_of(pipe, family)
    guide = Guide(layers="all", scale=scale, rescale=rescale).fitted(session)
    layout = layout_of(session)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0))

    def first_step(*acts):
        session = session_of(pipe, family)
        session.acts += acts
        outputs = []

        def remember(own, *args, **kwargs):
            outputs.append((args, kwargs, own(*args, **kwargs)))
            return outputs[-1][2]

        with session.running(noise[None], guided=True) as run:
            forward = {m: m.forward for m in run.denoisers.values()}
            for module, own in forward.items():
                module.forward = functools.partial(remember, own)
            try:
                run(noise[None], output_type="latent")
            finally:
                for module, own in forward.items():
                    module.forward = own
        return outputs

    plain = first_step()
    adapt_to = session_of(pipe, family)
    adapt(adapt_to, [guide])
    acted = first_step(*adapt_to.acts)
    module, both = session.denoiser, family == "cogvideox"
    args, kwargs, output = plain[0]
    conditional = output[0][1:] if both else output[0]
    names = set(guide.layers)
    with torch.no_grad(), Tap(module, lambda c: identity(c, layout.of(c)[0]) if c.layer in names else None):
        perturbed = module(*args, **kwargs)[0]
    perturbed = perturbed[1:] if both else perturbed
    c, p = conditional.double(), perturbed.double()
    moved = c + scale * (c - p)
    over = [*range(1, c.ndim)]
    factor = c.std(over, keepdim=True) / moved.std(over, keepdim=True)
    term = moved * (rescale * factor + 1 - rescale) - c
    halves = 1 if both else 2
    for (_, _, before), (_, _, after) in zip(plain[:halves], acted[:halves], strict=True):
        torch.testing.assert_close(
            (after[0] - before[0]).double(), term.expand_as(after[0]), rtol=0, atol=1e-4
        )


def test_a_window_of_the_steps_costs_its_share(pipe_of):
    for start, stop, expected in ((0, 1, 4), (0.5, 1, 2), (0.25, 0.5, 1)):
        options = dict(layers="all", start=start, stop=stop)
        found = made(pipe_of("cogvideox"), "cogvideox", Guide(**options), num_inference_steps=4)
        assert found.selection.ledger.entries["guidance"] == expected


def test_layers_by_entropy(pipe_of):
    session = session_of(pipe_of("cogvideox"), "cogvideox")
    names = layers_named(session, "all")
    entropies = entropies_of(session, names)
    high, low = (layers_named(session, f"entropy:{half}") for half in ("high", "low"))
    assert sorted(high + low) == sorted(names) and len(high) == len(names) - len(names) // 2
    assert all(0 < value <= 1 for value in entropies.values())
    assert min(entropies[name] for name in high) >= max(entropies[name] for name in low)
    assert layers_named(session, names[:1]) == names[:1]


def test_the_pipelines_own_calls(pipe_of):
    """As context managers: the same frames as through `generate`, and nothing left behind."""
    pipe, call = pipe_of("cogvideox"), CALLS["cogvideox"]
    noise = made(pipe, "cogvideox").selection.noise

    def frames():
        return np.rint(pipe(PROMPT, latents=noise.clone(), output_type="np", **call).frames[0] * 255)

    plain, before = frames(), snapshot(pipe)
    for acting, adaptation in (
        (
            lambda: seedbed.enhance(pipe, layers="all", strength=0.5, call=call),
            "enhance:layers=all,strength=0.5",
        ),
        (lambda: seedbed.guide(pipe, PROMPT, layers="all", call=call), "guide:layers=all"),
    ):
        with pytest.raises(BadInput, match="prepared for latents of shape"), acting():
            pipe(PROMPT, **{**call, "height": 2 * call["height"]})
        with acting() as fitted:
            acted = frames()
            assert np.array_equal(acted, frames())  # a second call is counted from its own start
        assert isinstance(fitted.layers, list)
        assert np.array_equal(acted, made(pipe, "cogvideox", adaptation).frames)
    assert np.array_equal(frames(), plain) and snapshot(pipe) == before


def test_with_selection_previews_refinement_and_each_other(pipe_of):
    pipe = pipe_of("cogvideox")

    def judge(videos, prompts):
        return -np.arange(len(videos), dtype=float)

    both = ["enhance:layers=all,strength=0.5", "guide:layers=all"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        chosen = made(pipe, "cogvideox", both, candidates=3, refine="injection", acquisition=EVERY)
    assert seedbed.replay(chosen.record(), pipe, progress=False).identical
    plain = made(pipe, "cogvideox", candidates=3, acquisition=EVERY)
    same = made(pipe, "cogvideox", "enhance:layers=all,strength=0", candidates=3, acquisition=EVERY)
    other = made(pipe, "cogvideox", both, candidates=3, acquisition=EVERY)
    assert torch.equal(same.selection.scores, plain.selection.scores)
    assert not torch.equal(other.selection.scores, plain.selection.scores)
    previewed = made(pipe, "cogvideox", both, candidates=2, verifier=judge)
    alone = made(pipe, "cogvideox", both)
    assert np.array_equal(previewed.frames, alone.frames)
    assert previewed.selection.ledger.entries["guidance"] > 0


@pytest.mark.parametrize("mode", ["inference", "autocast", slow("offload")])
def test_in_other_modes(mode):
    pipe = BUILDERS["cogvideox"]()
    if mode == "offload":
        model(pipe)
    with torch.inference_mode(mode == "inference"), torch.autocast("cpu", torch.bfloat16, mode == "autocast"):
        plain = made(pipe, "cogvideox")
        for asked in ACTING:
            found = made(pipe, "cogvideox", asked)
            assert found.frames.any() and not np.array_equal(found.frames, plain.frames), asked


def test_several_candidates_share_what_acts(pipe_of):
    """A batch of candidates is enhanced as each of them is alone."""
    session = session_of(pipe_of("cogvideox"), "cogvideox")
    adapt(session, [Enhance(layers="all", strength=0.5)])
    noises = torch.randn(3, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    together = session.evaluate(noises).prediction
    alone = torch.cat([session.evaluate(noise[None]).prediction for noise in noises])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_skipped_block_returns_what_it_was_given():
    class Block(nn.Module):
        def forward(self, hidden_states, encoder_hidden_states=None):
            return None

    x, text = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
    assert _skipped(Block(), (x,), {}, x + 1) is x
    near = x + 0.1, text + 0.1
    first, second = _skipped(Block(), (x,), {"encoder_hidden_states": text}, near)
    assert first is x and second is text
    first, second = _skipped(Block(), (x,), {"encoder_hidden_states": text}, near[::-1])
    assert first is text and second is x
    with pytest.raises(NotSupported, match="another shape than it is given"):
        _skipped(Block(), (x,), {}, torch.zeros(2))


def test_the_position_counts_steps_whatever_the_solver():
    from contextlib import ExitStack

    from diffusers import HeunDiscreteScheduler

    class Pipe:
        scheduler = HeunDiscreteScheduler()

    pipe = Pipe()
    pipe.scheduler = HeunDiscreteScheduler()
    with ExitStack() as undo:
        position = Position(pipe, undo)
        for _ in range(2):  # and a new schedule begins anew
            pipe.scheduler.set_timesteps(4)
            shares = []
            for timestep in pipe.scheduler.timesteps:
                shares.append(position.share)
                pipe.scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
            assert shares == [0, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75]
    assert "step" not in vars(pipe.scheduler)
    with pytest.raises(NotSupported, match="no scheduler"), ExitStack() as undo:
        Position(object(), undo)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("enhance:strength=2", "from 0 to 1, not 2"),
        ("enhance:rule=warm", "rule must be mix, temperature, frames"),
        ("enhance:start=0.5,stop=0.5", "window is empty"),
        ("enhance:stop=1.5", "stop must be a finite number from 0 to 1"),
        ("enhance:layers=entropy:middle", "entropy:high or entropy:low"),
        ("enhance:layers=[]", "layers must be names"),
        ("guide:perturb=noise", "perturb must be identity, uniform, blur, skip"),
        ("guide:scale=inf", "scale must be"),
        ("guide:sigma=0", "sigma must be a number above 0"),
        ("guide:rescale=2", "rescale must be"),
        ("guide:strength=1", "guide has no option 'strength'"),
        ("sharpen", "no adaptation 'sharpen': choose one of enhance, guide"),
    ],
)
def test_bad_options_are_told_in_one_line(text, says):
    with pytest.raises(BadInput, match=says) as found:
        adaptations_named(text)
    assert "\n" not in str(found.value)


def test_what_the_model_does_not_have_is_told_before_anything_runs(pipe_of):
    pipe = pipe_of("wan")
    with pytest.raises(BadInput, match="no layer matches"):
        made(pipe, "wan", "enhance:layers=blocks.99*")
    with pytest.raises(NotSupported, match="the identity is defined where tokens attend to themselves"):
        made(pipe, "wan", "guide:layers=cross")
    with pytest.raises(BadInput, match="one prompt"):
        seedbed.guide(pipe, ["a", "b"])


@pytest.mark.parametrize("text", [*ACTING, "guide:sigma=inf,perturb=blur", 'enhance:layers=["a","b"]'])
def test_texts_read_back(text):
    (found,) = adaptations_named(text)
    assert adaptations_named(text_of(found)) == (found,)


def test_within_a_block_only_the_pipeline_itself_is_called(pipe_of):
    """A record would not know of the block, and its window is counted by the pipeline's own scheduler."""
    pipe = pipe_of("cogvideox")
    call = CALLS["cogvideox"]
    with seedbed.enhance(pipe, layers="all", stop=0.5, call=call):
        with (
            seedbed.guide(pipe, PROMPT, layers="all", call=call),
            pytest.raises(BadInput, match=r"seedbed\.guide"),
        ):
            made(pipe, "cogvideox")
        with pytest.raises(BadInput, match='generate and contact_sheet take adaptation="enhance:'):
            made(pipe, "cogvideox")
        pipe(PROMPT, **call)
        with pytest.raises(BadInput, match="end the block first"):
            made(CogVideoXPipeline.from_pipe(pipe), "cogvideox")
    assert BLOCK not in vars(pipe.transformer)
    made(pipe, "cogvideox")
