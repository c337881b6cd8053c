"""A file is written whole or not at all."""

import os
import stat

import pytest

from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically, written_whole


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.bin"
    assert write_bytes_atomically(str(path), b"first") == path
    assert write_bytes_atomically(path, b"second").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_its_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    written = write_bytes_atomically(tmp_path / "written", b"")
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, failure):
    path = write_bytes_atomically(tmp_path / "a.bin", b"former")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((BadInput, KeyboardInterrupt)) as caught:
        write_bytes_atomically(path, b"new")
    if isinstance(failure, OSError):
        assert str(caught.value) == (
            f"cannot write {path}: No space left on device; the one before is there still"
        )
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_missing_folder_or_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"cannot write .*a\.bin: the folder .*none does not exist"):
        write_bytes_atomically(tmp_path / "none" / "a.bin", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=r"cannot write .*folder: Is a directory"):
        write_bytes_atomically(tmp_path / "folder", b"")
    assert os.listdir(tmp_path) == ["folder"]


def test_the_longest_name_that_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    assert write_bytes_atomically(path, b"whole").read_bytes() == b"whole"
    with pytest.raises(BadInput, match="File name too long"):
        write_bytes_atomically(tmp_path / f"{path.name}n", b"")
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_takes_the_place_of_another_once_it_is_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with written_whole(path) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    with (
        pytest.raises(BadInput, match=r"cannot write .*model: No space"),
        written_whole(path) as partial,
    ):
        partial.mkdir()
        (partial / "third").write_text("third")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["second"]


def test_a_folder_is_there_until_the_other_is(tmp_path, monkeypatch):
    path, own, there = tmp_path / "model", os.replace, []
    path.mkdir()
    (path / "former").write_text("former")

    def replace(source, target):
        there.append(len([*tmp_path.rglob("former")]))
        if len(there) == 2:
            raise OSError(5, "Input/output error")
        own(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BadInput, match="Input/output error"), written_whole(path) as partial:
        partial.mkdir()
    assert there == [1, 1, 1]  # beside a kill at any time lies the former one
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["former"]
