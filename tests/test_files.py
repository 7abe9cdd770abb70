import errno
import os
from pathlib import Path

import pytest

from cobla_tf.errors import OutputError
from cobla_tf.files import check_writable, replace_with


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_earlier_run_is_replaced_only_by_a_complete_one(kind, tmp_path):
    target = tmp_path / "result"

    def write(path, text, fail=False):
        inner = path
        if kind == "folder":
            path.mkdir()
            inner = path / "inner"
        inner.write_text(text)
        if fail:
            raise RuntimeError("out of disk")

    content = target / "inner" if kind == "folder" else target
    replace_with(target, lambda path: write(path, "first"))
    with pytest.raises(RuntimeError, match="out of disk"):
        replace_with(target, lambda path: write(path, "half", fail=True))
    assert content.read_text() == "first"
    replace_with(target, lambda path: write(path, "second"))
    assert content.read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_the_earlier_folder_comes_back_where_the_new_one_cannot_be_moved(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "inner").write_text("first")
    with pytest.raises(OutputError, match="cannot be written"):
        replace_with(tmp_path / "result", lambda path: None)
    assert (tmp_path / "result" / "inner").read_text() == "first"


@pytest.mark.parametrize(("moved", "left"), [("old", "first"), ("new", "second")])
def test_ctrl_c_once_a_folder_has_moved_loses_none(moved, left, tmp_path, monkeypatch):
    target, replace = tmp_path / "result", Path.replace

    def write(path, text):
        path.mkdir()
        (path / "inner").write_text(text)

    def interrupted(path, to):
        replace(path, to)
        if path == target if moved == "old" else path.parent.name == "new":
            raise KeyboardInterrupt

    replace_with(target, lambda path: write(path, "first"))
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_with(target, lambda path: write(path, "second"))
    assert (target / "inner").read_text() == left
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room for it"),
        (errno.EDQUOT, "make room for it"),
        (errno.EACCES, "mend that"),
        (errno.EROFS, "mend that"),
    ],
)
def test_room_is_asked_for_where_it_is_short_alone(number, remedy, tmp_path):
    def write(path):
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        OutputError, match=rf"result cannot be written \({os.strerror(number)}\); {remedy} and try again"
    ):
        replace_with(tmp_path / "result", write)


@pytest.mark.parametrize("inside", ["", "below", "far/below"])
def test_a_folder_that_cannot_be_written_is_refused(inside, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken.* is refused" if inside else "taken is a file; name another one"):
        check_writable(tmp_path / "taken" / inside)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses files even to root")
def test_a_folder_that_takes_no_file_is_refused():
    with pytest.raises(OutputError, match="/proc"):
        check_writable(Path("/proc/self"))


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
