"""The store: a unit is whole or not there, whatever was cut off where."""

import errno
import math
import os
import subprocess
import sys

import pytest

from seedbed.errors import BadInput, BadRecord
from seedbed.lab import work as module
from seedbed.lab.work import Store

UNITS = [
    [{"key": "a", "x": 0.1, "word": "é\n"}, {"key": "b", "x": 1 / 3, "n": 3}],
    [{"key": "c", "x": math.pi}],
    [{"key": "d", "x": 1e-300, "n": -(2**60)}],
]
ROWS = [row for unit in UNITS for row in unit]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    with store.writing():
        store.recipe.write_text("{}")
        for unit in UNITS:
            store.append(unit)
    return store


def test_rows_come_back_as_they_were(store):
    assert store.rows() == ROWS


def test_a_finished_run_is_in_the_order_asked_for(store):
    with store.writing():
        expected = [ROWS[3], ROWS[0], ROWS[2], ROWS[1]]
        assert store.finish(["d", "a", "c", "b"]) == expected == store.rows()
        assert store.finish(["d", "a", "c", "b"]) == expected


def test_what_is_not_finite_comes_back_too(tmp_path):
    store = Store(tmp_path)
    with store.writing():
        store.append([{"key": "a", "x": math.nan, "z": math.inf}])
        store.finish(["a"])
    (row,) = store.rows()
    assert math.isnan(row["x"]) and row["z"] == math.inf


def test_a_line_cut_off_anywhere_is_no_line(store):
    whole = store.lines.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for length in range(start, len(whole)):
        store.lines.write_bytes(whole[:length])
        assert store.rows() == ROWS[:3]
        with store.writing():
            store.append(UNITS[2])
        assert store.lines.read_bytes() == whole


def test_damage_elsewhere_is_told_with_its_line(store):
    lines = store.lines.read_bytes().splitlines()
    for damage in (lines[1][:-4], b"[1]", b'{"key": 1}', b'[{"x": 1}]', b"\xff"):
        store.lines.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
        with pytest.raises(BadRecord, match=r"rows\.jsonl, line 2 is damaged"):
            store.rows()


def test_a_kill_while_the_order_is_made_leaves_the_lines(store, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), store.writing():
        store.finish(["a", "b", "c", "d"])
    assert store.rows() == ROWS


def test_what_a_killed_writer_left_behind_is_cleared_away(store):
    left = store.folder / ".0a1b.tmp"
    left.write_bytes(b"half")
    with store.writing():
        assert not left.exists()


def test_a_run_of_the_version_before_is_not_begun_anew(tmp_path):
    (tmp_path / "rows.parquet").touch()
    with pytest.raises(BadRecord, match=r"is of seedbed 0\.1: write each row"):
        Store(tmp_path).rows()


@pytest.mark.parametrize("where", ["append", "finish"])
def test_a_full_disk_is_one_line_and_loses_nothing(store, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.writing(), pytest.raises(BadInput, match="No space left on device") as error:
        if where == "append":
            monkeypatch.setattr(module, "open", full, raising=False)
            store.append([{"key": "e"}])
        else:
            monkeypatch.setattr(os, "fsync", full)
            store.finish(["a", "b", "c", "d"])
    monkeypatch.undo()
    assert "\n" not in str(error.value)
    assert store.rows() == ROWS


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full: Linux")
def test_a_disk_that_is_full_only_when_the_file_is_closed(store, monkeypatch):
    monkeypatch.setattr(store, "lines", store.folder / "full")
    with store.writing():
        os.symlink("/dev/full", store.lines)
        with pytest.raises(BadInput, match="No space left on device; what is finished is kept"):
            store.append(UNITS[0])


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with (
        pytest.raises(BadInput, match="not an experiment's folder, it holds thesis"),
        Store(tmp_path).writing(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match=r"cannot write in .*Not a directory"),
        Store(tmp_path / "file" / "run").writing(),
    ):
        pass


def test_a_folder_whose_owner_was_killed_before_the_recipe_was_written_is_ours(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / ".recipe.json.11aa.tmp").write_text("{")
    with Store(tmp_path).writing():
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_one_writer_at_a_time(store):
    with (
        store.writing(),
        pytest.raises(BadInput, match="another run is at work"),
        Store(store.folder).writing(),
    ):
        pass
    with store.writing():
        pass


def test_an_error_of_the_body_stays_what_it_is(store):
    with pytest.raises(FileNotFoundError), store.writing():
        raise FileNotFoundError("of the task")


def test_without_the_extra_it_is_named():
    code = "import sys; sys.modules['scipy'] = None; import seedbed; seedbed.calibrate"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("calibrations need scipy: pip install 'seedbed[lab]'\n")
