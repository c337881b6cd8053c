"""Every pipeline of the table: selection, previews and replay work, and it is as before afterwards."""

import diffusers
import numpy as np
import pytest
import torch

import seedbed
from seedbed.acquisition import AttentionScore, Previews
from tests.breadth import runs
from tests.breadth.facts import SHORT, facts
from tests.breadth.table import COMMAND, PAGE, line, written
from tests.pipelines import CALLS, DEFAULT, FAMILIES, Family, sdxl
from tests.pipelines.family import Missing

# Where a seed names the noise, and with which the frames of the pipeline's own call.
SEEDED = ("yes", "through `seedbed.generate`", "the same noise, but more is drawn after it")


class Broken(Exception):
    pass


class Breaking(AttentionScore):
    """Fails in the middle of a forward."""

    name = "breaking"

    def observe(self, call):
        if call.index:
            raise Broken
        return torch.zeros(call.candidates)


def broken(videos, prompts):
    raise Broken


@pytest.fixture(
    params=[
        pytest.param(each, id=each.name, marks=() if each.name in DEFAULT else pytest.mark.slow)
        for each in FAMILIES
    ]
)
def family(request) -> Family:
    try:
        runs.pipeline(request.param)
    except Missing as error:
        pytest.skip(str(error))
    return request.param


def needs(family, what):
    """Ends the test of what a family cannot do: it must be refused with the line that the family names."""
    if what in family.unsupported:
        assert getattr(facts(family), what) == family.unsupported[what]
        pytest.skip(family.unsupported[what])


def test_selects_by_attention(family):
    needs(family, "selection")
    made = runs.generation(family)
    chosen = made.selection
    assert chosen.scores.shape == (3, len(chosen.layers)) and chosen.layers
    assert (chosen.scores.std(0) > 0).any()
    assert (len(made.frames) == 1) == (family.kind == "image")


def test_replays(family):
    needs(family, "replay")
    assert runs.replayed(family).identical


def test_the_noise_of_a_seed_is_what_the_pipeline_draws(family):
    """Bit by bit, or a line says why it is not."""
    if "selection" not in family.unsupported:
        seed = facts(family).seed
        assert seed in SEEDED or seed.startswith('no prior="torch" for '), seed


def test_refiners_make_other_frames_and_replay(family):
    """At strength 0 the same ones; or the page says why it cannot be used."""
    if "selection" not in family.unsupported:
        assert {*facts(family).refiners} <= {"yes", *SHORT.values()}


def test_adaptations_make_other_frames_and_replay(family):
    """At strength 0 the same ones, of the last layer no other one is touched; or the page says why not."""
    if "selection" not in family.unsupported:
        study, maps, *acting = facts(family).adaptations
        assert {study, *acting} <= {"yes", "the prompt changes nothing", *SHORT.values()}
        assert maps in ("words, places", "words", "places", *SHORT.values())


def test_scores_are_the_same_in_every_batch(family):
    needs(family, "selection")
    together = runs.generation(family).selection.scores
    torch.testing.assert_close(runs.scores_one_by_one(family), together, rtol=1e-4, atol=1e-6)


def test_chooses_by_previews(family):
    needs(family, "previews")
    made = runs.previewed(family)
    assert made.selection.best == 0 and made.frames.dtype == np.uint8


def test_is_as_before(family):
    """After all of the above, and after errors in the middle of a forward and between two steps."""
    runs.generation(family)
    pipe, call = runs.pipeline(family), {**family.call, **runs.QUIET}
    with pytest.raises(Broken):
        seedbed.select(pipe, family.prompt, candidates=2, acquisition=Breaking(), **call)
    if "previews" not in family.unsupported:
        previews = Previews(verifier=broken, schedule=((1, 1),))
        with pytest.raises(Broken):
            seedbed.select(pipe, family.prompt, candidates=2, acquisition=previews, **call)
    before, after = runs.weights_as_built(family), runs.weights(pipe)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert not runs.traces(pipe)
    # What the pipeline's own call makes now is what `generation` made earlier.
    if facts(family).noise == "`latents=`":
        assert runs.takes_the_noise(family)


def test_the_page_says_so(family):
    row, on_page = line(facts(family).cells()), written(PAGE.read_text()).get(family.name, "")
    if not on_page.endswith(f" {diffusers.__version__} |"):  # the version alone may differ
        row, on_page = (text.rpartition(" | ")[0] for text in (row, on_page))
    assert on_page == row, f"docs/pipelines.md is not of today: run {COMMAND}"


def test_the_page_has_no_other_rows():
    assert list(written(PAGE.read_text())) == [family.name for family in FAMILIES], f"run {COMMAND}"


def test_a_row_says_what_is_refused():
    def sliced():
        pipe = sdxl()
        pipe.enable_attention_slicing(1)
        return pipe

    refused = "attn1 attends by SlicedAttnProcessor"
    row = facts(Family("sliced", sliced, CALLS["sdxl"], kind="image"))
    assert refused in row.selection and refused in row.replay
    assert (row.attention, row.scored, row.previews) == ("–", "–", "yes")
