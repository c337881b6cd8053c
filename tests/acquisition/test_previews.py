"""Choosing by previews: who is judged and dropped when, what it costs, and that the record replays."""

import json

import numpy as np
import pytest
import torch

from seedbed import BadInput, BadOutput, BadRecord, Selection, contact_sheet, generate, replay, score, select
from seedbed.acquisition import Previews
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.selection.record import sealed
from tests.pipelines import CALLS, PROMPT, svd

CALL = {**CALLS["cogvideox"], "num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


def brightness(frames, prompts):
    assert frames.dtype == np.uint8 and frames.ndim == 5 and len(frames) == len(prompts)
    assert set(prompts) == {PROMPT}
    return torch.from_numpy(frames.reshape(len(frames), -1).mean(1))


def run(pipe, verifier=brightness, schedule=None, make=generate, **options):
    function = Previews(verifier=verifier, schedule=schedule)
    settings = {"acquisition": function, "candidates": 6, "seed": 2, "progress": False, **CALL, **options}
    return make(pipe, PROMPT, **settings)


@pytest.fixture(scope="module")
def video(pipe_of):
    return run(pipe_of("cogvideox"), schedule=((1, 4), (3, 2)))


@pytest.fixture(scope="module")
def judgements(pipe_of):
    """The verifier's score of every candidate after every step, and the finished videos, independently."""
    session = Session(pipe_of("cogvideox"), PROMPT, **CALL)
    noises = torch.stack(
        [recipe.draw() for recipe in select(session.pipe, PROMPT, candidates=6, seed=2, acquisition="random",
                                            progress=False, **CALL).recipes]
    )  # fmt: skip
    frames = {step: Rollout(session, noises).advance(step) for step in (1, 3)}
    frames[4] = [session.generate(noise) for noise in noises]
    scores = {step: brightness(np.stack(f), [PROMPT] * 6).tolist() for step, f in frames.items()}
    return scores, frames[4]


def test_each_rung_keeps_the_best_of_those_left(video, judgements):
    scores, finished = judgements
    first, second, last = video.selection.rungs
    alive = sorted(range(6), key=lambda c: -scores[1][c])
    assert (first.steps, first.candidates, first.kept) == (1, tuple(range(6)), tuple(alive[:4]))
    assert first.scores == pytest.approx(scores[1])
    left = sorted(alive[:4])
    then = sorted(left, key=lambda c: -scores[3][c])
    assert (second.steps, second.candidates, second.kept) == (3, tuple(left), tuple(then[:2]))
    assert second.scores == pytest.approx([scores[3][c] for c in left])
    end = sorted(then[:2], key=lambda c: -scores[4][c])
    assert (last.steps, last.candidates, last.kept) == (4, tuple(sorted(then[:2])), (end[0],))
    selection = video.selection
    assert selection.order == (end[0], end[1], *then[2:], *alive[4:])
    assert np.array_equal(video.frames, finished[end[0]])
    assert selection.totals[alive[5]] == pytest.approx(scores[1][alive[5]])
    assert selection.totals[end[0]] == pytest.approx(scores[4][end[0]])
    assert len(selection.previews) == 6


def test_nothing_is_paid_twice(video, pipe):
    # Two rows a step: six candidates for one step, four for two, two for the last.
    assert video.selection.ledger.entries == {"preview": 2 * (6 + 4 * 2 + 2) - 8, "generation": 8}
    assert set(video.selection.seconds) == {"preview", "verifier", "generation"}
    early = run(pipe, schedule=((1, 1),))
    assert early.selection.ledger.entries == {"preview": 2 * 5, "generation": 8}
    best_of = run(pipe, schedule=((4, 1),))
    assert best_of.selection.ledger.entries == {"preview": 8 * 5, "generation": 8}
    plain = run(pipe, guidance_scale=1.0, schedule=((1, 1),))
    assert plain.selection.ledger.entries == {"preview": 5, "generation": 4}


def test_the_best_of_finished_videos(pipe, judgements):
    scores, finished = judgements
    best = max(range(6), key=lambda c: scores[4][c])
    video = run(pipe, schedule=((4, 1),))
    assert video.selection.best == best and np.array_equal(video.frames, finished[best])


@pytest.mark.parametrize("name", ["video.mp4", "video.json"])
def test_a_record_replays_the_identical_video(video, pipe, tmp_path, name):
    path = video.save(tmp_path / name)
    loaded = Selection.load(path)
    assert loaded.rungs == video.selection.rungs and loaded.acquisition == "previews"
    assert loaded.options["schedule"] == [[1, 4], [3, 2]]
    assert loaded.options["verifier"].endswith("test_previews.brightness")
    again = replay(path, pipe, progress=False)
    assert again.identical and np.array_equal(again.frames, video.frames)
    assert again.record() == video.record()


def test_a_record_without_rungs_is_as_before(pipe):
    plain = select(pipe, PROMPT, candidates=2, progress=False, **CALL).to_dict()
    assert "rungs" not in plain
    assert Selection.from_dict(plain).rungs == ()


@pytest.mark.parametrize(
    "change", [{"kept": [9]}, {"scores": [1.0]}, {"candidates": None}], ids=["kept", "scores", "candidates"]
)
def test_a_damaged_rung_is_refused(video, change):
    record = json.loads(json.dumps(video.record()))
    record["rungs"][0].update(change)
    with pytest.raises(BadRecord, match="damaged"):
        Selection.from_dict(sealed(record))


def test_batches_choose_the_same(pipe, video):
    batched = run(pipe, schedule=((1, 4), (3, 2)), batch_size=4)
    assert batched.selection.order == video.selection.order
    assert batched.selection.ledger.entries == video.selection.ledger.entries
    assert np.abs(batched.frames.astype(int) - video.frames).max() <= 1


def test_a_dict_of_numbers_is_recorded_and_its_score_decides(pipe, video):
    def verifier(frames, prompts):
        scores = brightness(frames, prompts)
        return {"contrast": torch.from_numpy(frames.reshape(len(frames), -1).std(1)), "score": scores}

    both = run(pipe, verifier, schedule=((1, 4), (3, 2)))
    assert both.selection.order == video.selection.order
    rung = both.selection.rungs[0]
    assert list(rung.columns) == ["contrast"] and len(rung.columns["contrast"]) == 6
    assert Selection.from_dict(both.record()).rungs == both.selection.rungs


def test_equal_scores_keep_the_order_of_the_noises(pipe):
    video = run(pipe, lambda frames, prompts: torch.zeros(len(frames)), schedule=((1, 3), (2, 1)))
    assert video.selection.order == (0, 1, 2, 3, 4, 5)


def test_a_single_candidate_is_generated_without_being_judged(pipe):
    video = run(pipe, candidates=1)
    assert video.selection.ledger.entries == {"generation": 8}
    assert video.selection.rungs == () and "nothing to choose" in video.selection.reason
    assert replay(video.record(), pipe, progress=False).identical


def test_progress_and_report(pipe, tmp_path):
    seen = []
    video = run(pipe, schedule=((1, 2), (2, 1)), progress=lambda *step: seen.append(step))
    assert seen[0] == ("preview", 0, 6) and seen[6] == ("preview", 6, 6)
    assert seen[-1] == ("generation", 2, 2)
    assert all(done <= total for _, done, total in seen)
    page = video.report(tmp_path / "page.html").read_text()
    assert "Score after 1 step<" in page and "Score after 2 steps<" in page and page.count("<video") == 7


@pytest.mark.parametrize(
    "schedule, message",
    [
        ((), "the schedule is empty"),
        (3, "cannot read the schedule 3"),
        ((3, 5), r"cannot read the schedule \(3, 5\)"),
        (((1, 2, 3),), "cannot read the schedule"),
        (((1, 2.0),), "cannot read the schedule"),
        (((0, 2),), "steps must rise from 1, but 0 comes after 0"),
        (((2, 3), (2, 1)), "steps must rise from 1, but 2 comes after 2"),
        (((5, 1),), "drops candidates after 5 steps, but there are only 4"),
        (((1, 6),), "keeps 6 of 6 candidates after 1 steps: survivors must fall"),
        (((1, 2), (2, 2)), "keeps 2 of 2 candidates after 2 steps"),
        (((1, 0),), "keeps 0 candidates"),
        (((4, 2),), "let the last rung keep 1"),
    ],
)
def test_schedules_that_cannot_be(pipe, schedule, message):
    with pytest.raises(BadInput, match=message) as error:
        run(pipe, schedule=schedule)
    assert "\n" not in str(error.value)


def test_a_text_names_a_verifier(pipe, video):
    with pytest.raises(BadInput, match="there is no verifier 'brightness'"):
        Previews(verifier="brightness")
    again = run(pipe, acquisition="previews:verifier=shapes,schedule=[[1,1]]", candidates=1)
    assert again.selection.acquisition == "previews"
    assert again.selection.options["verifier"] == "shapes"


def test_select_alone_makes_the_same_choice(pipe, video):
    choice = run(pipe, schedule=((1, 4), (3, 2)), make=select)
    assert choice.order == video.selection.order and choice.rungs == video.selection.rungs
    assert torch.equal(choice.noise, video.selection.noise)
    assert choice.ledger.entries == {"preview": 2 * (6 + 4 * 2 + 2)}
    assert len(choice.previews) == 6 and choice.seconds.keys() == {"preview", "verifier"}
    assert "judged previews after 1, 3 and 4 of 4 steps" in choice.reason


def test_the_other_end_of_the_verifiers_scale(pipe, judgements):
    scores, _ = judgements
    function = Previews(verifier=brightness, schedule=((1, 1),), prefer="low")
    choice = run(pipe, acquisition=function, make=select)
    assert choice.best == min(range(6), key=lambda c: scores[1][c]) and choice.prefer == "low"


def test_noises_of_ones_own_are_judged_too(pipe, video):
    function = Previews(verifier=brightness, schedule=((1, 4), (3, 2)))
    options = {"acquisition": function, "progress": False, **CALL}
    noises = torch.stack([recipe.draw() for recipe in video.selection.recipes])
    scored = score(pipe, PROMPT, noises, **options)
    assert scored.order == video.selection.order and scored.rungs == video.selection.rungs
    assert scored.totals.tolist() == video.selection.totals.tolist()
    mixed = score(pipe, PROMPT, [*video.selection.recipes[:3], *noises[3:]], **options)
    assert mixed.order == scored.order
    single = score(pipe, PROMPT, noises[2:3], **options)
    assert single.totals.isfinite().all() and single.ledger.entries == {"preview": 2 * 3}
    assert [rung.steps for rung in single.rungs] == [3]


def test_a_schedule_that_drops_nobody_judges_the_finished_videos(pipe, judgements):
    scores, finished = judgements
    video = run(pipe, schedule=((0.5, 0.99),), candidates=2)
    best = max(range(2), key=lambda c: scores[4][c])
    assert video.selection.best == best and np.array_equal(video.frames, finished[best])
    assert video.selection.ledger.entries == {"preview": 8, "generation": 8}


@pytest.mark.parametrize(
    "verdict, kind, message",
    [
        (lambda n: torch.zeros(n, 1), BadInput, r"score has shape \(6, 1\) for 6 videos"),
        (lambda n: torch.zeros(n - 1), BadInput, r"score has shape \(5,\) for 6 videos"),
        (lambda n: 1.0, BadInput, r"score has shape \(\) for 6 videos"),
        (lambda n: None, BadInput, "score is no tensor of numbers, but None"),
        (lambda n: {}, BadInput, "the verifier returned nothing, but no 'score'"),
        (lambda n: {"clip": torch.zeros(n)}, BadInput, "the verifier returned clip, but no 'score'"),
        (lambda n: torch.full((n,), torch.nan), BadOutput, "score of candidate 0 for .* is nan"),
    ],
)  # fmt: skip
def test_verdicts_that_are_none(pipe, verdict, kind, message):
    with pytest.raises(kind, match=message) as error:
        run(pipe, lambda frames, prompts: verdict(len(frames)))
    assert "\n" not in str(error.value)


def test_a_bad_number_names_its_candidate_in_later_rungs(pipe, video):
    def verifier(frames, prompts):
        scores = brightness(frames, prompts)
        return scores if len(frames) == 6 else scores / torch.tensor([1.0, 1.0, 0.0, 1.0])

    third = video.selection.rungs[1].candidates[2]
    with pytest.raises(BadOutput, match=f"score of candidate {third} for .* is inf"):
        run(pipe, verifier, schedule=((1, 4), (3, 2)))


@pytest.mark.slow
def test_a_pipeline_without_a_prompt_is_judged_by_its_videos():
    (family,) = svd.FAMILIES
    prompts = []

    def judge(videos, given):
        prompts.extend(given)
        return -np.arange(len(videos), dtype=float)

    function = Previews(verifier=judge, schedule=((1, 1),))
    made = generate(family.built(), acquisition=function, candidates=2, progress=False, **family.call)
    assert prompts == ["", ""] and made.selection.best == 0 and made.selection.prompt is None
    seen = contact_sheet(family.built(), verifier=judge, candidates=2, after=1, progress=False, **family.call)
    assert prompts == [""] * 4 and seen.selection.best == 0


def test_other_arguments_that_cannot_be(pipe):
    for options, message in (
        ({"candidates": 0}, "candidates must be a whole number"),
        ({"fps": 8}, "CogVideoXPipeline has no argument 'fps'"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"num_frame": 9}, "did you mean 'num_frames'"),
    ):
        with pytest.raises(BadInput, match=message):
            run(pipe, **options)
    with pytest.raises(BadInput, match="add verifier_prompt="):
        generate(pipe, acquisition=Previews(verifier=brightness), prompt_embeds=torch.zeros(1, 8, 16), **CALL)
