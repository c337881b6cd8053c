import dataclasses
import json
import sys

import pytest
import torch

from seedbed import BadInput, BadRecord, Profile, generate, score, select, zoo
from seedbed.acquisition import AttentionScore, Bansa, Entropy, Learned, Previews, Random
from seedbed.pipelines.session import Session
from seedbed.selection import profile as profiles
from seedbed.selection.profile import Finding, PreviewPlan, Race
from tests.pipelines import CALLS, cogvideox

ASKED = Entropy(rows=4, prefer="high", layers=["transformer_blocks.1.*"])
LEARNED = Learned(coefficients={"entropy/0": -0.5, "guidance_gap": 0.25}, step=1)
FOUND = Race(((1, 3), (2, 1)), 6, "bansa", (0.03, 0.01, 0.05), 3.0, 100, "regret 3 % at 50 % of the cost")
RACE = json.loads(json.dumps(dataclasses.asdict(FOUND)))
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
SECOND = {
    **OLD,
    "schema": "seedbed.profile/2",
    "learned": {"step": 1, "coefficients": {"entropy/0": -0.5, "guidance_gap": 0.25}},
    "preview": RUNGS,
    "evidence": [FINDING],
    "calibrated": {"model": "somewhere", "prompts": 96},
}
GOOD = {
    **{name: value for name, value in SECOND.items() if name not in ("prefer", "layers", "depth")},
    "schema": "seedbed.profile/3",
    "options": {"rows": 4, "prefer": "high", "layers": ["transformer_blocks.1.*"]},
}
# What the verifier of a profile can judge, and what it cannot.
CAPTION, PROMPT = "a red circle moving left", "a koala"
SHIPPED = sorted(zoo.path().parent.glob("*/seedbed-profile.json"))


@pytest.fixture
def pipe(tmp_path):
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    return pipe


def chosen_function(pipe, prompt, acquisition, candidates, call):
    given = {"prompt_embeds": torch.zeros(1, 8, 16)} if prompt is None else {}
    session = Session(pipe, prompt, **CALLS["cogvideox"], **given)
    return profiles.chosen_function(session, profiles.acquisition_named(acquisition), candidates, call)


def choose(pipe, **options):
    options = {"candidates": 3, "acquisition": "auto", "progress": False, **CALLS["cogvideox"], **options}
    return select(pipe, PROMPT, **options)


def write(tmp_path, profile):
    (tmp_path / "seedbed-profile.json").write_text(json.dumps(profile))


@pytest.mark.parametrize("profile", [OLD, SECOND, GOOD], ids=["1", "2", "3"])
def test_auto_follows_the_profile_beside_the_model(pipe, tmp_path, profile):
    write(tmp_path, profile)
    found = choose(pipe)
    assert (found.acquisition, found.options["rows"], found.prefer) == ("entropy", 4, "high")
    assert [name.split(".")[1] for name in found.layers] == ["1"]
    assert found.reason.startswith("auto: the model's profile names it")
    assert GOOD["why"] in found.reason
    asked = choose(pipe, acquisition=ASKED)
    assert asked.scores.tolist() == found.scores.tolist()
    assert asked.order == found.order
    assert asked.reason == "asked for"


def test_without_a_profile_auto_takes_the_first_noise(pipe):
    choice = choose(pipe, candidates=None)
    assert len(choice.recipes) == 1 and choice.recipe.candidate == 0 and choice.ledger.total == 0
    assert "lies beside the model, so the first noise: give a verifier" in choice.reason


def test_as_many_noises_are_taken_as_videos_are_asked_for(pipe):
    choice = choose(pipe, candidates=None, num_videos_per_prompt=2)
    assert len(choice.recipes) == choice.kept == 2


def test_of_as_many_noises_as_are_asked_for_auto_takes_what_bansa_prefers(pipe):
    choice = choose(pipe)
    assert (choice.acquisition, choice.prefer) == ("bansa", "low")
    assert "no seedbed-profile.json lies beside the model" in choice.reason


def test_a_pipeline_built_in_memory_has_no_profile(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert Profile.beside(cogvideox(layers=1)) is None


def test_a_profile_applies_to_auto_alone(pipe, tmp_path):
    write(tmp_path, GOOD)
    assert choose(pipe, acquisition="bansa").prefer == "low"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "seedbed.profile/4"}, "schema"),
        ({"schema": None}, "schema"),
        ({"acquisition": "auto"}, "no acquisition function 'auto'"),
        ({"acquisition": 3}, "acquisition"),
        ({"options": {"keep": 0.5}}, "entropy has no option 'keep'"),
        ({"options": {"rows": 0}}, "rows must be"),
        ({"options": {"prefer": "best"}}, "prefer must be"),
        ({"options": {"depth": 0}}, "depth must be"),
        ({"options": {"race": [[3]]}}, "cannot read the schedule"),
        ({"schema": "seedbed.profile/2", "prefer": "best"}, "prefer"),
        ({"schema": "seedbed.profile/2", "layers": 3}, "layers"),
        ({"schema": "seedbed.profile/2", "depth": 0}, "depth"),
        ({"schema": "seedbed.profile/2", "depth": "3"}, "depth"),
        ({"prefer": "low"}, "prefer, layers and depth are options of the function"),
        ({"depth": None}, "prefer, layers and depth are options of the function"),
        ({"why": None}, "why"),
        ({"more": 1}, "more"),
        ({"learned": {"step": 0}}, "learned needs the coefficients"),
        ({"learned": {"step": -1, "coefficients": {"entropy/0": 1.0}}}, "step must be"),
        ({"learned": {"step": 0, "coefficients": {}}}, "learned needs the coefficients"),
        ({"learned": {"step": 0, "coefficients": {"entropy/0": "1"}}}, "learned.coefficients.entropy/0"),
        ({"learned": {"step": 0, "coefficients": {"a": 1.0}, "code": "x"}}, "learned.code"),
        ({"acquisition": "learned", "options": {}, "learned": None}, "learned needs the coefficients"),
        ({"preview": {**RUNGS, "schedule": []}}, "the schedule is empty"),
        ({"preview": {**RUNGS, "schedule": [[3]]}}, "preview.schedule"),
        ({"preview": {**RUNGS, "candidates": 1}}, "keeps 4 of 1 candidates"),
        ({"preview": {**RUNGS, "verifier": "os.system"}}, "verifier must be one of shapes"),
        ({"race": {**RACE, "acquisition": "nothing"}}, "no acquisition function 'nothing'"),
        ({"race": {**RACE, "schedule": [[1, 7]]}}, "keeps 7 of 6 candidates"),
        ({"race": {**RACE, "more": 1}}, "race.more"),
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
        Profile.beside(pipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]"])
def test_a_profile_that_is_no_json_object_is_refused(pipe, tmp_path, content):
    (tmp_path / "seedbed-profile.json").write_bytes(content)
    with pytest.raises(BadRecord, match=r"seedbed-profile\.json is not a usable profile"):
        Profile.beside(pipe)


FULL = Profile(
    acquisition=ASKED,
    why="Spearman +0.2 over 96 prompts",
    learned=LEARNED,
    preview=PreviewPlan(((3, 4), (6, 1)), "shapes", 10, "it gained"),
    evidence=(
        Finding(
            "entropy", 0, "high", (0.02, 0.01, 0.03), (None,) * 3, (0.1, 0.05, 0.15), None, 0.01, 1.0, 96
        ),
    ),
    calibrated={"model": "somewhere", "prompts": 96},
)


@pytest.mark.parametrize("profile", [SECOND, GOOD], ids=["2", "3"])
def test_a_file_is_read_field_by_field(tmp_path, profile):
    write(tmp_path, profile)
    assert Profile.load(tmp_path / "seedbed-profile.json") == FULL


@pytest.mark.parametrize("schema", [1, 2])
def test_bansa_of_a_file_before_scores_all_layers(pipe, tmp_path, schema):
    """Then the whole score was the default; now it is the published depth."""
    old = {
        **OLD,
        "schema": f"seedbed.profile/{schema}",
        "acquisition": "bansa",
        "options": {},
        "layers": None,
    }
    write(tmp_path, old)
    profile = Profile.load(tmp_path / "seedbed-profile.json")
    assert profile.acquisition == Bansa(depth=None, prefer="high")
    assert len(choose(pipe).layers) == 3 and len(choose(pipe, acquisition="bansa").layers) == 1
    assert Profile.load(profile.save(tmp_path / "new.json")) == profile
    write(tmp_path, {**old, "depth": 2, "layers": "joint", "prefer": None})
    assert Profile.beside(pipe).acquisition == Bansa(depth=2, layers="joint")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_profiles_are_read(path, tmp_path):
    profile = Profile.load(path)
    assert profile.evidence and profile.calibrated["weights"] and profile.race
    again = Profile.load(profile.save(tmp_path / "again.json"))
    assert again == profile


@pytest.mark.parametrize(
    "profile",
    [
        FULL,
        dataclasses.replace(FULL, acquisition=LEARNED),
        dataclasses.replace(FULL, race=FOUND),
        Profile(Random(), "nothing is better"),
        Profile(Bansa(estimator="masked", masks=3, layers="joint", depth=2, prefer="low"), "why"),
        Profile(Bansa(depth=None, race=[[0.1, 0.2], [0.46, 1]]), "why"),
    ],
)
def test_what_was_saved_is_read_back(tmp_path, profile):
    path = profile.save(tmp_path / "profile.json")
    assert Profile.load(path) == profile
    assert json.loads(path.read_text())["schema"] == "seedbed.profile/3"


def test_a_folder_gets_the_file_that_auto_looks_for(pipe, tmp_path):
    assert FULL.save(tmp_path) == tmp_path / "seedbed-profile.json"
    assert Profile.beside(pipe) == FULL


def test_what_could_not_be_computed_is_null(tmp_path):
    line = dataclasses.replace(FULL.evidence[0], gain=(float("nan"), 0.1, 0.2))
    path = dataclasses.replace(FULL, evidence=(line,)).save(tmp_path / "profile.json")
    assert Profile.load(path).evidence[0].gain == (None, 0.1, 0.2)
    assert "NaN" not in path.read_text()


class Mine(AttentionScore):
    name = "mine"


class Fake(AttentionScore):
    name = "entropy"


@pytest.mark.parametrize("function", [Mine(), Fake()])
def test_a_function_of_ones_own_cannot_be_named_in_a_file(tmp_path, function):
    with pytest.raises(BadInput, match="a profile can only name functions of seedbed"):
        dataclasses.replace(FULL, acquisition=function).save(tmp_path / "profile.json")
    assert not list(tmp_path.iterdir())


def test_the_learned_function_of_a_profile_is_its_own(tmp_path):
    other = dataclasses.replace(FULL, acquisition=Learned(coefficients={"entropy/0": 1.0}))
    with pytest.raises(BadInput, match="must hold it as `learned`"):
        other.save(tmp_path / "profile.json")


def test_a_preview_cannot_name_what_would_have_to_be_imported():
    with pytest.raises(BadInput, match=r"verifier must be one of shapes, artifacts, not 'my\.module:judge'"):
        PreviewPlan(((3, 1),), "my.module:judge", 4, "")


def test_reading_a_profile_imports_nothing_it_names(tmp_path):
    write(tmp_path, {**GOOD, "acquisition": "antigravity", "options": {}})
    with pytest.raises(BadRecord, match="no acquisition function 'antigravity'"):
        Profile.load(tmp_path / "seedbed-profile.json")
    assert "antigravity" not in sys.modules


def test_a_profile_is_one_way_to_name_an_acquisition(pipe, tmp_path):
    """As an object, as a file, or beside the model: the same choice."""
    asked = choose(pipe, acquisition=ASKED)
    path = FULL.save(tmp_path / "mine.json")
    FULL.save(tmp_path)
    found = {whose: choose(pipe, acquisition=named) for whose, named in
             {"the profile": FULL, str(path): str(path), "the model's profile": "auto"}.items()}  # fmt: skip
    for whose, choice in found.items():
        assert choice.scores.tolist() == asked.scores.tolist()
        assert (choice.order, choice.options) == (asked.order, asked.options)
        assert choice.reason == f"auto: {whose} names it: {FULL.why}"
    write(tmp_path, {**GOOD, "acquisition": "random", "options": {}})
    assert choose(pipe, acquisition="auto").acquisition == "random"
    first = choose(pipe, candidates=None)
    assert len(first.recipes) == 1 and first.reason.startswith("auto: the model's profile names it")
    assert choose(pipe, acquisition=str(path)).acquisition == "entropy"


def test_score_and_generate_follow_it_too(pipe):
    chosen = choose(pipe, acquisition=FULL)
    options = {"acquisition": FULL, "progress": False, **CALLS["cogvideox"]}
    scored = score(pipe, PROMPT, [recipe.draw() for recipe in chosen.recipes], **options)
    assert scored.scores.tolist() == chosen.scores.tolist()
    video = generate(pipe, PROMPT, candidates=3, **options)
    assert video.selection.order == chosen.order
    assert video.record()["reason"] == chosen.reason


@pytest.mark.parametrize("name", ["none.json", "no/such.json"])
def test_a_profile_that_is_not_there_is_an_error(pipe, tmp_path, name):
    with pytest.raises(BadInput, match=r"cannot read the profile .*\.json: No such file"):
        choose(pipe, acquisition=str(tmp_path / name))


def test_no_race_of_a_profile_is_followed_by_itself(pipe, tmp_path):
    Profile(Bansa(depth=None), "why", race=FOUND).save(tmp_path)
    assert choose(pipe, candidates=6).race == ()
    mine = Bansa(depth=None, race=Profile.beside(pipe).race.schedule)
    assert choose(pipe, candidates=6, acquisition=mine).race == FOUND.schedule


PLANNED = Previews(verifier="shapes", schedule=((3, 4), (6, 1)))


@pytest.mark.parametrize(
    ("prompt", "candidates", "call", "function", "count"),
    [
        (CAPTION, None, {}, PLANNED, 10),
        (CAPTION, 4, {}, Previews(verifier="shapes"), 4),
        (CAPTION, None, {"num_inference_steps": 8}, Previews(verifier="shapes"), 10),
        (CAPTION, 4, {"num_inference_steps": 8}, Previews(verifier="shapes"), 4),
        (PROMPT, None, {}, ASKED, 10),
        (PROMPT, 4, {}, ASKED, 4),
        (None, None, {}, ASKED, 10),
    ],
)
def test_a_profile_previews_what_its_verifier_can_judge(
    pipe, tmp_path, prompt, candidates, call, function, count
):
    for named in ("auto", FULL, str(FULL.save(tmp_path / "mine.json"))):
        FULL.save(tmp_path)
        found, number, reason = chosen_function(pipe, prompt, named, candidates, call)
        assert (found, number) == (function, count) and reason.startswith("auto: ")
    without = dataclasses.replace(FULL, preview=None)
    assert chosen_function(pipe, prompt, without, candidates, call)[0] == ASKED


def test_without_a_profile_there_are_one_ten_or_six_candidates(pipe):
    assert chosen_function(pipe, CAPTION, "auto", None, {})[:2] == (Random(), 1)
    assert chosen_function(pipe, CAPTION, "auto", 4, {})[:2] == (Bansa(), 4)
    assert chosen_function(pipe, CAPTION, "bansa", None, {})[:2] == (Bansa(), 10)
    assert chosen_function(pipe, CAPTION, "previews:verifier=shapes", None, {})[1] == 6
    assert chosen_function(pipe, CAPTION, PLANNED, None, {})[1] == 6
    assert chosen_function(pipe, CAPTION, PLANNED, 3, {})[1:] == (3, "asked for")


@pytest.mark.parametrize("wrong", [3, None, [1], b"\0", "no\0where", {"schema": "seedbed.profile/3"}])
def test_what_is_no_profile_is_one_line(wrong):
    for read in (Profile.load, lambda value: Profile(value, "why")):
        with pytest.raises(BadInput, match=r"a profile chooses by|cannot read the profile") as caught:
            read(wrong)
        assert "\n" not in str(caught.value)
