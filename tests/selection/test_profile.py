import json

import pytest

from seedbed import BadRecord
from seedbed.selection import Entropy, select
from seedbed.selection.profile import find_profile
from tests.pipelines import CALLS, PROMPT, cogvideox

GOOD = {
    "schema": "seedbed.profile/1",
    "acquisition": "entropy",
    "options": {"rows": 4},
    "prefer": "high",
    "layers": ["transformer_blocks.1.*"],
    "depth": None,
    "why": "Spearman +0.2 over 96 prompts",
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


def test_auto_follows_the_profile_beside_the_model(pipe, tmp_path):
    write(tmp_path, GOOD)
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
