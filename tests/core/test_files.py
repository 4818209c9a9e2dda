from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from audiogen.core.files import whole_file, whole_folder


class Stop(Exception):
    """Something that goes wrong in the middle."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_middle_leaves_nothing_or_the_old_file(tmp_path, error):
    path = tmp_path / "new" / "a.txt"
    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(error), whole_file(path) as part:
            part.write_text("half")
            raise error
        assert os.listdir(path.parent) == (["a.txt"] if before else [])
    assert path.read_text() == "old"


def test_a_whole_file_has_its_content_its_suffix_and_ordinary_permissions(tmp_path):
    path = tmp_path / "a.tar.gz"
    mask = os.umask(0o027)
    try:
        with whole_file(path) as part:
            assert part.suffix == ".gz" and part.parent == tmp_path and part.name.startswith(".")
            assert not path.exists()
            part.write_text("all of it")
    finally:
        os.umask(mask)
    assert path.read_text() == "all of it"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.tar.gz"]


def test_errors_of_the_disk_name_the_file_that_a_person_asked_for(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), whole_file(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "folder") as part:
        part.write_text("a file cannot take the place of a folder")
    assert caught.value.filename == str(tmp_path / "folder") and ".part" not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "a.txt"):
        open(tmp_path / "another.txt")
    assert caught.value.filename == str(tmp_path / "another.txt"), "an error of another file keeps its name"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_replaces_an_older_one_whole(tmp_path):
    path = tmp_path / "model"
    for files in (["a", "b"], ["b", "c"]):
        with whole_folder(path) as part:
            for name in files:
                (part / name).write_text(name)
        assert sorted(os.listdir(path)) == files
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_in_a_folder_keeps_the_older_one(tmp_path):
    path = tmp_path / "model"
    with whole_folder(path) as part:
        (part / "a").write_text("old")
    with pytest.raises(Stop), whole_folder(path) as part:
        (part / "a").write_text("new")
        raise Stop
    assert (path / "a").read_text() == "old" and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("calls", range(12))
def test_a_kill_at_any_moment_leaves_a_complete_folder(tmp_path, calls):
    """A child is killed at its n-th system call that syncs, renames or removes; old or new stands, complete."""
    path = tmp_path / "model"
    with whole_folder(path) as part:
        for name in "abc":
            (part / name).write_text("old")
    child = os.fork()
    if child == 0:
        _kill_at(calls)
        with whole_folder(path) as part:
            for name in "abc":
                (part / name).write_text("new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    folders = [path] if path.exists() else [f / "model" for f in tmp_path.iterdir() if f.name.endswith(".old")]
    contents = {tuple((folder / name).read_text() for name in "abc") for folder in folders}
    assert contents in ({("old",) * 3}, {("new",) * 3})
    if not os.WIFSIGNALED(status):
        assert contents == {("new",) * 3}


def _kill_at(calls: int) -> None:
    left = [calls]

    def counted(function):
        def call(*args, **kwargs):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "chmod", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def test_paths_with_spaces_and_any_letters(tmp_path):
    path = tmp_path / "my sounds" / "Größe 琴 'a' \"b\".txt"
    with whole_file(str(path)) as part:
        part.write_text("x")
    assert Path(path).read_text() == "x"
