"""Checkpoints on disk: whole or not there, whatever happens to the process or to the bytes."""

import json
import resource
import shutil
import signal

import pytest
import torch
from safetensors import safe_open
from tally import count

from cot_components.errors import UserError
from cot_components.runs import checkpoint
from cot_components.runs.checkpoint import damage, find_newest, read_state, write_checkpoint

TENSORS = {
    "model.safetensors": {"a": torch.arange(12.0).view(3, 4), "b": torch.tensor([float("nan"), -0.0])},
    "optimizer.safetensors": {"a/step": torch.tensor(3.0), "a/exp_avg": torch.ones(3, 4, dtype=torch.bfloat16)},
}
POINTS = ["after model.safetensors", "after optimizer.safetensors", "before manifest", "before rename", "before prune"]
FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def save(folder, step, **options):
    return write_checkpoint(folder, step, tensors=TENSORS, state={"step": step}, **options)


@pytest.fixture
def two(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path):
    path = save(tmp_path, 7)
    assert path.name == "step_00000007" and damage(path) is None and read_state(path) == {"step": 7}
    for name, part in TENSORS.items():
        with safe_open(path / name, framework="pt") as file:
            assert set(file.keys()) == set(part)
            for key, value in part.items():
                read = file.get_tensor(key)
                assert read.dtype == value.dtype and torch.equal(read.nan_to_num(9), value.nan_to_num(9))


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 20, 100):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step_00000020", "step_00000100"]
    assert find_newest(tmp_path).path == tmp_path / "step_00000100"


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newer_one_takes_no_place(two, keep):
    """What is kept is whole: not the damaged one instead of the one just written."""
    count("faults injected")
    (two / "step_00000010" / "model.safetensors").write_bytes(b"torn")
    save(two, 7, keep=keep)
    assert names(two) == ["step_00000005", "step_00000007", "step_00000010"][2 - keep :]
    assert find_newest(two).path == two / "step_00000007"


def test_saving_the_same_step_again_changes_nothing(two):
    before = (two / "step_00000010" / "manifest.json").stat().st_mtime_ns
    save(two, 10)
    assert (two / "step_00000010" / "manifest.json").stat().st_mtime_ns == before


def test_a_damaged_one_of_the_same_step_is_replaced(two):
    (two / "step_00000010" / "state.json").write_text("{}")
    assert damage(save(two, 10)) is None and names(two) == ["step_00000005", "step_00000010"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_anywhere_leaves_the_earlier_ones(two, monkeypatch, point, failure):
    count("faults injected")

    def fail(reached):
        if reached == point:
            raise failure

    monkeypatch.setattr(checkpoint, "reached", fail)
    with pytest.raises((UserError, KeyboardInterrupt, OSError)) as raised:
        save(two, 15)
    newest = find_newest(two)
    expected = "step_00000015" if point == "before prune" else "step_00000010"
    assert newest.path is not None and newest.path.name == expected and newest.damaged == ()
    if isinstance(failure, OSError) and point != "before prune":
        assert "No space left on device" in str(raised.value)
        assert names(two) == ["step_00000005", "step_00000010"]
    monkeypatch.undo()
    save(two, 20)
    assert not [name for name in names(two) if name.startswith(".")]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_file_is_found(two, name, share):
    count("faults injected")
    file = two / "step_00000010" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    newest = find_newest(two)
    assert newest.path == two / "step_00000005"
    assert [path.name for path, _ in newest.damaged] == ["step_00000010"] and name in newest.damaged[0][1]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(two, name):
    count("faults injected")
    file = two / "step_00000010" / name
    content = bytearray(file.read_bytes())
    for position in range(0, len(content), max(len(content) // 7, 1)):
        flipped = bytearray(content)
        flipped[position] ^= 1
        file.write_bytes(flipped)
        try:
            assert damage(two / "step_00000010") is not None, position
        except UserError as error:  # the digit of the format itself
            assert "format" in str(error)


def linked(path):
    (path / "model.safetensors").rename(path.parent / "elsewhere")
    (path / "model.safetensors").symlink_to(path.parent / "elsewhere")


HARMS = {
    "optimizer.safetensors": lambda path: (path / "optimizer.safetensors").unlink(),
    "more.bin": lambda path: (path / "more.bin").write_bytes(b"x"),
    "manifest.json": lambda path: [file.unlink() for file in path.iterdir()],
    "model.safetensors": linked,
}


@pytest.mark.parametrize("name", HARMS)
def test_a_wrong_set_of_files_is_found(two, name):
    count("faults injected")
    HARMS[name](two / "step_00000010")
    newest = find_newest(two)
    ((path, reason),) = newest.damaged
    assert newest.path == two / "step_00000005" and path == two / "step_00000010" and reason.startswith(name)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "hf/../../outside"])
def test_a_manifest_cannot_name_a_file_outside(two, name):
    file = two / "step_00000010" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"][name] = {"size": 0, "sha256": "0"}
    file.write_text(json.dumps(manifest))
    assert name in damage(two / "step_00000010")


def test_other_names_are_no_checkpoints(two):
    for name in ("latest", "step_x", "step_00000099.set_aside", ".saving-00000011-1"):
        (two / name).mkdir()
    assert find_newest(two).path == two / "step_00000010"


def test_no_room_is_one_sentence_before_anything_is_written(two, monkeypatch):
    count("faults injected")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(UserError, match=r"cannot save .*0\.0 MB free"):
        save(two, 15)
    assert names(two) == ["step_00000005", "step_00000010"]


def test_a_full_disk_is_one_sentence(two):
    """A file-size limit fails a write in its middle, as a full disk does."""
    count("faults injected")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    big = {"model.safetensors": {"a": torch.zeros(100_000)}}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(UserError, match=r"cannot save .*step_00000015"):
            write_checkpoint(two, 15, tensors=big, state={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(two) == ["step_00000005", "step_00000010"] and find_newest(two).damaged == ()


def test_what_differs_on_disk_is_not_given_its_name(two, monkeypatch):
    count("faults injected")

    def scratch(point):
        if point == "before manifest":
            file = next(two.glob(".saving-*")) / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)

    monkeypatch.setattr(checkpoint, "reached", scratch)
    with pytest.raises(UserError, match="differs"):
        save(two, 15)
    assert names(two) == ["step_00000005", "step_00000010"]
