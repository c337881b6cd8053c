"""`seedbed calibrate`, and the profiles that other commands follow."""

import json

import pytest

from tests.pipelines import CALLS, WORDS

PROMPTS = [f"a {colour} {shape}" for colour in WORDS[2:6] for shape in WORDS[6:8]]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n\n")
    return path


@pytest.fixture
def ratings(tmp_path):
    path = tmp_path / "ratings.csv"
    rows = [f"{prompt},{p},{c},{(c * 7 + p) % 5}" for p, prompt in enumerate(PROMPTS) for c in range(4)]
    path.write_text("\n".join(["prompt,seed,candidate,rating", *rows]))
    return path


def test_a_calibration_writes_profile_and_report_that_generate_follows(seedbed, model, prompts, ratings):
    arguments = ("calibrate", "--model", model, "--prompts", prompts, "--ratings", ratings)
    code, out, err = seedbed(*arguments, "--noises", 4, "--after", "0", "--out", "mine.json")
    assert (code, err) == (0, "")
    assert "choice  " in out and "report  mine.html" in out
    profile = json.loads(prompts.with_name("mine.json").read_text())
    assert profile["schema"] == "seedbed.profile/3"
    assert profile["calibrated"]["prompts"] == len(PROMPTS)
    assert profile["calibrated"]["call"] == CALLS["cogvideox"]
    code, out, err = seedbed(
        "select", PROMPTS[0], "--model", model, "--candidates", 3, "--acquisition", "mine.json"
    )
    assert (code, err) == (0, "")
    assert f"by {profile['acquisition']} (auto: mine.json names it" in out


def test_json_is_the_profile_and_nothing_else(seedbed, model, prompts, ratings):
    arguments = ("calibrate", "--model", model, "--prompts", prompts, "--ratings", ratings, "--no-report")
    tried = ("--acquisition", "entropy:rows=3", "--acquisition", "random")
    code, out, _ = seedbed(*arguments, *tried, "--noises", 4, "--after", "0", "--json")
    content = json.loads(out)
    assert code == 0
    signals = {line["signal"] for line in content["profile"]["evidence"]}
    assert {"entropy:rows=3", "random", "learned"} <= signals and "bansa" not in signals
    assert content["files"] == {"profile": "seedbed-profile.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --prompts FILE or --world shapes"),
        (["--prompts", "p.txt", "--world", "shapes"], "either --prompts FILE or --world shapes"),
        (["--prompts", "none.txt"], "cannot read the prompts none.txt: No such file or directory"),
        (["--prompts", "prompts.txt", "--count", "9", "--verifier", "shapes"], "--count is for --world"),
        (["--world", "cubes"], "Invalid value for '--world'"),
        (["--prompts", "prompts.txt"], "--verifier NAME or --ratings FILE.csv"),
        (["--world", "shapes", "--verifier", "shapely"], "no verifier 'shapely'"),
        (["--world", "shapes", "--verifier", "shapes", "--ratings", "r.csv"], "leave one out"),
        (["--world", "shapes", "--after", "0;1"], "cannot read --after 0;1"),
        (["--world", "shapes", "--out", "profile.txt"], "must end in .json"),
        (["--world", "shapes", "--count", "3"], "3 prompts are too few"),
    ],
)
def test_a_mistake_is_one_line(seedbed, prompts, model, arguments, message):
    code, out, err = seedbed("calibrate", "--model", model, *arguments)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_ctrl_c_says_what_is_kept(seedbed, model, prompts, ratings, monkeypatch):
    import seedbed.lab.calibration as module

    real, calls = module.measured, []

    def interrupted(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(module, "measured", interrupted)
    arguments = ("calibrate", "--model", model, "--prompts", prompts, "--ratings", ratings)
    code, out, err = seedbed(*arguments, "--noises", 4, "--after", "0")
    assert (code, out) == (130, "")
    assert err == "interrupted: 2 of 8 prompts are kept in seedbed-profile.json.rows; run again to go on\n"


def test_a_random_seed_is_drawn_once_for_a_run_that_goes_on(seedbed, model, prompts, ratings, monkeypatch):
    import seedbed.lab.calibration as module

    real, pools = module.measured, []

    def interrupted(session, pool, *arguments):
        if len(pools) == 2:
            pools.append(None)
            raise KeyboardInterrupt
        pools.append([recipe.seed for recipe in pool.recipes])
        return real(session, pool, *arguments)

    monkeypatch.setattr(module, "measured", interrupted)
    monkeypatch.setattr("secrets.randbelow", lambda below: 0)  # which the ratings are of
    given = ("calibrate", "--model", model, "--prompts", prompts, "--ratings", ratings, "--noises", 4)
    given += ("--after", "0", "--seed", -1, "--no-report")
    assert seedbed(*given).code == 130
    monkeypatch.setattr("secrets.randbelow", lambda below: 77)
    code, _, err = seedbed(*given)
    assert (code, err) == (0, "seed    0\n")
    assert pools == [*([number] * 4 for number in range(2)), None, *([number] * 4 for number in range(2, 8))]
    profile = json.loads(prompts.with_name("seedbed-profile.json").read_text())
    assert profile["calibrated"]["seed"] == 0


def test_a_missing_profile_is_one_line(seedbed, model):
    code, _, err = seedbed("generate", PROMPTS[0], "--model", model, "--acquisition", "none.json")
    assert (code, err) == (2, "error: cannot read the profile none.json: No such file or directory\n")


def test_the_spread_of_videos_is_told_and_kept(seedbed, model, tmp_path, monkeypatch):
    (tmp_path / "three.txt").write_text("\n".join(PROMPTS[:3]))
    arguments = ("noise", "spread", "--prompts", "three.txt", "--model", model, "--noises", 2)
    code, out, err = seedbed(*arguments, "--cache", "kept")
    assert (code, err) == (0, "")
    assert "3 prompts x 2 noises" in out and "the noise, whatever the prompt" in out
    code, again, _ = seedbed(*arguments, "--cache", "kept", "--json")
    content = json.loads(again)
    assert code == 0 and content["prompts"] == 3
    assert content["prompt"][0] + content["within"][0] == pytest.approx(1)
    # A random seed is drawn once for a folder, and another one for another.
    monkeypatch.setattr("secrets.randbelow", lambda below: 77)
    drawn, rows = (*arguments, "--seed", -1, "--cache"), tmp_path / "kept/rows.jsonl"
    before = rows.read_bytes()
    assert seedbed(*drawn, "kept").err == "seed    0\n" and rows.read_bytes() == before
    assert seedbed(*drawn, "other").err == "seed    77\n"
    monkeypatch.setattr("secrets.randbelow", lambda below: 78)
    assert seedbed(*drawn, "other").err == "seed    77\n"
    code, out, err = seedbed("noise", "spread")
    assert code == 2 and err.count("\n") == 1 and "either --prompts FILE or --world shapes" in err
