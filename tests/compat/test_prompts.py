"""A list of prompts selects for each; several videos of a prompt keep several noises."""

import numpy as np
import pytest
import torch

import seedbed
from seedbed import BadInput, BadRecord, Selection
from seedbed.acquisition import Bansa
from seedbed.selection.record import sealed
from tests.conftest import slow
from tests.pipelines import CALLS, PROMPT

PROMPTS = ["a red circle moving left", "a koala", "a blue square moving up"]
CALL = CALLS["wan"]
QUIET = {"candidates": 3, "progress": False}


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("wan")


@pytest.mark.parametrize("family", ["wan", "cogvideox", slow("animatediff"), slow("sdxl")])
def test_a_list_of_prompts_is_as_many_single_calls(pipe_of, family):
    pipe, call = pipe_of(family), CALLS[family]
    choices = seedbed.select(pipe, PROMPTS, seed=5, **QUIET, **call)
    for index, (prompt, choice) in enumerate(zip(PROMPTS, choices, strict=True)):
        single = seedbed.select(pipe, prompt, seed=5 + index, **QUIET, **call)
        assert choice.prompt == prompt and choice.order == single.order
        torch.testing.assert_close(choice.scores, single.scores, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(choice.noise, single.noise)
    assert len({choice.recipe.seed for choice in choices}) == len(PROMPTS)
    pipe(PROMPTS, latents=torch.cat([choice.noise for choice in choices]), output_type="latent", **call)


def test_the_first_prompt_has_the_default_seed(pipe):
    choices = seedbed.select(pipe, tuple(PROMPTS[:2]), **QUIET, **CALL)
    assert isinstance(choices, list) and [choice.recipe.seed for choice in choices] == [0, 1]


def test_a_list_of_prompts_is_generated_one_by_one(pipe):
    call = {**CALL, "guidance_scale": 3.0}
    made = seedbed.generate(pipe, PROMPTS[:2], negative_prompt=["a square", "a circle"], **QUIET, **call)
    for index, (prompt, negative) in enumerate(zip(PROMPTS[:2], ["a square", "a circle"], strict=True)):
        single = seedbed.generate(pipe, prompt, seed=index, negative_prompt=negative, **QUIET, **call)
        assert np.array_equal(single.frames, made[index].frames)
        assert made[index].selection.call["negative_prompt"] == negative
        assert seedbed.replay(made[index].record(), pipe, progress=False).identical
    other = seedbed.generate(pipe, PROMPTS[:1], negative_prompt="a koala", **QUIET, **call)
    assert not np.array_equal(other[0].frames, made[0].frames)


def test_each_prompt_may_have_a_generator(pipe):
    generators = [torch.Generator().manual_seed(index) for index in range(2)]
    made = seedbed.generate(pipe, PROMPTS[:2], generator=generators, **QUIET, **CALL)
    assert [video.selection.missing for video in made] == [{"generator": "Generator"}] * 2


@pytest.mark.parametrize("function", [seedbed.select, seedbed.generate])
@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "the list of prompts is empty"),
        (["a", " "], {}, "prompt 1 of the list must be a text that is not blank"),
        (["a", 3], {}, "prompt 1 of the list must be a text"),
        (["a", "b"], {"negative_prompt": ["c"]}, "negative_prompt is a list of 1, but there are 2 prompts"),
        (["a", "b"], {"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_in_one_line(pipe, function, prompts, options, message):
    with pytest.raises(BadInput, match=message) as caught:
        function(pipe, prompts, **QUIET, **CALL, **options)
    assert "\n" not in str(caught.value)


def frames_of(output):
    return np.asarray(output.frames if hasattr(output, "frames") else output.images)


SEVERAL = {"wan": "num_videos_per_prompt", "ltx": "num_videos_per_prompt", "sdxl": "num_images_per_prompt"}


@pytest.mark.parametrize("family", SEVERAL)
def test_the_best_noises_are_kept_for_several_videos(pipe_of, family, tmp_path):
    pipe, call = pipe_of(family), CALLS[family]
    options = {**QUIET, "candidates": 4, **call}
    choice = seedbed.select(pipe, PROMPT, **{SEVERAL[family]: 3}, **options)
    one = seedbed.select(pipe, PROMPT, **options)
    assert choice.order == one.order and torch.equal(choice.scores, one.scores)
    best = [choice.recipes[candidate].draw() for candidate in choice.order[:3]]
    assert torch.equal(choice.noise, torch.stack(best)) and torch.equal(choice.noise[:1], one.noise)

    def frames(noise, **more):
        return frames_of(pipe(PROMPT, latents=noise, output_type="np", **call, **more))

    together = frames(choice.noise, **{SEVERAL[family]: 3})
    as_it_stands = pipe(PROMPT, latents=choice.noise, output_type="np", **choice.call)
    assert np.array_equal(together, frames_of(as_it_stands))
    assert len(together) == 3
    for index, noise in enumerate(choice.noise.split(1)):
        np.testing.assert_allclose(together[index], frames(noise)[0], atol=1e-4)

    again = Selection.load(choice.save(tmp_path / "choice.json"))
    assert again.kept == 3 and torch.equal(again.noise, choice.noise)
    assert again.call == choice.call and choice.call[SEVERAL[family]] == 3
    made = seedbed.replay(tmp_path / "choice.json", pipe, progress=False)
    np.testing.assert_allclose(made.frames.squeeze() / 255, together[0], atol=0.003)


@pytest.mark.parametrize("family", ["cogvideox", slow("animatediff")])
def test_pipelines_that_ignore_the_number_get_the_prompt_as_often(pipe_of, family):
    pipe, call = pipe_of(family), CALLS[family]
    assert len(pipe(PROMPT, num_videos_per_prompt=2, output_type="latent", **call).frames) == 1
    choice = seedbed.select(pipe, PROMPT, num_videos_per_prompt=2, **QUIET, **call)
    assert len(pipe([PROMPT] * 2, latents=choice.noise, output_type="latent", **call).frames) == 2


def test_prompts_with_several_videos_each(pipe):
    choices = seedbed.select(pipe, PROMPTS[:2], num_videos_per_prompt=2, **QUIET, **CALL)
    noises = torch.cat([choice.noise for choice in choices])
    made = pipe(PROMPTS[:2], latents=noises, num_videos_per_prompt=2, output_type="latent", **CALL)
    assert len(noises) == len(made.frames) == 4


def test_a_race_among_several_is_run_only_if_asked_for(pipe):
    asked = {
        "num_videos_per_prompt": 2,
        "acquisition": Bansa(depth=None, race=((1, 2), (2, 1))),
        "candidates": 4,
        "progress": False,
    }
    assert seedbed.select(pipe, PROMPT, **asked, **CALL).race == ((1, 2), (2, 1))
    asked["acquisition"] = Bansa(depth=None)
    choice = seedbed.select(pipe, PROMPT, **asked, **CALL)
    assert choice.race == () and choice.ledger.entries["scoring"] == pytest.approx(4)


def test_given_noises_are_kept_too(pipe):
    shape = seedbed.select(pipe, PROMPT, candidates=1, progress=False, **CALL).recipe.shape
    noises = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    table = seedbed.score(pipe, PROMPT, noises, num_videos_per_prompt=2, progress=False, **CALL)
    assert torch.equal(table.noise, noises[list(table.order[:2])])


def test_records_of_one_noise_are_as_they_were(pipe):
    choice = seedbed.select(pipe, PROMPT, **QUIET, **CALL)
    assert "kept" not in choice.to_dict() and Selection.from_dict(choice.to_dict()).kept == 1
    for kept in (0, 4):
        with pytest.raises(BadRecord, match="damaged"):
            Selection.from_dict(sealed({**choice.to_dict(), "kept": kept}))


@pytest.mark.parametrize(
    ("count", "message"),
    [(4, "num_videos_per_prompt=4, but there are only 3 candidates: raise candidates")]
    + [(bad, "num_videos_per_prompt must be a whole number of at least 1") for bad in (0, 1.5, "2", True)],
)
def test_numbers_that_cannot_be_kept_are_refused_in_one_line(pipe, count, message):
    with pytest.raises(BadInput, match=message) as caught:
        seedbed.select(pipe, PROMPT, num_videos_per_prompt=count, **QUIET, **CALL)
    assert "\n" not in str(caught.value)


def test_a_number_that_the_pipeline_does_not_take_is_refused(pipe):
    with pytest.raises(BadInput, match="WanPipeline has no argument 'num_images_per_prompt'"):
        seedbed.select(pipe, PROMPT, num_images_per_prompt=2, **QUIET, **CALL)


def test_generate_makes_one_video_of_each_prompt(pipe):
    with pytest.raises(BadInput, match="generate makes one video for each prompt: select") as caught:
        seedbed.generate(pipe, PROMPT, num_videos_per_prompt=2, **QUIET, **CALL)
    assert "\n" not in str(caught.value)
    assert len(seedbed.generate(pipe, PROMPT, num_videos_per_prompt=1, **QUIET, **CALL).frames) == 9
