"""`seedbed ui` says in one line why it does not start."""

import sys

import pytest

from seedbed.ui.jobs import Jobs


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host", "0.0.0.0", "--public"],
        ["--host", "::", "--password", "koala"],
        ["--host", "example.org"],
    ],
)
def test_others_are_let_in_only_on_purpose_and_with_a_password(seedbed, arguments, tmp_path):
    outcome = seedbed("ui", *arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith(f"error: --host {arguments[1]} lets others in: add --public and --password")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "seedbed-ui").exists()


def test_without_gradio_it_says_what_to_install(seedbed, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    outcome = seedbed("ui")
    assert outcome.code == 2 and "pip install 'seedbed[ui]'" in outcome.err and outcome.err.count("\n") == 1


def test_a_model_or_a_folder_that_cannot_be_used(seedbed, tmp_path):
    pytest.importorskip("gradio", reason="needs seedbed[ui]")
    assert "there is no model at nowhere" in seedbed("ui", "--model", "nowhere").err
    held = Jobs(tmp_path / "held")
    assert "is in use by another seedbed ui" in seedbed("ui", "--folder", held.folder).err
    (tmp_path / "file").touch()
    assert "cannot use the folder" in seedbed("ui", "--folder", tmp_path / "file").err
