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
