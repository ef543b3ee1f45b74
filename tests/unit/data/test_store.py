"""Rows come back as they went in, from memory and from a cache folder that is whole or absent."""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import ListRows, random_rows

from cot_components.data import store
from cot_components.data.encode import EncodedRow
from cot_components.data.flat import Flat
from cot_components.data.store import COLUMNS, PER_TOKEN, SOURCE_SHIFT, Rows, read_rows, write_rows
from cot_components.errors import UserError
from cot_components.roles import Role


def make(count: int, *, seed: int = 0) -> tuple[Rows, ListRows]:
    """The same rows in the store and in the slow reference."""
    random = np.random.default_rng(seed)
    plain = random_rows(count, seed=seed).rows
    slow = ListRows([row.with_weights(random.random(len(row.tokens), dtype=np.float32)) for row in plain])
    encoded = [EncodedRow(row.tokens, row.roles, row.counters, row.weights) for row in slow.rows]
    return Rows.of(encoded, [int(row.ids[0]) for row in slow.rows]), slow


def assert_same_flat(one: Flat, other: Flat) -> None:
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def assert_same_rows(one: Rows, other: Rows) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype


@given(st.lists(st.integers(0, 19), max_size=25), st.integers(0, 3))
def test_a_batch_is_its_rows_one_after_the_other(indices: list[int], seed: int) -> None:
    rows, slow = make(20, seed=seed)
    assert_same_flat(rows.flat(indices), slow.flat(indices))
    assert_same_flat(rows.flat(np.array(indices, dtype=np.int64)), slow.flat(indices))


def test_types_of_a_batch() -> None:
    flat = make(3)[0].flat([1])
    wanted = {**PER_TOKEN, "tokens": np.int64, "labels": np.int64}
    assert {name: getattr(flat, name).dtype for name in wanted} == wanted
    assert flat.row_start.dtype == flat.ids.dtype == np.int64


def test_an_index_that_is_not_there() -> None:
    rows, _ = make(3)
    with pytest.raises(IndexError):
        rows.flat([3])


@given(st.lists(st.integers(0, 9), max_size=12))
def test_selected_rows_are_those_rows(indices: list[int]) -> None:
    rows, slow = make(10)
    chosen = rows.select(indices)
    assert len(chosen) == len(indices)
    assert_same_flat(chosen.flat(range(len(indices))), slow.flat(indices))
    assert [getattr(chosen, name).dtype for name in PER_TOKEN] == [np.dtype(kind) for kind in PER_TOKEN.values()]


def test_rows_of_several_parts_follow_each_other() -> None:
    (first, slow), (second, _) = make(4), make(3, seed=1)
    joined = Rows.concatenate([first, Rows.of([], []), second])
    assert len(joined) == 7
    assert_same_flat(joined.flat(range(4)), slow.flat(range(4)))
    assert_same_rows(joined.select(range(4, 7)), second)
    assert_same_rows(Rows.concatenate([]), Rows.of([], []))


def test_ids_of_several_sources_differ() -> None:
    rows, _ = make(5)
    joined = Rows.join_sources([rows, rows, rows])
    assert len(set(joined.ids.tolist())) == 15
    assert joined.ids[:5].tolist() == rows.ids.tolist()
    assert joined.ids[10:].tolist() == [i + (2 << SOURCE_SHIFT) for i in rows.ids.tolist()]


def test_lengths_and_tokens_by_role() -> None:
    rows, slow = make(10)
    assert rows.lengths.tolist() == [len(row.tokens) for row in slow.rows]
    counts = {role.label: sum(int((row.roles == role).sum()) for row in slow.rows) for role in Role}
    assert rows.tokens_by_role() == {label: count for label, count in counts.items() if count}
    assert "pad" not in rows.tokens_by_role()


def write(folder: Path, rows: Rows, about: object = "about") -> None:
    write_rows(folder, [rows.select(range(4)), Rows.of([], []), rows.select(range(4, len(rows)))], lambda: about)


def test_a_cache_gives_back_what_was_written(tmp_path: Path) -> None:
    rows, slow = make(9)
    write(tmp_path / "deep/cache", rows, {"read": 9})
    found = read_rows(tmp_path / "deep/cache")
    assert found is not None and found[1] == {"read": 9}
    assert_same_rows(found[0], rows)
    assert_same_flat(found[0].flat([3, 3, 8]), slow.flat([3, 3, 8]))
    assert all(isinstance(getattr(found[0], name), np.memmap) for name in COLUMNS)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cache"]


def test_what_describes_the_rows_is_asked_when_all_are_written(tmp_path: Path) -> None:
    rows, _ = make(9)
    seen: list[int] = []

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
def test_a_damaged_cache_is_absent_and_is_replaced(tmp_path: Path, name: str, damage) -> None:
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    if (name, damage) != ("meta.json", _cut_short):  # its last byte is a line feed
        damage(tmp_path / "cache" / name)
        assert read_rows(tmp_path / "cache") is None
    write(tmp_path / "cache", rows)
    assert_same_rows(read_rows(tmp_path / "cache")[0], rows)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_never_unpickles(tmp_path: Path) -> None:
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    np.save(tmp_path / "cache/ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    meta = json.loads((tmp_path / "cache/meta.json").read_text())
    meta["checksums"]["ids"] = zlib.crc32((tmp_path / "cache/ids.npy").read_bytes())
    (tmp_path / "cache/meta.json").write_text(json.dumps(meta))
    assert read_rows(tmp_path / "cache") is None


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    rows, _ = make(9)

    def parts():
        yield rows
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "cache", parts(), dict)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_writers_wins(tmp_path: Path) -> None:
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
def test_no_folder_is_removed_under_its_own_name(tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_damaged_cache_is_taken_away_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four writers find it damaged and are slow to act on it; the first one's folder then stays."""
    (rows, _), folder, taken = make(9), tmp_path / "cache", []
    write(folder, rows)
    _remove(folder / "meta.json")

    def look(path: Path) -> object:
        found = read_rows(path)
        time.sleep(0.05)
        return found

    def rename(path: Path, target: Path) -> Path:
        taken.extend([path] if path == folder else [])
        return move(path, target)

    move = Path.rename
    monkeypatch.setattr(store, "read_rows", look)
    monkeypatch.setattr(Path, "rename", rename)
    threads = [threading.Thread(target=write, args=(folder, rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [folder]
    assert_same_rows(read_rows(folder)[0], rows)
    assert list(tmp_path.iterdir()) == [folder]


def test_rows_stay_readable_when_the_cache_is_removed(tmp_path: Path) -> None:
    rows, _ = make(9)
    write(tmp_path / "cache", rows)
    found = read_rows(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert_same_rows(found[0], rows)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    rows, _ = make(3)

    def full():
        yield rows
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"^dataset\.cache_dir: cannot write to /proc/cot: No such file"):
        write_rows(Path("/proc/cot/key"), [rows], dict)
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device"):
        write_rows(tmp_path / "cache", full(), dict)
    assert list(tmp_path.iterdir()) == []
