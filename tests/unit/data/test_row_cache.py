"""A cache folder gives back what was written, is whole or absent, and is cleared of what killed processes left."""

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from stored_rows_for_tests import assert_same_flat, assert_same_rows, make

from cot_components.data.rows import row_cache
from cot_components.data.rows.row_cache import UNFINISHED, read_rows, write_rows
from cot_components.data.rows.store import COLUMNS, Rows
from cot_components.errors import UserError


def write(folder: Path, rows: Rows, about: object = "about") -> None:
    write_rows(folder, [rows.select(range(4)), Rows.of([], []), rows.select(range(4, len(rows)))], lambda: about)


def test_a_cache_gives_back_what_was_written(tmp_path):
    rows, slow = make(9)
    write(tmp_path / "deep/cache", rows, {"read": 9})
    found = read_rows(tmp_path / "deep/cache")
    assert found is not None and found[1] == {"read": 9}
    assert_same_rows(found[0], rows)
    assert_same_flat(found[0].flat([3, 3, 8]), slow.flat([3, 3, 8]))
    assert all(isinstance(getattr(found[0], name), np.memmap) for name in COLUMNS)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cache"]


def test_what_describes_the_rows_is_asked_when_all_are_written(tmp_path):
    rows, _ = make(9)
    seen = []

    def parts():
        for i in range(3):
            seen.append(i)
            yield rows.select([i])

    write_rows(tmp_path / "cache", parts(), lambda: list(seen))
    assert read_rows(tmp_path / "cache")[1] == [0, 1, 2]


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [*(f"{column}.npy" for column in COLUMNS), "meta.json"])
@pytest.mark.parametrize("damage", [_cut_short, _flip_a_bit, _remove, _empty])
def test_a_damaged_cache_is_absent_and_is_replaced(tmp_path, name, damage):
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    if (name, damage) != ("meta.json", _cut_short):  # its last byte is a line feed
        damage(tmp_path / "cache" / name)
        assert read_rows(tmp_path / "cache") is None
    write(tmp_path / "cache", rows)
    assert_same_rows(read_rows(tmp_path / "cache")[0], rows)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_never_unpickles(tmp_path):
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    np.save(tmp_path / "cache/ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    meta = json.loads((tmp_path / "cache/meta.json").read_text())
    meta["checksums"]["ids"] = zlib.crc32((tmp_path / "cache/ids.npy").read_bytes())
    (tmp_path / "cache/meta.json").write_text(json.dumps(meta))
    assert read_rows(tmp_path / "cache") is None


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    rows, _ = make(9)

    def parts():
        yield rows
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "cache", parts(), dict)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_writers_wins(tmp_path):
    (mine, _), (theirs, _) = make(9), make(9, seed=1)

    def parts():
        yield mine
        write(tmp_path / "cache", theirs, "theirs")

    write_rows(tmp_path / "cache", parts(), lambda: "mine")
    found = read_rows(tmp_path / "cache")
    assert found is not None and found[1] == "theirs"
    assert_same_rows(found[0], theirs)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("before", ["absent", "empty", "damaged", "sound"])
def test_no_folder_is_removed_under_its_own_name(tmp_path, before, monkeypatch):
    """Between a look at the folder and its removal another process may have put a sound one there."""
    (rows, _), folder, remove, removed = make(9), tmp_path / "cache", shutil.rmtree, []
    if before == "empty":
        folder.mkdir()
    elif before != "absent":
        write(folder, rows, "before")
    if before == "damaged":
        _remove(folder / "meta.json")
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (removed.append(Path(path)), remove(path, **options)))
    write(folder, rows, "mine")
    found = read_rows(folder)
    assert found is not None and found[1] == ("before" if before == "sound" else "mine")
    assert removed and folder not in removed
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_cache_is_taken_away_once(tmp_path, monkeypatch):
    """Four writers find it damaged and are slow to act on it; the first one's folder then stays."""
    (rows, _), folder, taken = make(9), tmp_path / "cache", []
    write(folder, rows)
    _remove(folder / "meta.json")

    def look(path):
        found = read_rows(path)
        time.sleep(0.05)
        return found

    def rename(path, target):
        taken.extend([path] if path == folder else [])
        return move(path, target)

    move = Path.rename
    monkeypatch.setattr(row_cache, "read_rows", look)
    monkeypatch.setattr(Path, "rename", rename)
    threads = [threading.Thread(target=write, args=(folder, rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [folder]
    assert_same_rows(read_rows(folder)[0], rows)
    assert list(tmp_path.iterdir()) == [folder]


def _change_the_report(meta: dict) -> None:
    meta["about"]["read"] = "many"


def _add_to_the_report(meta: dict) -> None:
    meta["about"]["more"] = 1


def _lose_the_report(meta: dict) -> None:
    del meta["about"]


def _empty_the_report(meta: dict) -> None:
    meta["about"] = None


@pytest.mark.parametrize("damage", [_change_the_report, _add_to_the_report, _lose_the_report, _empty_the_report])
def test_a_damaged_description_is_no_cache(tmp_path, damage):
    rows, _ = make(9)
    write(tmp_path / "cache", rows, {"read": 9, "dropped": {}})
    path = tmp_path / "cache/meta.json"
    meta = json.loads(path.read_text())
    damage(meta)
    path.write_text(json.dumps(meta))
    assert read_rows(tmp_path / "cache") is None
    path.write_text('{"about":' + "[" * 100_000)
    assert read_rows(tmp_path / "cache") is None
    write(tmp_path / "cache", rows, {"read": 9})
    assert read_rows(tmp_path / "cache")[1] == {"read": 9}


WRITER = """
import sys
from pathlib import Path
import numpy as np
from cot_components.data.rows.row_cache import write_rows
from cot_components.data.rows.store import Rows

def parts():
    print("writing", flush=True)
    sys.stdin.read()
    yield Rows.of([], [])

write_rows(Path(sys.argv[1]), parts(), lambda: "theirs")
"""


def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    rows, _ = make(9)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / name)], **pipes) for name in ("killed", "alive")
    )
    try:
        assert [process.stdout.readline() for process in (killed, alive)] == ["writing\n"] * 2
        killed.kill()
        killed.communicate()
        assert len(list(tmp_path.glob(f".*{UNFINISHED}"))) == 2
        (tmp_path / f".link{UNFINISHED}").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        write(tmp_path / "elsewhere", rows)
        left = {path.name.split(".")[1] for path in tmp_path.glob(f".*{UNFINISHED}")}
        assert left == {"alive", "link"}
        alive.communicate(timeout=60)
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()
    assert alive.returncode == 0 and read_rows(tmp_path / "alive")[1] == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".link{UNFINISHED}", "alive", "elsewhere"]
    assert_same_rows(read_rows(tmp_path / "elsewhere")[0], rows)


def test_a_disk_that_locks_nothing_keeps_what_may_be_in_use(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    rows, _ = make(9)
    (tmp_path / f".other.x{UNFINISHED}").mkdir()
    monkeypatch.setattr(row_cache.fcntl, "flock", refuse)
    write(tmp_path / "cache", rows)
    assert_same_rows(read_rows(tmp_path / "cache")[0], rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.x{UNFINISHED}", "cache"]


def test_rows_stay_readable_when_the_cache_is_removed(tmp_path):
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    found = read_rows(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert_same_rows(found[0], rows)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    rows, _ = make(3)

    def full():
        yield rows
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"^dataset\.cache_dir: cannot write to /proc/cot: No such file"):
        write_rows(Path("/proc/cot/key"), [rows], dict)
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device"):
        write_rows(tmp_path / "cache", full(), dict)
    assert list(tmp_path.iterdir()) == []
