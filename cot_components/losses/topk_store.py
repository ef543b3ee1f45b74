"""A teacher's top k on disk: computed once, row by row, and read by every run that trains on the same tokens.

A store is a folder: `header.json` records tokenizer, data and vocabulary, and each numbered subfolder holds some rows.
A subfolder is renamed into place when it is complete, so a run that was interrupted while writing continues where it
stopped. Kept for token `t` of a row is the teacher's distribution over it given the tokens before; it stays valid
however the row is blurred, weighed or packed. (Not if earlier tokens are removed: the teacher saw a different row.)

Bytes per token: 6 k + 4. Log-probabilities are kept in fp16; the tail is what the kept values leave.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cot_components.errors import UserError, require
from cot_components.files import read_object, write_whole
from cot_components.losses.types import TopK

VERSION = 1
COLUMNS = ("ids", "logp", "tail", "row_ids", "row_start")


def top_k(logits: Tensor, k: int) -> TopK:
    """The k most likely tokens of logits `[n, V]`, their log-probabilities and the mass of the others, fp32."""
    logp, ids = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1)
    logp = logp.half().float()
    return TopK(ids, logp, (1.0 - logp.exp().sum(-1)).clamp(min=0.0))


class TopKWriter:
    """Adds rows to a store and knows which ones it has.

    Args:
        folder: created if missing.
        k: tokens kept per position; vocab_size: the teacher's.
        tokenizer, data: hashes of the tokenizer (what ids mean) and of the rows.
        teacher: hash of the model the rows were computed with, if known.
        rows_per_part: the most rows a killed process can lose.

    Raises:
        UserError: the folder holds a store of something else.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        k: int,
        vocab_size: int,
        tokenizer: str,
        data: str,
        teacher: str | None = None,
        rows_per_part: int = 256,
    ) -> None:
        require("k", k, 1, vocab_size)
        self.folder, self.rows_per_part = Path(folder), rows_per_part
        header = {"version": VERSION, "k": k, "vocab_size": vocab_size, "tokenizer": tokenizer, "data": data}
        header |= {"teacher": teacher} if teacher else {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from error
        path = self.folder / "header.json"
        if path.exists():
            _check_header(path, header)
        else:
            write_whole(path, (json.dumps(header, indent=1) + "\n").encode())
        self.k = k
        self.done = {int(row) for part in _parts(self.folder) for row in np.load(part / "row_ids.npy")}
        self._pending: list[tuple[int, TopK]] = []

    def add(self, row_id: int, logits: Tensor) -> None:
        """One row: the teacher's `logits [T, V]`, where position t predicts token t + 1; the last is not kept."""
        top = top_k(logits[:-1], self.k)
        self._pending.append((row_id, TopK(*(column.cpu() for column in top))))
        if len(self._pending) >= self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Write pending rows; call it at the end."""
        if not self._pending:
            return
        tops = [top for _, top in self._pending]
        columns: dict[str, np.ndarray] = {
            "ids": torch.cat([top.ids for top in tops]).numpy().astype(np.int32),
            "logp": torch.cat([top.logp for top in tops]).numpy().astype(np.float16),
            "tail": torch.cat([top.tail for top in tops]).numpy(),
            "row_ids": np.array([row_id for row_id, _ in self._pending], dtype=np.int64),
            "row_start": np.cumsum([0, *(len(top.tail) for top in tops)], dtype=np.int64),
        }
        number = 1 + max((int(part.name) for part in _parts(self.folder)), default=-1)
        made = self.folder / f"{number:06d}.tmp"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for name, column in columns.items():
            np.save(made / f"{name}.npy", column)
        os.replace(made, self.folder / f"{number:06d}")
        self.done |= {row_id for row_id, _ in self._pending}
        self._pending = []


class TopKStore:
    """Reads a store; memory-mapped, picklable, for any number of loader workers.

    Raises:
        UserError: no store there, or one of another tokenizer, other data or another vocabulary; the message names
            both.
    """

    def __init__(self, folder: str | Path, *, vocab_size: int, tokenizer: str, data: str) -> None:
        self.folder = Path(folder)
        self._again = partial(TopKStore, folder, vocab_size=vocab_size, tokenizer=tokenizer, data=data)
        header = {"version": VERSION, "vocab_size": vocab_size, "tokenizer": tokenizer, "data": data}
        self.k = int(_check_header(self.folder / "header.json", header)["k"])
        parts = [
            {name: np.load(part / f"{name}.npy", mmap_mode="r") for name in COLUMNS} for part in _parts(self.folder)
        ]
        if not parts:
            raise UserError(f"{self.folder}: the store of top-k log-probabilities holds no row yet")
        self._parts = parts
        order, row_ids = _sorted_ids(parts)
        self._row_ids = row_ids
        self._part = np.repeat(np.arange(len(parts)), [len(part["row_ids"]) for part in parts])[order]
        self._start = np.concatenate([part["row_start"][:-1] for part in parts])[order]
        self._length = np.concatenate([np.diff(part["row_start"]) for part in parts])[order]

    def __reduce__(self) -> Any:  # a worker reopens it: pickling a memory map would copy the whole file
        return self._again, ()

    def __len__(self) -> int:
        return len(self._row_ids)

    def lookup(self, row_ids: np.ndarray, positions: np.ndarray) -> TopK:
        """The teacher's distributions for target tokens.

        Args:
            row_ids: int64 `[N]`, the row of each target.
            positions: int64 `[N]`, the target's index in the row as encoded, at least 1; negative (padding) gets a
                placeholder.

        Raises:
            UserError: a row that is not in the store, or is shorter there.
        """
        wanted = positions >= 0
        at = np.searchsorted(self._row_ids, row_ids).clip(max=len(self._row_ids) - 1)
        missing = wanted & (self._row_ids[at] != row_ids)
        if missing.any():
            raise UserError(f"{self.folder}: row {row_ids[missing][0]} is not in the store, which has {len(self)} rows")
        outside = wanted & ((positions < 1) | (positions > self._length[at]))
        if outside.any():
            row, position = row_ids[outside][0], positions[outside][0]
            raise UserError(
                f"{self.folder}: row {row} has no token {position} in the store; it was encoded differently"
            )
        ids = np.tile(np.arange(self.k, dtype=np.int64), (len(row_ids), 1))
        logp = np.full((len(row_ids), self.k), -np.log(self.k), dtype=np.float32)
        tail = np.zeros(len(row_ids), dtype=np.float32)
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(wanted & (self._part[at] == number))
            entry = self._start[at[here]] + positions[here] - 1
            ids[here], logp[here], tail[here] = part["ids"][entry], part["logp"][entry], part["tail"][entry]
        return TopK(torch.from_numpy(ids), torch.from_numpy(logp), torch.from_numpy(tail))


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.is_dir() and part.name.isdigit()) if folder.is_dir() else []


def _sorted_ids(parts: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    row_ids = np.concatenate([part["row_ids"] for part in parts])
    order = np.argsort(row_ids, kind="stable")
    return order, row_ids[order]


def _check_header(path: Path, expected: dict[str, object]) -> dict[str, Any]:
    """The header, if it is as expected."""
    if not path.exists():
        raise UserError(f"{path.parent}: no store of top-k log-probabilities (no {path.name})")
    found = read_object(path)
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(
                f"{path.parent}: the store was made with {key} {found.get(key)}, this run has {key} {value}"
            )
    return found
