"""Files and folders: refused where they cannot be read, on disk for good, read as JSON."""

import errno
import os

import pytest

from cot_components import files
from cot_components.errors import UserError
from cot_components.evaluation.saved import saved_evaluations


def test_a_folder_that_may_not_be_read_is_not_empty(tmp_path, monkeypatch):
    def refuse(path):
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    folder, scandir = tmp_path / "evaluations", os.scandir
    folder.mkdir()
    (folder / "step_1.json").write_text("{}")
    assert [path.name for path in files.files_below(tmp_path)] == ["step_1.json"]
    monkeypatch.setattr(os, "scandir", refuse)
    for look in (files.files_below, saved_evaluations):
        with pytest.raises(PermissionError):
            look(tmp_path)
    assert files.entries(tmp_path / "nowhere") == []


def refuse_to_sync(monkeypatch, code, *, folders_only):
    def fsync(descriptor):
        if not folders_only or os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_said(tmp_path, monkeypatch, code):
    refuse_to_sync(monkeypatch, code, folders_only=True)
    assert str(tmp_path) in files.sync_below(tmp_path) and "does not sync folders" in files.sync(tmp_path)


@pytest.mark.parametrize(("code", "folders_only"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_disk_that_loses_what_is_written_is_an_error(tmp_path, monkeypatch, code, folders_only):
    refuse_to_sync(monkeypatch, code, folders_only=folders_only)
    with pytest.raises(OSError, match=os.strerror(code)):
        files.write_whole(tmp_path / "file", b"x")
        files.sync_below(tmp_path)
    assert folders_only or not (tmp_path / "file").exists()


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"null", b"", None])
def test_what_is_no_object_is_one_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="No such file" if content is None else r"x\.json"):
        files.read_object(path)
