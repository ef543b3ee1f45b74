"""The cache of encoded rows: its folders are complete or absent, even if a writer is killed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cot_components.data.rows.store import COLUMNS, PER_TOKEN, Rows
from cot_components.errors import UserError

UNFINISHED = ".unfinished"
"""End of the names of folders that are being written, or moved out of the way."""

SELECTED_AT_ONCE = 4096
"""Rows in memory at a time while a selection is written."""


def select_mapped(rows: Rows, indices: np.ndarray) -> Rows:
    """`rows.select(indices)`; for memory-mapped rows the result is memory-mapped too, stored next to their folder.

    Rows that are in memory stay there.

    Args:
        rows: in memory, or from `read_rows`.
        indices: int64 `[n]`, in the order wanted.

    Raises:
        UserError: the selection cannot be written next to the folder, or cannot be read back.
    """
    if not isinstance(rows.tokens, np.memmap):
        return rows.select(indices)
    whole = Path(str(rows.tokens.filename)).parent
    folder = whole.with_name(f"{whole.name}-{hashlib.sha256(indices.astype(np.int64).data).hexdigest()[:16]}")
    found = read_rows(folder)
    if found is None:
        parts = np.array_split(indices, max(len(indices) // SELECTED_AT_ONCE, 1))
        write_rows(folder, (rows.select(part) for part in parts), lambda: {"rows": len(indices), "of": whole.name})
        found = read_rows(folder)
    if found is None:
        raise UserError(f"a selection of encoded rows could not be stored in {folder}")
    return found[0]


def write_rows(folder: Path, parts: Iterable[Rows], describe: Callable[[], Any]) -> None:
    """Stream parts into a new cache `folder`: one .npy per column, and `meta.json` with what `describe()` then says.

    Written to a temporary folder, then renamed, so that it exists complete or not at all. If another process was
    faster, its folder stays. Leftovers of killed processes next to it are removed.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished_folder(folder) as unfinished:
            _stream_columns(unfinished, parts)
            about = describe()
            checksums = {name: _checksum(unfinished / f"{name}.npy") for name in COLUMNS}
            meta = {"checksums": checksums, "about": about, "about_checksum": _checksum_of(about)}
            (unfinished / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
            _put(unfinished, folder)
    except OSError as error:  # the disk is full
        raise _unwritable(folder.parent, error) from error


@contextlib.contextmanager
def _unfinished_folder(folder: Path) -> Iterator[Path]:
    """A new folder next to the final one, locked while it is being written; one without a lock is abandoned."""
    with _locked(folder.parent) as is_locked:  # so that no process takes it for abandoned before it is locked
        if is_locked:
            _remove_abandoned(folder.parent)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=UNFINISHED, dir=folder.parent))
        handle = os.open(unfinished, os.O_RDONLY)
        _lock(handle, wait=False)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    """Remove the unfinished folders that no process holds; the caller holds `parent`."""
    for left in parent.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):  # another user's; or removed by its writer just now
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(handle, wait=False):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)


def _put(finished: Path, folder: Path) -> None:
    """Give a finished folder its name, unless an intact folder has it. Only a damaged one is ever removed."""
    with contextlib.suppress(OSError):  # something has the name
        finished.rename(folder)
        return
    with _locked(folder.parent):  # so that no process replaces the damaged one between the check and the rename
        if read_rows(folder) is not None:
            return
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.damaged.", suffix=UNFINISHED, dir=folder.parent))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(aside / folder.name)
            with contextlib.suppress(OSError):  # another process has just put its own there
                finished.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes that write rows there; yields False if it cannot be locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(handle, wait=True)
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether the lock was taken; some network disks cannot lock folders."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"dataset.cache_dir: cannot write to {folder}: {error.strerror or error}")


def read_rows(folder: Path) -> tuple[Rows, Any] | None:
    """Memory-mapped rows and what `describe` said when they were written; None for an absent or damaged folder."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if any(_checksum(folder / f"{name}.npy") != meta["checksums"][name] for name in COLUMNS):
            return None
        if meta["about_checksum"] != _checksum_of(meta["about"]):
            return None
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in COLUMNS}
        return Rows(**columns), meta["about"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _checksum(path: Path) -> int:
    """CRC-32 of a file; limited by the disk's speed, and training reads the file next anyway."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _checksum_of(about: Any) -> int:
    return zlib.crc32(json.dumps(about).encode())


def _stream_columns(folder: Path, parts: Iterable[Rows]) -> None:
    """Write the columns part by part, so that memory holds the per-token columns of one part only."""
    lengths, ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in PER_TOKEN}
        for name, kind in PER_TOKEN.items():
            _write_header(files[name], kind, 0)
        for part in parts:
            for name in PER_TOKEN:
                files[name].write(np.ascontiguousarray(getattr(part, name)).tobytes())
            lengths.append(part.lengths)
            ids.append(part.ids)
        row_start = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        for name, kind in PER_TOKEN.items():
            _write_header(files[name], kind, int(row_start[-1]))
    np.save(folder / "row_start.npy", row_start)
    np.save(folder / "ids.npy", np.concatenate(ids))


def _write_header(file: BinaryIO, kind: type, num_tokens: int) -> None:
    """The .npy header; numpy pads it so that a longer first axis fits in the same place."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (num_tokens,)}
    )
