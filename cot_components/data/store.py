"""Encoded rows as flat arrays, in memory or memory-mapped, and a cache folder that is whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cot_components.data.encode import EncodedRow
from cot_components.data.flat import Flat, initial_labels
from cot_components.errors import UserError
from cot_components.roles import Role

PER_TOKEN = {"tokens": np.int32, "roles": np.uint8, "counters": np.int32, "weights": np.float32}
COLUMNS = (*PER_TOKEN, "row_start", "ids")
SOURCE_SHIFT = 48
"""Row ids hold the trace's number below bit 40, its turn from bit 40 (`turns: each`), its source from bit 48."""

SELECTED_AT_ONCE = 4096
"""Rows in memory at a time while a selection is written."""


@dataclass(frozen=True)
class Rows:
    """`B` encoded rows with `N` tokens in all; row `b` is `[row_start[b] : row_start[b + 1]]`. Nothing in it is random.

    tokens int32, roles uint8, counters int32, weights float32, all `[N]`;
    row_start int64 `[B + 1]`; ids int64 `[B]`, all different.
    """

    tokens: np.ndarray
    roles: np.ndarray
    counters: np.ndarray
    weights: np.ndarray
    row_start: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 `[B]`."""
        return np.diff(self.row_start)

    def flat(self, indices: Sequence[int] | np.ndarray) -> Flat:
        """A batch of the rows at `indices`, in that order, with the labels of plain SFT."""
        rows = self.select(indices)
        tokens = rows.tokens.astype(np.int64)
        return Flat(
            tokens=tokens,
            roles=rows.roles,
            counters=rows.counters,
            labels=initial_labels(tokens, rows.roles),
            weights=rows.weights,
            row_start=rows.row_start,
            ids=rows.ids,
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """The rows at `indices`, in memory; copied stretch by stretch, several times as fast as token by token."""
        indices = np.asarray(indices, dtype=np.int64)
        starts, ends = self.row_start[indices], self.row_start[indices + 1]
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        columns = {}
        for name, kind in PER_TOKEN.items():
            column = np.asarray(getattr(self, name))
            columns[name] = np.concatenate([column[:0], *(column[a:b] for a, b in spans)], dtype=kind)
        row_start = np.concatenate([[0], np.cumsum(ends - starts)])
        return Rows(**columns, row_start=row_start, ids=np.asarray(self.ids[indices]))

    def content_hash(self) -> str:
        """sha256 over ids and tokens: what a file of per-token results is tied to."""
        return self._hash("ids", "row_start", "tokens")

    def training_hash(self) -> str:
        """The same over all that a run trains on: roles and weights, too."""
        return self._hash("ids", "row_start", "tokens", "roles", "weights")

    def _hash(self, *columns: str) -> str:
        digest = hashlib.sha256()
        for name in columns:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()

    def tokens_by_role(self) -> dict[str, int]:
        """Number of tokens of each role that occurs, by label."""
        counts = np.bincount(self.roles, minlength=len(Role))
        return {role.label: int(counts[role]) for role in Role if counts[role]}

    @staticmethod
    def of(rows: Sequence[EncodedRow], ids: Sequence[int]) -> Rows:
        """Encoded rows and their ids, one each, as rows in memory."""
        columns = {
            name: np.concatenate([np.empty(0, kind), *(getattr(row, name) for row in rows)]).astype(kind, copy=False)
            for name, kind in PER_TOKEN.items()
        }
        row_start = np.cumsum([0, *(len(row.tokens) for row in rows)], dtype=np.int64)
        return Rows(**columns, row_start=row_start, ids=np.asarray(ids, dtype=np.int64))

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows, part after part, ids as they are."""
        columns = {
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in PER_TOKEN.items()
        }
        lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
        ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)])
        return Rows(**columns, row_start=np.concatenate([[0], np.cumsum(lengths)]), ids=ids)

    @staticmethod
    def join_sources(sources: Sequence[Rows]) -> Rows:
        """Rows of several sources, ids told apart by the source's number; those of the first stay as they are."""
        return Rows.concatenate(
            [Rows(**{**vars(rows), "ids": rows.ids + (number << SOURCE_SHIFT)}) for number, rows in enumerate(sources)]
        )


def select_mapped(rows: Rows, indices: np.ndarray) -> Rows:
    """`rows.select(indices)`, of memory-mapped rows memory-mapped again: the selection is kept beside their folder.

    Rows that are in memory stay there.

    Args:
        rows: in memory, or from `read_rows`.
        indices: int64 `[n]`, in the order wanted.

    Raises:
        UserError: the selection cannot be written beside the folder, or not be read back from there.
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
        raise UserError(f"a selection of encoded rows could not be kept in {folder}")
    return found[0]


def write_rows(folder: Path, parts: Iterable[Rows], describe: Callable[[], Any]) -> None:
    """Stream parts into a new cache `folder`: one .npy per column, and `meta.json` with what `describe()` then says.

    Written beside the folder and renamed, so that it is there whole or not at all. If another process was faster,
    its folder stays.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        _stream_columns(unfinished, parts)
        meta = {"checksums": {name: _checksum(unfinished / f"{name}.npy") for name in COLUMNS}, "about": describe()}
        (unfinished / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        _put(unfinished, folder)
    except OSError as error:  # the disk is full
        raise _unwritable(folder.parent, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(finished: Path, folder: Path) -> None:
    """Give a finished folder its name, unless a sound one has it. Only a damaged one is ever taken away."""
    with contextlib.suppress(OSError):  # something has the name
        finished.rename(folder)
        return
    with _locked(folder.parent):  # so that nobody takes the damaged one's place between the look and the renaming
        if read_rows(folder) is not None:
            return
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.damaged.", dir=folder.parent))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(aside / folder.name)
            with contextlib.suppress(OSError):  # another process has just put its own there
                finished.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that put rows there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network disks may lock no folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"dataset.cache_dir: cannot write to {folder}: {error.strerror or error}")


def read_rows(folder: Path) -> tuple[Rows, Any] | None:
    """Memory-mapped rows and what `describe` said when they were written; None for an absent or damaged folder."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if any(_checksum(folder / f"{name}.npy") != meta["checksums"][name] for name in COLUMNS):
            return None
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in COLUMNS}
        return Rows(**columns), meta["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(path: Path) -> int:
    """CRC-32 of a file; it is read at the speed of the disk, and training reads it next anyway."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _stream_columns(folder: Path, parts: Iterable[Rows]) -> None:
    """Write the columns as parts come, so that memory holds the per-token columns of one part at a time."""
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
