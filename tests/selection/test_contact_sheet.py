"""Contact sheets: what they show, what they remember, and that going on from one pays for nothing twice."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import CogVideoXDPMScheduler

from seedbed import BadInput, BadRecord, ContactSheet, Selection, contact_sheet, replay, select
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import model_sha256
from seedbed.selection.record import sealed
from tests.pipelines import BUILDERS, CALLS, PROMPT

CALL = {**CALLS["cogvideox"], "num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


def brightness(frames, prompts):
    return torch.from_numpy(frames.reshape(len(frames), -1).mean(1))


@pytest.fixture(scope="module")
def sheet(pipe_of):
    return contact_sheet(pipe_of("cogvideox"), PROMPT, after=3, candidates=3, seed=4, progress=False, **CALL)


@pytest.fixture
def saved(sheet, tmp_path):
    return sheet.save(tmp_path / "koala-previews.json")


def finish(path, candidate, pipe, **options):
    return ContactSheet.load(path).finish(candidate, pipe, **{"progress": False, **options})


def generated(pipe, sheet, candidate):
    return Session(pipe, PROMPT, **CALL).generate(sheet.selection.recipes[candidate].draw())


def test_a_sheet_shows_every_candidate_and_chooses_none(pipe, sheet):
    selection = sheet.selection
    noises = torch.stack([recipe.draw() for recipe in selection.recipes])
    expected = Rollout(Session(pipe, PROMPT, **CALL), noises).advance(3)
    assert all(map(np.array_equal, selection.previews, expected)) and len(expected) == 3
    assert selection.order == (0, 1, 2) and selection.totals.isnan().all() and selection.rungs == ()
    assert selection.ledger.entries == {"preview": 3 * 3 * 2}
    assert (sheet.steps, sheet.all) == (3, 4) and "for a person to choose from" in selection.reason


def test_who_looks_on_sees_every_step_and_changes_nothing(pipe, sheet):
    seen = []
    call = dict(after=3, candidates=3, seed=4, progress=False, **CALL)
    again = contact_sheet(pipe, PROMPT, live=lambda step, frames: seen.append((step, frames)), **call)
    assert [step for step, _ in seen] == [1, 2, 3]
    noises = torch.stack([recipe.draw() for recipe in sheet.selection.recipes])
    for step, frames in seen:
        assert all(map(np.array_equal, frames, Rollout(Session(pipe, PROMPT, **CALL), noises).advance(step)))
    own, other = again.record(), sheet.record()
    for record in (own, other):
        del record["seconds"], record["digest"]
    assert own == other

    def leave(step, frames):
        raise StopIteration

    with pytest.raises(StopIteration):
        contact_sheet(pipe, PROMPT, live=leave, **call)
    assert np.array_equal(again.finish(0, progress=False).frames, sheet.finish(0, progress=False).frames)


@pytest.mark.parametrize("candidate", [0, 2])
def test_a_choice_goes_on_from_the_steps_that_were_done(pipe, sheet, saved, candidate):
    video = finish(saved, candidate, pipe)
    assert np.array_equal(video.frames, generated(pipe, sheet, candidate))
    assert video.selection.best == candidate and video.selection.options["picked"] == candidate
    assert sorted(video.selection.order) == [0, 1, 2]
    # 18 evaluations on the sheet and two for the last step; a plain generation takes eight.
    assert video.selection.ledger.entries == {"preview": 12, "generation": 8}
    assert video.selection.reason == "chosen by a person from previews after 3 of 4 steps"
    assert replay(video.record(), pipe, progress=False).identical
    live = sheet.finish(candidate, progress=False)
    assert np.array_equal(live.frames, video.frames)
    assert live.selection.ledger.entries == video.selection.ledger.entries


def test_only_the_remaining_steps_run(pipe, saved):
    rows, seen = [], []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    finish(saved, 1, pipe, progress=lambda *step: seen.append(step))
    hook.remove()
    # What is there to know is known, and four evaluations follow, three of them from memory.
    assert rows == [2, 2, 2, 2]
    assert seen == [("generation", 0, 1), ("generation", 1, 1)]


FOREIGN = {
    "missing": (lambda path: path.unlink(), "is not there"),
    "empty": (lambda path: path.write_bytes(b""), "is not the file written with the record"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not the file written"),
    "of another run": (
        lambda path: path.write_bytes(safetensors.torch.save({"0/0": torch.zeros(2, 3, 4, 4, 4)})),
        "is not the file written",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_memory_that_is_not_the_sheets_is_not_used_and_it_says_so(pipe, sheet, saved, name):
    harm, message = FOREIGN[name]
    harm(saved.with_suffix(".safetensors"))
    video = finish(saved, 1, pipe)
    assert np.array_equal(video.frames, generated(pipe, sheet, 1))
    assert video.selection.ledger.entries == {"preview": 18, "generation": 8}
    assert "; started over, as " in video.selection.reason and message in video.selection.reason
    assert "\n" not in video.selection.reason


def test_both_reasons_to_start_over_are_said_at_once(pipe, saved, monkeypatch):
    made = NoiseRecipe(0, 1, (3, 4, 4, 4)).draw()
    monkeypatch.setattr("seedbed.selection.contact_sheet.rebuilt", lambda *_: (made, "another noise"))
    saved.with_suffix(".safetensors").unlink()
    reason = finish(saved, 1, pipe).selection.reason
    assert reason.count("started over") == 1 and reason.endswith("is not there and another noise")


def test_memory_of_other_packages_is_not_used(pipe, saved):
    content = json.loads(saved.read_text())
    content["versions"]["torch"] = "1.0"
    saved.write_text(json.dumps(sealed(content)))
    video = finish(saved, 1, pipe)
    assert "made otherwise (torch 1.0, now" in video.selection.reason
    assert video.selection.ledger.entries == {"preview": 18, "generation": 8}


def test_the_memory_is_bound_to_the_record(sheet, saved):
    data = saved.with_suffix(".safetensors").read_bytes()
    record = json.loads(saved.read_text())
    assert record == sheet.record()
    assert record["sheet"] == {
        "steps": 3,
        "of": 4,
        "memory_sha256": hashlib.sha256(data).hexdigest(),
        "weights": model_sha256(sheet.pipe),
    }
    tensors = safetensors.torch.load(data)
    assert set(tensors) == {f"{candidate}/{call}" for candidate in range(3) for call in range(3)}
    assert tensors["2/1"].shape == (2, 3, 4, 4, 4)
    assert Selection.load(saved).to_dict() == sheet.selection.to_dict()


def test_a_verifier_ranks_the_previews_and_drops_none(pipe, sheet):
    judged = contact_sheet(
        pipe, PROMPT, after=3, candidates=3, seed=4, verifier=brightness, batch_size=2, progress=False, **CALL
    )
    scores = brightness(np.stack(sheet.selection.previews), [PROMPT] * 3)
    assert judged.selection.totals.tolist() == pytest.approx(scores.tolist(), abs=0.1)
    assert judged.selection.order == tuple(np.argsort(-scores.numpy(), kind="stable"))
    (rung,) = judged.selection.rungs
    assert rung.kept == judged.selection.order and rung.steps == 3
    best = replay(judged.record(), pipe, progress=False)
    assert np.array_equal(best.frames, generated(pipe, sheet, judged.selection.best))


def test_every_family_is_chosen_from(family):
    pipe = BUILDERS[family]()
    made = contact_sheet(pipe, PROMPT, after=1, candidates=2, progress=False, **CALLS[family])
    video = made.finish(1, progress=False)
    plain = Session(pipe, PROMPT, **CALLS[family]).generate(made.selection.recipes[1].draw())
    assert np.array_equal(video.frames, plain)
    assert video.selection.ledger.entries == {"preview": 2, "generation": 4}


def test_the_default_is_half_of_the_steps(pipe):
    made = contact_sheet(pipe, PROMPT, candidates=1, progress=False, **CALL | {"num_inference_steps": 10})
    assert (made.steps, made.all) == (5, 10)


def test_what_cannot_be_is_refused_in_one_line(pipe, saved, tmp_path):
    plain = select(pipe, PROMPT, candidates=2, acquisition="random", progress=False, **CALL)
    for call, message in (
        (lambda: finish(saved, 3, pipe), "there is no candidate 3: choose one from 0 to 2"),
        (lambda: finish(saved, -1, pipe), "there is no candidate -1"),
        (lambda: finish(saved, True, pipe), "there is no candidate True"),
        (lambda: ContactSheet.load(plain.save(tmp_path / "plain.json")), "not the record of a contact sheet"),
        (lambda: ContactSheet.load(tmp_path / "no.json"), "cannot read the record .*No such file"),
        (lambda: replay(saved, pipe), "nobody has chosen from this contact sheet"),
        (lambda: contact_sheet(pipe, PROMPT, after=5, **CALL), "after=5, but the schedule has only 4"),
        (lambda: contact_sheet(pipe, PROMPT, after=0, **CALL), "after must be a whole number of at least 1"),
        (lambda: contact_sheet(pipe, PROMPT, candidates=0, **CALL), "candidates must be a whole number"),
        (lambda: contact_sheet(pipe, PROMPT, call=CALL, **CALL), "is given twice: by itself, and in call"),
        (lambda: contact_sheet(pipe, PROMPT, fps=8, **CALL), "has no argument 'fps'"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    saved.write_text(saved.read_text().replace('"seed": 4', '"seed": 5'))
    with pytest.raises(BadRecord, match="altered or damaged"):
        ContactSheet.load(saved)


def test_a_record_must_be_json(sheet, tmp_path):
    with pytest.raises(BadInput, match=r"must end in \.json"):
        sheet.save(tmp_path / "sheet.html")
    assert list(tmp_path.iterdir()) == []


def test_a_candidate_starts_over_on_a_pipeline_that_is_another_now(saved, sheet):
    other = BUILDERS["cogvideox"]()
    other.scheduler = CogVideoXDPMScheduler.from_config(other.scheduler.config)
    made = finish(saved, 1, other)
    assert "started over, as its first steps were made otherwise (scheduler" in made.selection.reason
    assert np.array_equal(made.frames, generated(other, sheet, 1))
    assert made.selection.model.scheduler["class"] == "CogVideoXDPMScheduler"
    again = replay(made.selection.to_dict(), other, progress=False)
    assert np.array_equal(again.frames, made.frames) and again.changes == ()
    trained = BUILDERS["cogvideox"]()
    next(trained.transformer.parameters()).data.add_(0.1)
    made = finish(saved, 1, trained)
    assert "its first steps were made with other weights" in made.selection.reason
    assert np.array_equal(made.frames, generated(trained, sheet, 1))


def test_what_only_decodes_or_moves_changes_no_remembered_step(saved):
    """Tiles, and where files lie and weights wait."""
    other = BUILDERS["cogvideox"]()
    other.vae.enable_tiling()
    other._seedbed_added = {"offload": "model"}
    made = finish(saved, 1, other)
    assert "started over" not in made.selection.reason
    assert made.selection.ledger.entries == {"preview": 12, "generation": 8}


def test_a_model_of_quantised_tensors_has_a_digest():
    class Quantised(torch.Tensor):
        def __tensor_flatten__(self):
            return ["values"], None

    pipe = BUILDERS["cogvideox"]()
    before = model_sha256(pipe)
    weight = next(pipe.transformer.parameters())
    made = weight.detach().as_subclass(Quantised)
    made.values = torch.arange(3, dtype=torch.int8)
    found = []
    for value in (0, 0, 1):
        made.values[0] = value
        name = next(name for name, _ in pipe.transformer.named_parameters())
        module, _, last = name.rpartition(".")
        pipe.transformer.get_submodule(module)._parameters[last] = made
        found.append(model_sha256(pipe))
    assert before != found[0] == found[1] != found[2]
