"""The embedded model on the command line: what a newcomer types first."""

import json
import subprocess
import sys

import pytest

from seedbed import zoo

COMMAND = [sys.executable, "-c", "from seedbed.cli import main; main()"]
PROMPT = "a red circle moving left and a blue square staying still"


def seedbed(folder, *arguments):
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    asked = ["--verifier", "shapes", "--candidates", "3", "--quiet", "--out", "video.mp4"]
    result = seedbed(folder, "generate", PROMPT, *asked)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return folder


@pytest.mark.slow
def test_generate_needs_no_model_and_leaves_three_files(made):
    assert {path.name for path in made.iterdir()} >= {"video.mp4", "video.json", "video.html"}
    record = json.loads((made / "video.json").read_text())
    assert record["model"] == "seedbed:models/shapes-cogvideox"
    assert record["call"]["max_sequence_length"] == 12
    assert record["acquisition"] == "previews" and len(record["totals"]) == 3


@pytest.mark.slow
def test_generate_scores_attention_where_asked_to_or_where_the_verifier_is_at_a_loss(tmp_path):
    for function in ("bansa", "entropy:depth=2"):
        result = seedbed(
            tmp_path,
            "generate",
            PROMPT,
            "--json",
            "--candidates",
            "2",
            "--no-report",
            "--acquisition",
            function,
        )
        record = json.loads(result.stdout)["record"]
        assert record["acquisition"] != "previews" and "generation" in record["ledger"]
    result = seedbed(tmp_path, "generate", "a koala" * 20, "--json", "--no-report")
    assert result.stderr == ""  # the tokenizer has a warning for every prompt that is cut off
    assert json.loads(result.stdout)["record"]["acquisition"] != "previews"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_embedded_models_go_by_their_names(tmp_path, name):
    arguments = ["--model", name, "--acquisition", "bansa", "--candidates", "2", "--json"]
    result = seedbed(tmp_path, "select", PROMPT, *arguments)
    assert json.loads(result.stdout)["record"]["model"] == f"seedbed:models/{name}"


@pytest.mark.slow
@pytest.mark.parametrize("record", ["video.mp4", "video.json"])
def test_replay_makes_the_identical_file(made, record):
    result = seedbed(made, "replay", record, "--out", f"again-{record}.mp4")
    assert result.returncode == 0 and "identical frames" in result.stdout, result.stderr
    assert (made / f"again-{record}.mp4").read_bytes() == (made / "video.mp4").read_bytes()


@pytest.mark.slow
def test_the_choice_does_not_depend_on_the_batch_size(made):
    chosen = []
    for size in ("1", "3", "10"):
        arguments = ["--acquisition", "bansa", "--json", "--batch-size", size, "--out", f"{size}.json"]
        result = seedbed(made, "select", PROMPT, *arguments)
        chosen.append(json.loads(result.stdout)["record"]["order"])
    assert chosen[0] == chosen[1] == chosen[2]
