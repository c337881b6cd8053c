"""Calibrating a tiny random pipeline: what is planted is found, chance is called chance, kills do no harm."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import seedbed
import seedbed.lab.calibration as module
from seedbed import BadInput, NotSupported, zoo
from seedbed.acquisition import Bansa, BansaDropout, Entropy, Previews, Random
from seedbed.lab.calibration import calibrate, label, redrawn
from seedbed.lab.measurement import measured
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import model_sha256
from seedbed.selection.choosing import select
from seedbed.selection.pools import draw_pool
from seedbed.selection.profile import Profile
from seedbed.verifiers.ratings import Ratings
from tests.pipelines import CALLS, WORDS, cogvideox

CALL = {**CALLS["cogvideox"], "num_inference_steps": 2}
PROMPTS = [f"a {colour} {shape}" for colour in WORDS[2:6] for shape in WORDS[6:9]][:8]
NOISES = 5
FUNCTIONS = ("entropy", "bansa:estimator=masked", "random")


def brightness(frames, prompts):
    """A verifier that knows nothing of prompts."""
    return torch.from_numpy(frames.astype(np.float64).mean((1, 2, 3, 4)))


def run(pipe, **options):
    options = {"verifier": brightness, "steps": (0, 1), "acquisitions": FUNCTIONS, **CALL, **options}
    return calibrate(pipe, PROMPTS, NOISES, progress=False, **options)


@pytest.fixture(scope="module")
def pipe():
    return cogvideox(layers=2)


@pytest.fixture(scope="module")
def first(pipe, tmp_path_factory):
    """A calibration by brightness, with its cache."""
    folder = tmp_path_factory.mktemp("calibration")
    return run(pipe, save=folder / "profile.json"), folder / "profile.json"


def rated(calibration, outcome):
    """Ratings that give each video of a calibration this outcome, (prompts, noises)."""
    table = {
        (prompt, row, candidate): float(outcome[row, candidate])
        for row, prompt in enumerate(calibration.evidence.prompts)
        for candidate in range(NOISES)
    }
    return Ratings(table)


def test_a_measured_outcome_is_that_of_the_plain_pipeline(pipe, first):
    calibration, _ = first
    assert calibration.evidence.prompts == tuple(PROMPTS)
    for row in (0, 7):
        session = Session(pipe, PROMPTS[row], **CALL)
        frames = session.generate(draw_pool(session, NOISES, seed=row).noises[2])
        expected = frames.astype(np.float64).mean()
        # A video of a batch may round to a neighbouring grey value here and there.
        assert calibration.evidence.outcome()[row, 2] == pytest.approx(expected, abs=0.05)


def test_a_measured_function_is_that_of_select(pipe, first):
    calibration, _ = first
    for name, function in (
        ("entropy", Entropy()),
        ("bansa:estimator=masked", Bansa(estimator="masked", depth=None)),
    ):
        choice = select(
            pipe, PROMPTS[3], acquisition=function, candidates=NOISES, seed=3, progress=False, **CALL
        )
        found = [calibration.evidence.columns[f"0/{name}/{layer}"][3] for layer in range(2)]
        assert np.abs(np.stack(found, 1) - choice.scores.numpy()).max() < 1e-5
    totals = select(pipe, PROMPTS[3], acquisition="random", candidates=NOISES, seed=3, progress=False, **CALL)
    assert calibration.evidence.columns["0/random"][3].tolist() == totals.totals.tolist()


@pytest.mark.parametrize(("sign", "prefer"), [(1, "high"), (-1, "low")])
def test_an_outcome_planted_in_a_signal_is_found_with_sign_layers_and_depth(pipe, first, sign, prefer):
    calibration, _ = first
    entropy = calibration.evidence.signal("0/entropy")
    found = run(pipe, verifier=rated(calibration, sign * entropy))
    function = found.profile.acquisition
    assert (type(function), function.end) == (Entropy, prefer)
    depths = found.depths["entropy"]
    assert depths["quality"]["within"][-1] == pytest.approx(sign)
    assert depths["full_score"]["pooled"][-1] == pytest.approx(1)
    partial = calibration.evidence.signal("0/entropy", 1)
    assert depths["full_score"]["pooled"][0] == pytest.approx(
        np.corrcoef(partial.ravel(), entropy.ravel())[0, 1]
    )
    choice = select(
        pipe, PROMPTS[0], acquisition=found.profile, candidates=NOISES, seed=0, progress=False, **CALL
    )
    assert choice.best == (sign * entropy[0]).argmax()
    assert found.profile.why in choice.reason


def test_an_outcome_of_pure_noise_gives_the_profile_random(pipe, first):
    noise = np.random.default_rng(1).normal(size=(len(PROMPTS), NOISES))
    found = run(pipe, verifier=rated(first[0], noise))
    assert found.profile.acquisition == Random()
    assert "better than chance" in found.profile.why


def test_ratings_judge_no_previews_and_finish_no_video(pipe, first):
    found = run(pipe, verifier=rated(first[0], first[0].evidence.outcome()), steps=(0,))
    assert not [name for name in found.evidence.columns if "judge" in name]
    assert found.evidence.columns["cost.generation"][0, 0] == 4  # two guided steps
    assert np.abs(found.evidence.outcome() - first[0].evidence.outcome()).max() == 0


def test_a_learned_choice_is_that_of_its_own_prompts(pipe, first):
    """What `select` computes from the first step is what the calibration computed."""
    calibration, path = first
    learned = Profile.load(path).learned
    choice = select(pipe, PROMPTS[5], acquisition=learned, candidates=NOISES, seed=5, progress=False, **CALL)
    signals = {name: calibration.evidence.columns[f"0/{name}"][5] for name in learned.coefficients}
    assert "text_mass/0" in signals and "guidance_gap" in signals
    assert choice.totals.numpy() == pytest.approx(learned.total(signals), abs=1e-3)
    assert choice.ledger.entries == {"scoring": 2 * NOISES}
    assert (choice.acquisition, choice.prefer, choice.layers) == ("learned", "high", ())


def test_a_learned_choice_needs_the_signals_of_its_model(first):
    other = cogvideox(layers=1)
    with pytest.raises(NotSupported, match=r"shows no signal 'entropy/1'.*calibrate on this model"):
        select(other, PROMPTS[0], acquisition=first[0].profile.learned, progress=False, **CALL)


def test_the_saved_profile_is_the_one_in_memory(first):
    calibration, path = first
    loaded = Profile.load(path)
    assert loaded == calibration.profile
    assert loaded.calibrated["prompts"] == len(PROMPTS)
    assert loaded.calibrated["verifier"].endswith("test_calibration.brightness")


def test_a_killed_calibration_goes_on_where_it_was(pipe, tmp_path, monkeypatch, first):
    calibration, path = first
    rows = shutil.copytree(path.with_name("profile.json.rows"), tmp_path / "rows")
    lines = (rows / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (rows / "rows.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:200])
    calls = []

    def counted(session, *rest):
        calls.append(session.prompt)
        return measured(session, *rest)

    monkeypatch.setattr(module, "measured", counted)
    assert run(pipe, cache=rows).profile == calibration.profile
    assert calls == PROMPTS[5:]
    assert (rows / "rows.jsonl").read_bytes() == b"".join(lines)


def test_a_cache_of_another_calibration_is_refused(pipe, first):
    _, path = first
    with pytest.raises(BadInput, match="holds rows of another calibration"):
        run(pipe, save=path, steps=(0,))


def test_other_ratings_are_another_calibration(pipe, tmp_path, first):
    outcome = first[0].evidence.outcome()
    options = {"cache": tmp_path / "rows", "steps": (0,), "acquisitions": ("random",)}
    found = run(pipe, verifier=rated(first[0], outcome), **options)
    assert found.profile.calibrated["verifier"].endswith(f"of {outcome.size} videos")
    with pytest.raises(BadInput, match="holds rows of another calibration"):
        run(pipe, verifier=rated(first[0], outcome + 1), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": PROMPTS[:7]}, "7 prompts are too few"),
        ({"prompts": "a red circle"}, "must be a list"),
        ({"prompts": [*PROMPTS, PROMPTS[0]]}, "is given twice"),
        ({"noises": 3}, "noises must be a whole number of at least 4"),
        ({"noises": 4.0}, "noises must be"),
        ({"steps": (1, 2)}, "must begin with 0"),
        ({"steps": ()}, "must begin with 0"),
        ({"steps": (0, 5)}, "schedule has only 2"),
        ({"verifier": "nobody"}, "no verifier 'nobody'"),
        ({"acquisitions": ("bamsa",)}, "no acquisition function 'bamsa'"),
        ({"acquisitions": ("bansa:depth=1",)}, "all layers: leave out depth"),
        ({"acquisitions": (Entropy(prefer="low"),)}, "both ends and all layers: leave out prefer"),
        ({"acquisitions": (Previews(verifier=brightness),)}, "looks at further steps by itself"),
        ({"hight": 16}, "no argument 'hight'"),
        ({"verifier": Ratings({})}, r"no rating of 'a red circle', seed 0, candidate 0"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_in_one_line(pipe, options, message):
    arguments = {"prompts": PROMPTS, "noises": 4, "verifier": brightness, "steps": (0,), **CALL, **options}
    with pytest.raises(BadInput, match=message) as caught:
        calibrate(pipe, progress=False, **arguments)
    assert "\n" not in str(caught.value)


def test_functions_that_need_forwards_of_their_own_get_them(pipe):
    session = Session(pipe, PROMPTS[0], **CALL)
    functions = {"dropout": BansaDropout(masks=2), "two": Entropy(steps=2)}
    table = measured(session, draw_pool(session, 4, 0), brightness, (0,), {0: functions})
    for name, function in functions.items():
        choice = select(pipe, PROMPTS[0], acquisition=function, candidates=4, progress=False, **CALL)
        found = np.stack([table[f"0/{name}/{layer}"] for layer in range(2)], 1)
        assert np.abs(found - choice.scores.numpy()).max() < 1e-5


def test_a_function_of_some_layers_is_scored_on_those(pipe):
    session = Session(pipe, PROMPTS[0], **CALL)
    first = session.layers[0].name
    functions = {"one": Entropy(layers=first), "all": Entropy()}
    table = measured(session, draw_pool(session, 4, 0), brightness, (0,), {0: functions})
    assert "0/one/1" not in table
    assert table["0/one/0"] == pytest.approx(table["0/all/0"], abs=1e-5)


def test_what_needs_forwards_of_its_own_starts_at_the_first_step(pipe):
    session = Session(pipe, PROMPTS[0], **CALL)
    with pytest.raises(BadInput, match="two needs forwards of its own"):
        measured(session, draw_pool(session, 4, 0), brightness, (0, 1), {1: {"two": Entropy(steps=2)}})


def test_labels_tell_functions_apart():
    assert [label(f) for f in ("bansa:keep=0.5", Bansa(), Bansa(keep=0.5, seed=3))] == [
        "bansa:keep=0.5",
        "bansa",
        "bansa:keep=0.5,seed=3",
    ]


def test_only_what_is_drawn_is_drawn_again():
    assert redrawn(Bansa(estimator="masked")) == Bansa(estimator="masked", seed=1)
    assert redrawn(Entropy(rows=4, seed=2)) == Entropy(rows=4, seed=3)
    assert redrawn(Bansa()) is redrawn(Entropy()) is None


@pytest.mark.parametrize("path", sorted(zoo.path().parent.glob("*/seedbed-profile.json")))
def test_a_shipped_profile_was_calibrated_on_the_shipped_weights(path):
    profile = json.loads(path.read_text())
    assert profile["calibrated"]["weights"] == model_sha256(zoo.load(path.parent.name), autoencoder=True)


def test_progress_counts_prompts(pipe):
    seen = []
    calibrate(
        pipe, PROMPTS[:8], 4, verifier=brightness, steps=(0,), acquisitions=("entropy",),
        progress=lambda *state: seen.append(state), **CALL,
    )  # fmt: skip
    assert seen == [("prompts", done, 8) for done in range(9)]


def test_the_profile_can_be_saved_into_the_models_folder_for_auto(first, tmp_path):
    pipe = cogvideox(layers=2)
    pipe.register_to_config(_name_or_path=str(tmp_path))
    profile = dataclasses.replace(first[0].profile, acquisition=Entropy(prefer="high"), why="planted")
    profile.save(tmp_path)
    choice = select(pipe, PROMPTS[0], candidates=3, progress=False, **CALL)
    assert (choice.acquisition, choice.prefer) == ("entropy", "high")
    assert "planted" in choice.reason


def test_the_report_is_one_page_with_the_choice_the_table_and_the_depths(first, tmp_path):
    calibration, _ = first
    page = calibration.report(tmp_path / "report.html").read_text()
    assert calibration.profile.why[1:] in page.replace("&#39;", "'")
    assert page.count("the score of all layers") == page.count('<td class="number">the outcome') == 2
    assert "1/judge.score" in page and "full_score" not in page
    assert "://" not in page.replace("http://www.w3.org", "")


def test_the_table_has_a_row_for_every_signal_best_first(first):
    table = first[0].table
    gains = [
        row[5].mean if row[0].endswith("/learned") else max(row[4].mean, row[5].mean) for row in table.rows
    ]
    assert gains == sorted(gains, reverse=True)
    assert len(gains) == len(first[0].verdicts) == len(first[0].profile.evidence) / 2
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert {row[0] for row in table.rows} >= {"0/learned", "0/random", "1/judge.score", "1/x0_change"}


def test_the_documented_snippets_run(pipe, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "calibration.md"
    snippets = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    pipe = cogvideox(layers=2)
    pipe.register_to_config(_name_or_path=str(tmp_path))
    (tmp_path / "seedbed.json").write_text(json.dumps({"schema": "seedbed.model/1", "call": CALL}))

    def small(*arguments, **options):
        return calibrate(*arguments, **{**options, "noises": 4, "steps": (0,), "acquisitions": ("entropy",)})

    monkeypatch.setattr(seedbed, "calibrate", small)
    names = {"pipe": pipe, "prompts": PROMPTS, "prompt": PROMPTS[0], "judge": brightness}
    for snippet in snippets:
        exec(compile(snippet, str(page), "exec"), names)
    assert names["choice"].reason.startswith("auto: profile.json names it")
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [
        "0-0.mp4",
        "0-1.mp4",
        "1-0.mp4",
        "1-1.mp4",
    ]
