import dataclasses
import json
import sys

import pytest

from seedbed import BadInput, BadRecord
from seedbed.selection import Acquisition, Bansa, Entropy, Random, generate, score, select
from seedbed.selection.predictor import Learned
from seedbed.selection.profile import Finding, Preview, Profile, find_profile, read_profile, save_profile
from tests.pipelines import CALLS, PROMPT, cogvideox

RUNGS = {"schedule": [[3, 4], [6, 1]], "verifier": "shapes", "candidates": 10, "why": "it gained"}

OLD = {
    "schema": "seedbed.profile/1",
    "acquisition": "entropy",
    "options": {"rows": 4},
    "prefer": "high",
    "layers": ["transformer_blocks.1.*"],
    "depth": None,
    "why": "Spearman +0.2 over 96 prompts",
}
FINDING = {
    "signal": "entropy",
    "step": 0,
    "prefer": "high",
    "gain": [0.02, 0.01, 0.03],
    "share": [None, None, None],
    "within": [0.1, 0.05, 0.15],
    "reliability": None,
    "p": 0.01,
    "nfe": 1.0,
    "prompts": 96,
}
GOOD = {
    **OLD,
    "schema": "seedbed.profile/2",
    "learned": {"step": 1, "coefficients": {"entropy/0": -0.5, "guidance_gap": 0.25}},
    "preview": RUNGS,
    "evidence": [FINDING],
    "calibrated": {"model": "somewhere", "prompts": 96},
}


@pytest.fixture
def pipe(tmp_path):
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    return pipe


def choose(pipe, **options):
    options = {"candidates": 3, "acquisition": "auto", "progress": False, **CALLS["cogvideox"], **options}
    return select(pipe, PROMPT, **options)


def write(tmp_path, profile):
    (tmp_path / "seedbed-profile.json").write_text(json.dumps(profile))


@pytest.mark.parametrize("profile", [OLD, GOOD])
def test_auto_follows_the_profile_beside_the_model(pipe, tmp_path, profile):
    write(tmp_path, profile)
    found = choose(pipe)
    assert (found.acquisition, found.options["rows"], found.prefer) == ("entropy", 4, "high")
    assert [name.split(".")[1] for name in found.layers] == ["1"]
    assert found.reason.startswith("auto: the model's seedbed-profile.json")
    assert GOOD["why"] in found.reason
    asked = choose(pipe, acquisition=Entropy(rows=4), prefer="high", layers="transformer_blocks.1.*")
    assert asked.scores.tolist() == found.scores.tolist()
    assert asked.order == found.order
    assert asked.reason == "asked for"


def test_what_the_caller_says_goes_before_the_profile(pipe, tmp_path):
    write(tmp_path, GOOD)
    mine = choose(pipe, prefer="low", layers="joint", depth=1)
    assert (mine.acquisition, mine.prefer, len(mine.layers)) == ("entropy", "low", 1)


def test_without_a_profile_auto_is_bansa(pipe):
    choice = choose(pipe)
    assert (choice.acquisition, choice.prefer) == ("bansa", "low")
    assert "no seedbed-profile.json lies beside the model" in choice.reason


def test_a_pipeline_built_in_memory_has_no_profile(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert find_profile(cogvideox(layers=1)) is None


def test_a_profile_applies_to_auto_alone(pipe, tmp_path):
    write(tmp_path, GOOD)
    assert choose(pipe, acquisition="bansa").prefer == "low"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "seedbed.profile/3"}, "schema"),
        ({"schema": None}, "schema"),
        ({"acquisition": "auto"}, "no acquisition function 'auto'"),
        ({"acquisition": 3}, "acquisition"),
        ({"options": {"keep": 0.5}}, "entropy has no option 'keep'"),
        ({"options": {"rows": 0}}, "rows must be"),
        ({"prefer": "best"}, "prefer"),
        ({"layers": 3}, "layers"),
        ({"depth": 0}, "depth"),
        ({"depth": "3"}, "depth"),
        ({"why": None}, "why"),
        ({"more": 1}, "more"),
        ({"learned": {"step": 0}}, "learned.coefficients"),
        ({"learned": {"step": -1, "coefficients": {"entropy/0": 1.0}}}, "step must be"),
        ({"learned": {"step": 0, "coefficients": {}}}, "learned needs the coefficients"),
        ({"learned": {"step": 0, "coefficients": {"entropy/0": "1"}}}, "learned.coefficients.entropy/0"),
        ({"learned": {"step": 0, "coefficients": {"a": 1.0}, "code": "x"}}, "learned.code"),
        ({"acquisition": "learned", "options": {}, "learned": None}, "learned needs the coefficients"),
        ({"preview": {**RUNGS, "schedule": []}}, "preview.schedule"),
        ({"preview": {**RUNGS, "schedule": [[3]]}}, "preview.schedule"),
        ({"preview": {**RUNGS, "candidates": 1}}, "preview.candidates"),
        ({"preview": {**RUNGS, "verifier": "os.system"}}, "verifier must be one of shapes"),
        ({"evidence": [{**FINDING, "gain": [0.1]}]}, "gain"),
        ({"evidence": [{**FINDING, "prefer": "best"}]}, "prefer"),
        ({"evidence": ["entropy"]}, "evidence"),
        ({"evidence": {}}, "evidence"),
        ({"calibrated": []}, "calibrated"),
    ],
)
def test_a_damaged_profile_is_refused_in_one_line(pipe, tmp_path, change, message):
    write(tmp_path, {**GOOD, **change})
    with pytest.raises(
        BadRecord, match=rf"seedbed-profile\.json is not a usable profile.*{message}"
    ) as caught:
        find_profile(pipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]"])
def test_a_profile_that_is_no_json_object_is_refused(pipe, tmp_path, content):
    (tmp_path / "seedbed-profile.json").write_bytes(content)
    with pytest.raises(BadRecord, match=r"seedbed-profile\.json is not a"):
        find_profile(pipe)


LEARNED = Learned({"entropy/0": -0.5, "guidance_gap": 0.25}, step=1)
FULL = Profile(
    acquisition=Entropy(rows=4),
    prefer="high",
    layers=["transformer_blocks.1.*"],
    depth=None,
    why="Spearman +0.2 over 96 prompts",
    learned=LEARNED,
    preview=Preview(((3, 4), (6, 1)), "shapes", 10, "it gained"),
    evidence=(
        Finding(
            "entropy", 0, "high", (0.02, 0.01, 0.03), (None,) * 3, (0.1, 0.05, 0.15), None, 0.01, 1.0, 96
        ),
    ),
    calibrated={"model": "somewhere", "prompts": 96},
)


def test_a_file_is_read_field_by_field(tmp_path):
    write(tmp_path, GOOD)
    assert read_profile(tmp_path / "seedbed-profile.json") == FULL


@pytest.mark.parametrize(
    "profile",
    [
        FULL,
        dataclasses.replace(FULL, acquisition=LEARNED, prefer="high", layers=None),
        Profile(Random(), None, None, None, "nothing is better"),
        Profile(Bansa(estimator="masked", masks=3), "low", "joint", 2, "why"),
    ],
)
def test_what_was_saved_is_read_back(tmp_path, profile):
    path = save_profile(profile, tmp_path / "profile.json")
    assert read_profile(path) == profile
    assert json.loads(path.read_text())["schema"] == "seedbed.profile/2"


def test_a_folder_gets_the_file_that_auto_looks_for(pipe, tmp_path):
    assert save_profile(FULL, tmp_path) == tmp_path / "seedbed-profile.json"
    assert find_profile(pipe) == FULL


def test_what_could_not_be_computed_is_null(tmp_path):
    line = dataclasses.replace(FULL.evidence[0], gain=(float("nan"), 0.1, 0.2))
    path = save_profile(dataclasses.replace(FULL, evidence=(line,)), tmp_path / "profile.json")
    assert read_profile(path).evidence[0].gain == (None, 0.1, 0.2)
    assert "NaN" not in path.read_text()


class Mine(Acquisition):
    name = "mine"


class Fake(Acquisition):
    name = "entropy"


@pytest.mark.parametrize("function", [Mine(), Fake()])
def test_a_function_of_ones_own_cannot_be_named_in_a_file(tmp_path, function):
    with pytest.raises(BadInput, match="a profile can only name functions of seedbed"):
        save_profile(dataclasses.replace(FULL, acquisition=function), tmp_path / "profile.json")
    assert not list(tmp_path.iterdir())


def test_the_learned_function_of_a_profile_is_its_own(tmp_path):
    other = dataclasses.replace(FULL, acquisition=Learned({"entropy/0": 1.0}))
    with pytest.raises(BadInput, match="must hold it as `learned`"):
        save_profile(other, tmp_path / "profile.json")


def test_a_preview_cannot_name_what_would_have_to_be_imported():
    with pytest.raises(BadInput, match=r"verifier must be one of shapes, not 'my\.module:judge'"):
        Preview(((3, 1),), "my.module:judge", 4, "")


def test_reading_a_profile_imports_nothing_it_names(tmp_path):
    write(tmp_path, {**GOOD, "acquisition": "antigravity", "options": {}})
    with pytest.raises(BadRecord, match="no acquisition function 'antigravity'"):
        read_profile(tmp_path / "seedbed-profile.json")
    assert "antigravity" not in sys.modules


def test_select_follows_a_profile_it_is_given(pipe, tmp_path):
    write(tmp_path, {**GOOD, "acquisition": "random", "options": {}, "layers": None})
    path = save_profile(FULL, tmp_path / "mine.json")
    asked = choose(pipe, acquisition=Entropy(rows=4), prefer="high", layers="transformer_blocks.1.*")
    for profile in (path, str(path), FULL):
        found = choose(pipe, profile=profile)
        assert found.scores.tolist() == asked.scores.tolist()
        assert found.order == asked.order
        assert found.reason.endswith(f"names it: {FULL.why}")
    assert "mine.json names it" in choose(pipe, profile=path).reason
    assert choose(pipe).acquisition == "random"


def test_score_and_generate_follow_it_too(pipe, tmp_path):
    chosen = choose(pipe, profile=FULL)
    options = {"profile": FULL, "progress": False, **CALLS["cogvideox"]}
    scored = score(pipe, PROMPT, [recipe.draw() for recipe in chosen.recipes], **options)
    assert scored.scores.tolist() == chosen.scores.tolist()
    video = generate(pipe, PROMPT, candidates=3, **options)
    assert video.selection.order == chosen.order
    assert video.record()["reason"] == chosen.reason


def test_a_profile_and_a_function_cannot_both_be_asked_for(pipe):
    with pytest.raises(BadInput, match="leave out acquisition, or the profile"):
        choose(pipe, profile=FULL, acquisition="entropy")


def test_a_profile_that_is_not_there_is_an_error(pipe, tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the profile .*none\.json: No such file"):
        choose(pipe, profile=tmp_path / "none.json")
