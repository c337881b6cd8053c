import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seedbed import BadInput, BadOutput, NoiseRecipe, NotSupported, contact_sheet, generate, score, select
from seedbed.acquisition import (
    AttentionScore,
    Bansa,
    BansaDropout,
    Entropy,
    NoiseScore,
    Pool,
    Previews,
    Random,
)
from seedbed.attention.disagreement import bansa_expected
from seedbed.attention.tap import Tap
from seedbed.noise import GivenNoise
from seedbed.pipelines.layers import LayerInfo
from tests.acquisition.calls import attention_call
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, cogvideox

CALL = CALLS["cogvideox"]
ALL = Bansa(depth=None)


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


def choose(pipe, **options):
    """By BANSA over all layers, unless the options say otherwise."""
    settings = {"acquisition": ALL, "candidates": 3, "progress": False, **CALL, **options}
    return select(pipe, PROMPT, **settings)


def test_the_totals_are_those_of_a_hand_computation(pipe):
    choice = choose(pipe, candidates=4, seed=7, acquisition=Bansa(keep=0.3, depth=None))
    by_hand = []
    for candidate in range(4):
        noise = NoiseRecipe(seed=7, candidate=candidate, shape=choice.recipe.shape, frame_axis=0).draw()
        layers = []

        def observe(call, layers=layers):
            if call.step == 0:
                scores = bansa_expected(call.query, call.key, scale=call.scale, keep=0.3)
                layers.append(scores.double().mean().item())

        with Tap(pipe.transformer, observe):
            pipe(PROMPT, latents=noise[None], guidance_scale=1.0, output_type="latent", **CALL)
        by_hand.append(layers)
    expected = torch.tensor(by_hand, dtype=torch.float64)
    assert choice.scores.shape == (4, 3)
    torch.testing.assert_close(choice.scores, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(choice.totals, expected.mean(1), rtol=1e-5, atol=0)
    assert choice.order == tuple(expected.mean(1).argsort().tolist())
    assert choice.best == expected.mean(1).argmin()


def test_the_choice_is_a_noise_for_the_pipeline(pipe):
    choice = choose(pipe)
    assert choice.noise.shape == (1, *choice.recipe.shape)
    assert torch.equal(choice.noise[0], choice.recipe.draw())
    assert choice.recipe.candidate == choice.best
    assert choice.recipe.sha256
    assert choice.recipe.frame_axis == 0
    assert [recipe.candidate for recipe in choice.recipes] == [0, 1, 2]
    frames = pipe(PROMPT, latents=choice.noise, output_type="np", **CALL).frames
    assert np.isfinite(frames).all()


def test_the_noise_has_the_dtype_that_the_pipeline_takes():
    pipe = cogvideox(layers=1).to(torch.bfloat16)
    choice = choose(pipe, candidates=2)
    assert choice.noise.dtype == torch.bfloat16
    assert choice.recipe.draw().dtype == torch.float32


def test_layers_are_named_in_the_order_they_run(pipe):
    layers = choose(pipe).layers
    assert len(layers) == 3
    assert [name.split(".")[1] for name in layers] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "acquisition",
    ["bansa", "entropy", "bansa:depth=null,place=logits", "bansa:depth=null,estimator=masked,rows=6"],
)
def test_scores_do_not_depend_on_batch_size_or_pool(pipe, acquisition):
    table = choose(pipe, candidates=10, acquisition=acquisition, batch_size=10)
    for batch_size in (1, 3, "auto"):
        other = choose(pipe, candidates=10, acquisition=acquisition, batch_size=batch_size)
        torch.testing.assert_close(other.scores, table.scores, rtol=1e-5, atol=0)
        assert other.order == table.order
    fewer = choose(pipe, candidates=4, acquisition=acquisition)
    torch.testing.assert_close(fewer.scores, table.scores[:4], rtol=1e-5, atol=0)
    # The candidates differ by far more than their scores wobble.
    assert table.totals.std() / table.totals.mean() > 1e-4


def test_prefer_picks_the_other_end(pipe):
    low = choose(pipe, candidates=5)
    high = choose(pipe, candidates=5, acquisition=Bansa(depth=None, prefer="high"))
    assert torch.equal(low.totals, high.totals)
    assert high.order == low.order[::-1]
    assert (low.prefer, high.prefer) == ("low", "high")
    assert choose(pipe, candidates=5, acquisition="bansa:depth=null,prefer=high").order == high.order
    assert (low.options["prefer"], high.options["prefer"]) == (None, "high")


def test_a_selection_prints_in_one_line(pipe):
    choice = choose(pipe, acquisition="random:seed=3")
    assert repr(choice) == (
        f"<Selection: candidate {choice.best} of 3 by random, low is better, 0 evaluations>"
    )


def test_another_seed_is_another_pool(pipe):
    assert not torch.equal(choose(pipe, seed=1).totals, choose(pipe, seed=0).totals)


def test_depth_and_layers_cost_what_they_run(pipe):
    full = choose(pipe)
    assert full.ledger.entries["scoring"] == pytest.approx(3)
    shallow = choose(pipe, acquisition=Bansa(depth=2))
    assert shallow.layers == full.layers[:2]
    torch.testing.assert_close(shallow.scores, full.scores[:, :2], rtol=1e-6, atol=0)
    assert shallow.ledger.entries["scoring"] == pytest.approx(3 * 2 / 3)
    middle = choose(pipe, acquisition=Bansa(depth=None, layers="transformer_blocks.1.*"))
    assert middle.layers == full.layers[1:2]
    torch.testing.assert_close(middle.totals, full.scores[:, 1], rtol=1e-6, atol=0)
    assert middle.ledger.entries["scoring"] == pytest.approx(3 * 2 / 3)
    assert choose(pipe, acquisition=Bansa(depth=None, layers=["joint"])).layers == full.layers
    share = choose(pipe, acquisition=Bansa(depth=2 / 3))
    torch.testing.assert_close(share.scores, shallow.scores, rtol=1e-6, atol=0)
    assert share.ledger.entries == shallow.ledger.entries
    published = choose(pipe, acquisition="bansa")
    assert published.layers == full.layers[:1]  # 0.46 of three
    assert published.ledger.entries["scoring"] == pytest.approx(1)


def test_several_steps_are_averaged_and_paid(pipe):
    one = choose(pipe, acquisition=Entropy(), num_inference_steps=3)
    two = choose(pipe, acquisition=Entropy(steps=2), num_inference_steps=3)
    assert one.ledger.entries["scoring"] == pytest.approx(3)
    assert two.ledger.entries["scoring"] == pytest.approx(6)
    shallow = choose(pipe, acquisition=Entropy(steps=2, depth=1), num_inference_steps=3)
    assert shallow.ledger.entries["scoring"] == pytest.approx(3 * (1 + 1 / 3))
    torch.testing.assert_close(shallow.scores, two.scores[:, :1], rtol=1e-6, atol=0)

    by_step = {0: [], 1: []}

    class Both(AttentionScore):
        name = "both"

        def observe(self, call):
            scores = Entropy().observe(call).mean(1)
            by_step[call.step].append(scores)
            return scores

    choose(pipe, acquisition=Both(steps=2), num_inference_steps=3)
    first, second = (torch.stack(by_step[step], 1) for step in (0, 1))
    torch.testing.assert_close(one.scores, first, rtol=1e-6, atol=0)
    torch.testing.assert_close(two.scores, (first + second) / 2, rtol=1e-6, atol=0)
    assert (first - second).abs().min() > 0


def test_more_steps_than_the_pipeline_makes_are_refused(pipe):
    with pytest.raises(BadInput, match=r"steps=5, but the schedule has only 2: raise num_inference_steps"):
        choose(pipe, acquisition=Entropy(steps=5))


def test_random_costs_nothing(pipe):
    choice = choose(pipe, candidates=6, acquisition="random")
    assert choice.scores.shape == (6, 0)
    assert choice.ledger.total == 0
    noises = torch.stack([recipe.draw() for recipe in choice.recipes])
    assert torch.equal(choice.totals, Random().judge(noises))
    assert choice.best == choice.totals.argmin()
    assert choose(pipe, candidates=6, acquisition="random:seed=1").order != choice.order


def test_dropout_runs_each_candidate_several_times(pipe):
    choice = choose(pipe, acquisition=BansaDropout(masks=4))
    assert choice.ledger.entries["scoring"] == pytest.approx(12)
    assert ((choice.scores > 0) & (choice.scores < math.log(4))).all()
    single = choose(pipe, acquisition=BansaDropout(masks=4), batch_size=1)
    torch.testing.assert_close(single.scores, choice.scores, rtol=1e-4, atol=0)
    still = choose(pipe, acquisition=BansaDropout(masks=2, keep=1.0))
    torch.testing.assert_close(still.scores, torch.zeros(3, 3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_dropout_in_an_earlier_layer_is_felt_later(pipe):
    both = choose(pipe, acquisition="bansa-dropout:masks=4")
    last = choose(pipe, acquisition="bansa-dropout:masks=4,layers=transformer_blocks.2.*")
    assert (both.scores[:, 2] - last.scores[:, 0]).abs().min() > 1e-6


@dataclass(frozen=True, kw_only=True)
class Index(AttentionScore):
    """The candidate's row in its batch, so that the order of rows shows."""

    offset: float = 0.0
    name = "index"

    def observe(self, call):
        return torch.arange(call.candidates) + self.offset + 10.0 * call.index


def test_rows_of_a_batch_stay_in_order(pipe):
    choice = choose(pipe, candidates=5, batch_size=3, acquisition=Index(offset=0.5))
    # Two batches, as even as possible: two candidates and three.
    assert choice.scores[:, 0].tolist() == [0.5, 1.5, 0.5, 1.5, 2.5]
    assert choice.scores[:, 2].tolist() == [20.5, 21.5, 20.5, 21.5, 22.5]
    assert choice.order == (0, 2, 1, 3, 4)
    assert (choice.acquisition, choice.options) == ("index", {**AttentionScore().options(), "offset": 0.5})


@dataclass(frozen=True, kw_only=True)
class Wrong(AttentionScore):
    name = "wrong"
    values: Callable

    def observe(self, call):
        return self.values(call)


def test_scores_of_another_shape_are_refused(pipe):
    with pytest.raises(BadInput, match=r"wrong returned scores of shape \(2,\), not one for each of the 3"):
        choose(pipe, acquisition=Wrong(values=lambda call: call.query[:2, 0, 0, 0]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_not_finite_names_candidate_and_layer(pipe, value):
    calls = []

    def values(call):
        calls.append(call)
        scores = torch.zeros(call.candidates)
        # The second layer of the second batch.
        scores[-1] = value if len(calls) == 5 else 0.0
        return scores

    with pytest.raises(BadOutput, match=rf"candidate 3 is {value} at layer transformer_blocks\.1\."):
        choose(pipe, candidates=4, batch_size=2, acquisition=Wrong(values=values))


@pytest.mark.parametrize(
    "acquisition", ["entropy", "bansa:depth=null", "bansa:depth=null,estimator=masked", "bansa-dropout"]
)
@pytest.mark.parametrize("family", ["cogvideox", "ltx"])  # without a mask, and with one
def test_a_broken_model_is_an_error_not_a_number(family, acquisition):
    pipe = BUILDERS[family]()
    with torch.no_grad():
        for name, weight in pipe.transformer.named_parameters():
            if name.startswith("transformer_blocks.1.attn") and ".to_q." in name:
                weight.fill_(torch.nan)
    with pytest.raises(BadOutput, match=r"candidate 0 is nan at layer transformer_blocks\.1\."):
        choose(pipe, acquisition=acquisition, candidates=2, **CALLS[family])


def test_a_function_that_hides_what_is_not_finite_does_not_hide_the_model():
    pipe = cogvideox()
    with torch.no_grad():
        pipe.transformer.transformer_blocks[2].attn1.to_k.weight.fill_(torch.inf)
    zeros = Wrong(values=lambda call: torch.zeros(call.candidates))
    with pytest.raises(BadOutput, match=r"query and key of candidate 0 .* layer transformer_blocks\.2\."):
        choose(pipe, acquisition=zeros)


def test_a_function_of_the_noise_must_be_finite_too(pipe):
    class Judge(NoiseScore):
        name = "judge"

        def judge(self, noises):
            return noises.flatten(1).mean(1) * torch.inf

    with pytest.raises(BadOutput, match="judge of candidate 0 is"):
        choose(pipe, acquisition=Judge())


def test_a_function_without_observe_says_so(pipe):
    with pytest.raises(NotImplementedError, match="AttentionScore does not implement observe"):
        choose(pipe, acquisition=AttentionScore())


def test_a_layer_that_is_skipped_in_a_later_step_is_refused():
    class Caching:
        layers = (LayerInfo("blocks.0", "self", 0), LayerInfo("blocks.1", "self", 1))
        facts = SimpleNamespace(shares=True)
        spec = SimpleNamespace(device=torch.device("cpu"))

        def evaluate(self, noises, handler, **_):
            for step, index in ((0, 0), (0, 1), (1, 0)):
                handler(attention_call(candidates=len(noises), step=step, index=index))

    pool = Pool.of([NoiseRecipe(seed=0, candidate=i, shape=(4,)) for i in range(2)])
    with pytest.raises(NotSupported, match=r"layer blocks\.1 ran in only 1 of 2 denoiser evaluations"):
        Entropy(steps=2).score(Caching(), pool)


def test_one_candidate_is_chosen_without_an_evaluation(pipe):
    choice = choose(pipe, candidates=1)
    assert (choice.best, choice.ledger.total, choice.scores.shape) == (0, 0, (1, 0))
    assert choice.totals.isnan().all()
    assert "nothing to choose" in choice.reason
    with pytest.raises(BadInput, match="depth 9 is beyond the last layer"):
        choose(pipe, candidates=1, acquisition=Bansa(depth=9))


def test_score_scores_a_single_noise(pipe):
    choice = choose(pipe)
    table = score(pipe, PROMPT, [choice.recipes[1]], acquisition=ALL, progress=False, **CALL)
    torch.testing.assert_close(table.totals, choice.totals[1:2], rtol=1e-5, atol=0)
    assert table.ledger.entries["scoring"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be a whole number of at least 1, not 0"),
        ({"candidates": 2.5}, "candidates must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"acquisition": "bansa:depth=4"}, "depth 4 is beyond the last layer: the denoiser has 3"),
        ({"acquisition": Bansa(layers=5)}, "layers must be kinds or globs on layer names, not 5"),
        ({"acquisition": "bansa:layers=temporal"}, "no layer matches 'temporal': the kinds here are 'joint'"),
        ({"call": 3}, "call must map arguments of the pipeline to values, not 3"),
        ({"call": CALL}, "height, .*width is given twice: by itself, and in call"),
        ({"prefer": "high"}, "CogVideoXPipeline has no argument 'prefer'"),
        ({"fps": 8}, "CogVideoXPipeline has no argument 'fps'"),
        ({"call": {"num_frame": 9}}, "has no argument 'num_frame': did you mean 'num_frames'"),
        ({"acquisition": "bald"}, "no acquisition function 'bald'"),
        ({"acquisition": Bansa}, "acquisition must be a name or an Acquisition instance"),
        ({"latents": torch.zeros(1)}, "latents cannot be passed"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(pipe, options, message):
    with pytest.raises(BadInput, match=message) as caught:
        choose(pipe, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(" \n", "blank"), (None, "prompt or prompt_embeds"), ([], "list of prompts is empty")],
)
def test_a_prompt_is_one_text(pipe, prompt, message):
    with pytest.raises(BadInput, match=message):
        select(pipe, prompt, progress=False, **CALL)


def test_prompt_embeds_stand_for_the_prompt(pipe):
    embeds, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=8)
    choice = select(pipe, prompt_embeds=embeds, acquisition=ALL, candidates=3, progress=False, **CALL)
    torch.testing.assert_close(choice.scores, choose(pipe).scores, rtol=1e-5, atol=0)
    assert choice.prompt is None


def test_score_of_recipes_is_that_of_select(pipe):
    choice = choose(pipe, candidates=4)
    table = score(pipe, PROMPT, list(choice.recipes[::-1]), acquisition=ALL, progress=False, **CALL)
    torch.testing.assert_close(table.scores, choice.scores.flip(0), rtol=1e-5, atol=0)
    assert table.recipe == choice.recipe
    assert torch.equal(table.noise, choice.noise)


def test_score_of_tensors_keeps_them(pipe):
    choice = choose(pipe, candidates=4)
    noises = torch.stack([recipe.draw() for recipe in choice.recipes])
    table = score(pipe, PROMPT, noises, acquisition=ALL, progress=False, **CALL)
    torch.testing.assert_close(table.scores, choice.scores, rtol=1e-5, atol=0)
    assert torch.equal(table.noise, choice.noise)
    assert [noise.sha256 for noise in table.recipes] == [recipe.sha256 for recipe in choice.recipes]


def test_equal_noises_tie_and_the_first_wins(pipe):
    noise = NoiseRecipe(seed=0, candidate=0, shape=choose(pipe, candidates=1).recipe.shape).draw()
    for batch_size in (1, 2, 3):
        table = score(pipe, PROMPT, [noise] * 5, batch_size=batch_size, progress=False, **CALL)
        assert table.order == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("noises", "message"),
    [
        (
            torch.zeros(2, 4, 4, 4),
            r"noise 0 has shape \(4, 4, 4\), but this pipeline's latents have shape \(3, 4, 4, 4\)",
        ),
        ([], "no noise to score"),
        (torch.tensor(1.0), "the noises must be one tensor, or a list of noises and recipes, not tensor"),
        (np.zeros((1, 3, 4, 4, 4)), "the noises must be one tensor, or a list"),
        ([np.zeros((3, 4, 4, 4))], "noise 0 must be a tensor or a recipe, not ndarray"),
        (torch.full((1, 3, 4, 4, 4), torch.nan), "noise 0 has values that are not finite"),
    ],
)
def test_score_refuses_noises_that_do_not_fit(pipe, noises, message):
    with pytest.raises(BadInput, match=message):
        score(pipe, PROMPT, noises, progress=False, **CALL)


def test_progress_runs_to_the_total(pipe):
    seen = []
    choose(
        pipe, candidates=4, batch_size=2, acquisition=Bansa(depth=2), progress=lambda *now: seen.append(now)
    )
    assert {what for what, _, _ in seen} == {"scoring"}
    assert {total for _, _, total in seen} == {4 * (2 / 3)}
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert len(done) == 4
    assert done[-1] == pytest.approx(4 * 2 / 3)


def test_the_bar_goes_to_stderr(pipe, capsys):
    choose(pipe, progress=True)
    assert capsys.readouterr().out == ""


def test_the_pipeline_is_as_before(pipe):
    noise = choose(pipe, candidates=1).noise
    before = pipe(PROMPT, latents=noise, output_type="latent", **CALL).frames
    choose(pipe, acquisition="bansa-dropout:masks=2")
    with pytest.raises(BadInput):
        choose(pipe, acquisition=Wrong(values=lambda call: call.query))
    assert torch.equal(pipe(PROMPT, latents=noise, output_type="latent", **CALL).frames, before)


def test_every_family_has_a_choice(pipe_of, family):
    pipe, call = pipe_of(family), CALLS[family]
    options = {"acquisition": ALL, "candidates": 3, "progress": False, **call}
    choice = select(pipe, PROMPT, **options)
    assert choice.scores.shape == (3, len(choice.layers))
    assert (choice.scores >= 0).all()
    assert (choice.scores <= math.log(10)).all()
    assert choice.totals.std() > 0
    single = select(pipe, PROMPT, batch_size=1, **options)
    torch.testing.assert_close(single.scores, choice.scores, rtol=1e-4, atol=1e-7)
    assert single.order == choice.order
    pipe(PROMPT, latents=choice.noise, output_type="latent", **call)


def test_the_number_of_candidates_is_ten_six_for_previews_or_what_is_asked(pipe):
    assert len(choose(pipe, candidates=None, acquisition="random").recipes) == 10
    previews = Previews(verifier=lambda frames, prompts: torch.arange(len(frames)), schedule=((1, 1),))
    assert len(choose(pipe, candidates=None, acquisition=previews).recipes) == 6
    assert len(choose(pipe, candidates=4, acquisition=previews).recipes) == 4


def test_call_takes_what_the_pipeline_takes(pipe):
    choice = choose(pipe, seed=2)
    names = {name: CALL[name] for name in ("height", "width")}
    rest = {name: value for name, value in CALL.items() if name not in names}
    mixed = select(pipe, PROMPT, acquisition=ALL, candidates=3, seed=2, progress=False, call=names, **rest)
    assert mixed.scores.tolist() == choice.scores.tolist()
    assert mixed.call == choice.call
    table = score(pipe, PROMPT, list(choice.recipes), acquisition=ALL, progress=False, call=CALL)
    assert table.scores.tolist() == choice.scores.tolist()


def test_lists_in_call_have_an_entry_for_each_prompt(pipe):
    prompts, negatives = [PROMPT, "a koala"], ["a square", "a circle"]
    options = {"acquisition": "random", "candidates": 2, "progress": False, **CALL}
    plain = select(pipe, prompts, negative_prompt=negatives, **options)
    inside = select(pipe, prompts, call={"negative_prompt": negatives}, **options)
    assert [choice.call for choice in inside] == [choice.call for choice in plain]
    assert [choice.call["negative_prompt"] for choice in inside] == negatives
    with pytest.raises(BadInput, match="negative_prompt is a list of 2, but there are 3 prompts"):
        select(pipe, [*prompts, "a cat"], call={"negative_prompt": negatives}, **options)


def test_an_argument_that_has_one_of_our_names_goes_into_call():
    plain = cogvideox()

    class Pipe(type(plain)):
        @wraps(type(plain).__call__)
        def __call__(self, *args, seed=None, batch_size=None, **kwargs):
            seen.append((seed, batch_size))
            return type(plain).__call__(self, *args, **kwargs)

    own = signature(Pipe.__call__)
    both = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in ("seed", "batch_size")]
    Pipe.__call__.__signature__ = own.replace(parameters=[*own.parameters.values(), *both])
    seen, pipe = [], Pipe(**plain.components)
    pipe.set_progress_bar_config(disable=True)
    choice = choose(pipe, seed=3, candidates=2, call={"seed": 5, "batch_size": 7})
    assert {*seen} == {(5, 7)} and choice.recipe.seed == 3
    assert (choice.call["seed"], choice.call["batch_size"]) == (5, 7)


def test_a_pipeline_has_its_own_fps():
    """Stable Video Diffusion tells its denoiser how fast the video is to be."""
    family = next(family for family in FAMILIES if family.name == "Stable Video Diffusion")
    seen, pipe = [], family.build()

    def look(module, args, kwargs):
        seen.append(kwargs["added_time_ids"][0, 0].item())

    pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    choice = select(pipe, candidates=2, acquisition="entropy", progress=False, fps=13, **family.call)
    assert choice.call["fps"] == 13 and {*seen} == {12.0}  # one less, as the model was trained


def test_each_noise_is_drawn_once(pipe, monkeypatch):
    drawn = []
    draw = NoiseRecipe.draw
    monkeypatch.setattr(NoiseRecipe, "draw", lambda self: drawn.append(self.candidate) or draw(self))
    previews = Previews(verifier=lambda frames, prompts: torch.arange(len(frames)), schedule=((1, 1),))
    for acquisition in ("random", ALL, Bansa(depth=None, race=((1, 2),)), previews):
        drawn.clear()
        choice = choose(pipe, candidates=4, acquisition=acquisition, batch_size=2)
        assert choice.noise.shape[0] == 1 and sorted(drawn) == [0, 1, 2, 3]
        drawn.clear()
        score(pipe, PROMPT, list(choice.recipes), acquisition=acquisition, progress=False, **CALL)
        assert sorted(drawn) == [0, 1, 2, 3]


def test_a_pool_holds_what_its_recipes_draw():
    recipes = [NoiseRecipe(seed=4, candidate=i, shape=(2, 3)) for i in range(3)]
    given = GivenNoise.of(torch.full((2, 3), 2.0), 3)
    pool = Pool.of([*recipes, given])
    assert len(pool) == 4 and pool.noises.shape == (4, 2, 3)
    assert all(torch.equal(noise, r.draw()) for noise, r in zip(pool.noises, pool.recipes, strict=True))
    assert all(recipe.sha256 for recipe in pool.recipes)
    assert Pool.of(pool.recipes[:3]).recipes == pool.recipes[:3]


@pytest.mark.parametrize("make", [select, generate, contact_sheet])
def test_more_candidates_than_a_machine_holds_are_refused_at_once(pipe_of, monkeypatch, make):
    """By their number, and by the memory of their noises."""
    pipe, call = pipe_of("cogvideox"), {"progress": False, **CALLS["cogvideox"]}
    with pytest.raises(BadInput, match=r"100,000,000 candidates are too many .* at most 10,000 of CogV"):
        make(pipe, PROMPT, candidates=10**8, **call)
    monkeypatch.setattr("seedbed.selection.pools.MOST_BYTES", 3 * 4 * 192)
    with pytest.raises(BadInput, match="at most 3 of"):
        make(pipe, PROMPT, candidates=4, **call)
    if make is not select:
        with pytest.raises(BadInput, match="at most 3 of"):
            make(pipe, PROMPT, noises=[NoiseRecipe(seed=0, candidate=0, shape=(3, 4, 4, 4))] * 4, **call)
    made = make(pipe, PROMPT, candidates=3, **call)
    assert len(getattr(made, "selection", made).recipes) == 3
