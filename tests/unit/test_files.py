"""Files and folders: refused where they cannot be read, on disk for good, read as JSON."""

import errno
import os

import pytest

from cot_components import files
from cot_components.errors import UserError
from cot_components.evaluation.saved import saved_evaluations


def refuse(error, *paths):
    def scan(path):
        if str(path) in map(str, paths):
            raise OSError(error, os.strerror(error), str(path))
        return original(path)

    original = os.scandir
    return scan


def test_a_folder_that_may_not_be_read_is_not_empty(tmp_path, monkeypatch):
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "step_1.json").write_text("{}")
    assert [path.name for path in files.files_below(tmp_path)] == ["step_1.json"]
    monkeypatch.setattr(os, "scandir", refuse(errno.EACCES, tmp_path / "evaluations"))
    for look in (files.files_below, saved_evaluations):
        with pytest.raises(PermissionError):
            look(tmp_path)
    assert files.entries(tmp_path / "nowhere") == []


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_syncs_no_folders_is_said(tmp_path, monkeypatch, code, raises):
    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "file").write_text("x")
    if raises:
        with pytest.raises(OSError, match="error"):
            files.sync_below(tmp_path)
    else:
        assert str(tmp_path) in files.sync_below(tmp_path) and "does not sync folders" in files.sync(tmp_path)


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid"):
        files.write_whole(tmp_path / "file", b"x")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"null", b""])
def test_what_is_no_object_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json"):
        files.read_object(tmp_path / "x.json")
    with pytest.raises(UserError, match="No such file"):
        files.read_object(tmp_path / "y.json")
