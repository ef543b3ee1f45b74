"""Rows come back as they went in; a cache folder is whole or absent, and cleared of what killed processes left."""

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
from hypothesis import given
from hypothesis import strategies as st
from rows import assert_same_flat, assert_same_rows, make

from cot_components.data.rows import row_cache
from cot_components.data.rows.row_cache import UNFINISHED, read_rows, write_rows
from cot_components.data.rows.store import COLUMNS, PER_TOKEN, SOURCE_SHIFT, Rows
from cot_components.errors import UserError
from cot_components.roles import Role

ROWS, SLOW = make(9)


@given(st.lists(st.integers(0, 19), max_size=25), st.integers(0, 3))
def test_batches_and_selections_are_their_rows_one_after_the_other(indices, seed):
    rows, slow = make(20, seed=seed)
    expected = slow.flat(indices)
    for chosen in (indices, np.array(indices, dtype=np.int64)):
        assert_same_flat(rows.flat(chosen), expected)
    selected = rows.select(indices)
    assert_same_flat(selected.flat(range(len(indices))), expected)
    assert [getattr(selected, name).dtype for name in PER_TOKEN] == [np.dtype(kind) for kind in PER_TOKEN.values()]


def test_types_of_a_batch():
    flat = ROWS.flat([1])
    wanted = {**PER_TOKEN, "tokens": np.int64, "labels": np.int64}
    assert {name: getattr(flat, name).dtype for name in wanted} == wanted
    assert flat.row_start.dtype == flat.ids.dtype == np.int64
    with pytest.raises(IndexError):
        ROWS.flat([9])


def test_rows_of_several_parts_follow_each_other():
    (first, slow), (second, _) = make(4), make(3, seed=1)
    joined = Rows.concatenate([first, Rows.of([], []), second])
    assert len(joined) == 7
    assert_same_flat(joined.flat(range(4)), slow.flat(range(4)))
    assert_same_rows(joined.select(range(4, 7)), second)
    assert_same_rows(Rows.concatenate([]), Rows.of([], []))


def test_ids_of_several_sources_differ():
    ids = Rows.join_sources([ROWS, ROWS, ROWS]).ids.tolist()
    assert len(set(ids)) == 27 and ids[:9] == ROWS.ids.tolist()
    assert ids[18:] == [i + (2 << SOURCE_SHIFT) for i in ROWS.ids.tolist()]


def test_lengths_and_tokens_by_role():
    assert ROWS.lengths.tolist() == [len(row.tokens) for row in SLOW.rows]
    counts = {role.label: sum(int((row.roles == role).sum()) for row in SLOW.rows) for role in Role}
    assert ROWS.tokens_by_role() == {label: count for label, count in counts.items() if count}


def write(folder, rows=ROWS, about="about"):
    write_rows(folder, [rows.select(range(4)), Rows.of([], []), rows.select(range(4, len(rows)))], lambda: about)


def holds(folder, rows=ROWS, about="about"):
    """Whether the cache is whole, of these rows, and alone in its parent folder."""
    found = read_rows(folder)
    if found is not None:
        assert_same_rows(found[0], rows)
    return found is not None and found[1] == about and list(folder.parent.iterdir()) == [folder]


def test_a_cache_gives_back_what_was_written(tmp_path):
    write(tmp_path / "deep/cache", about={"read": 9})
    assert holds(tmp_path / "deep/cache", about={"read": 9})
    rows = read_rows(tmp_path / "deep/cache")[0]
    assert all(isinstance(getattr(rows, name), np.memmap) for name in COLUMNS)
    shutil.rmtree(tmp_path / "deep")
    assert_same_flat(rows.flat([3, 3, 8]), SLOW.flat([3, 3, 8]))  # readable when the cache is removed


def test_what_describes_the_rows_is_asked_when_all_are_written(tmp_path):
    seen = []

    def parts():
        for i in range(3):
            seen.append(i)
            yield ROWS.select([i])

    write_rows(tmp_path / "cache", parts(), lambda: list(seen))
    assert read_rows(tmp_path / "cache")[1] == [0, 1, 2]


DAMAGE = {
    "cut short": lambda content: content[:-2],  # the last byte of meta.json is a line feed
    "a bit flipped": lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


@pytest.mark.parametrize("name", [*(f"{column}.npy" for column in COLUMNS), "meta.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_absent_and_is_replaced(tmp_path, name, damage):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / name
    damaged = DAMAGE[damage](path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    assert read_rows(tmp_path / "cache") is None
    write(tmp_path / "cache")
    assert holds(tmp_path / "cache")


GOOD = {"read": 9, "dropped": {}}
DEEP = '{"about":' + "[" * 100_000


@pytest.mark.parametrize("about", [GOOD | {"read": "many"}, GOOD | {"more": 1}, "absent", None, DEEP])
def test_a_damaged_description_is_no_cache(tmp_path, about):
    write(tmp_path / "cache", about=GOOD)
    path = tmp_path / "cache/meta.json"
    meta = {**json.loads(path.read_text()), "about": about}
    if about == "absent":
        del meta["about"]
    path.write_text(DEEP if about == DEEP else json.dumps(meta))
    assert read_rows(tmp_path / "cache") is None


def test_a_cache_never_unpickles(tmp_path):
    write(tmp_path / "cache")
    np.save(tmp_path / "cache/ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    meta = json.loads((tmp_path / "cache/meta.json").read_text())
    meta["checksums"]["ids"] = zlib.crc32((tmp_path / "cache/ids.npy").read_bytes())
    (tmp_path / "cache/meta.json").write_text(json.dumps(meta))
    assert read_rows(tmp_path / "cache") is None


@pytest.mark.parametrize(
    ("fault", "raises", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "cannot write to .*: No space left on device"),
    ],
)
def test_an_interrupted_writer_leaves_nothing(tmp_path, fault, raises, message):
    def parts():
        yield ROWS
        raise fault

    with pytest.raises(raises, match=message):
        write_rows(tmp_path / "cache", parts(), dict)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence():
    with pytest.raises(UserError, match=r"^dataset\.cache_dir: cannot write to /proc/cot: No such file"):
        write_rows(Path("/proc/cot/key"), [ROWS], dict)


def test_the_faster_of_two_writers_wins(tmp_path):
    theirs = make(9, seed=1)[0]

    def parts():
        yield ROWS
        write(tmp_path / "cache", theirs, "theirs")

    write_rows(tmp_path / "cache", parts(), lambda: "mine")
    assert holds(tmp_path / "cache", theirs, "theirs")


@pytest.mark.parametrize("before", ["absent", "empty", "damaged", "sound"])
def test_no_folder_is_removed_under_its_own_name(tmp_path, before, monkeypatch):
    """Between a look at the folder and its removal another process may have put a sound one there."""
    folder, rmtree, removed = tmp_path / "cache", shutil.rmtree, []
    if before in ("damaged", "sound"):
        write(folder, about="before")
    if before == "empty":
        folder.mkdir()
    if before == "damaged":
        (folder / "meta.json").unlink()
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (removed.append(Path(path)), rmtree(path, **options)))
    write(folder, about="mine")
    assert holds(folder, about="before" if before == "sound" else "mine")
    assert removed and folder not in removed


def test_a_damaged_cache_is_taken_away_once(tmp_path, monkeypatch):
    """Four writers find it damaged and are slow to act on it; the first one's folder then stays."""
    folder, taken, move = tmp_path / "cache", [], Path.rename
    write(folder)
    (folder / "meta.json").unlink()

    def look(path):
        found = read_rows(path)
        time.sleep(0.05)
        return found

    def rename(path, target):
        taken.extend([path] if path == folder else [])
        return move(path, target)

    monkeypatch.setattr(row_cache, "read_rows", look)
    monkeypatch.setattr(Path, "rename", rename)
    threads = [threading.Thread(target=write, args=(folder,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [folder] and holds(folder)


WRITER = """
import sys
from pathlib import Path
from cot_components.data.rows.row_cache import write_rows
from cot_components.data.rows.store import Rows

def parts():
    print("writing", flush=True)
    sys.stdin.read()
    yield Rows.of([], [])

write_rows(Path(sys.argv[1]), parts(), lambda: "theirs")
"""


def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands = ([sys.executable, "-c", WRITER, str(tmp_path / name)] for name in ("killed", "alive"))
    killed, alive = (subprocess.Popen(command, **pipes) for command in commands)
    try:
        assert [process.stdout.readline() for process in (killed, alive)] == ["writing\n"] * 2
        killed.kill()
        killed.communicate()
        assert len(list(tmp_path.glob(f".*{UNFINISHED}"))) == 2
        (tmp_path / f".link{UNFINISHED}").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        write(tmp_path / "elsewhere")
        assert {path.name.split(".")[1] for path in tmp_path.glob(f".*{UNFINISHED}")} == {"alive", "link"}
        alive.communicate(timeout=60)
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()
    assert alive.returncode == 0 and read_rows(tmp_path / "alive")[1] == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".link{UNFINISHED}", "alive", "elsewhere"]
    assert_same_rows(read_rows(tmp_path / "elsewhere")[0], ROWS)


def test_a_disk_that_locks_nothing_keeps_what_may_be_in_use(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / f".other.x{UNFINISHED}").mkdir()
    monkeypatch.setattr(row_cache.fcntl, "flock", refuse)
    write(tmp_path / "cache")
    assert_same_rows(read_rows(tmp_path / "cache")[0], ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.x{UNFINISHED}", "cache"]
