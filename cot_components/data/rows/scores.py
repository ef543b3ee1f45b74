"""Per-token scores that models gave to a data set, stored in a folder and tied to exactly these rows.

    meta.json       tokenizer, data, number of scored tokens, and for each column its model and what it measures
    rows.npz        ids, row_start, row_hash [B]
    <column>.npy    float32 [N], NaN where nothing is scored, or not yet: memory-mapped, for transforms
    scores.parquet  the same, a line per row, for everything else (`score_table`)

A row is found by its id and must have the tokens it was scored with: another tokenizer, template or text is an error,
never a silent misalignment. `score_pass` fills the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cot_components.clock import draw_bits
from cot_components.config.components import nearest
from cot_components.data.rows.flat import Flat, Ragged, index_in_row, is_supervised
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError

VERSION = 2


def scored_tokens(rows: Ragged) -> np.ndarray:
    """Which tokens have a score, bool `[N]`: those of a supervised role, except a row's first, which nothing predicts.

    Labels removed by transforms make no difference.
    """
    scored = is_supervised(rows.roles)
    starts = rows.row_start[:-1]
    scored[starts[starts < rows.row_start[1:]]] = False
    return scored


def row_hashes(rows: Ragged) -> np.ndarray:
    """One number per row from its tokens and their order, uint64 `[B]`."""
    bits = draw_bits(draw_bits(np.zeros(1, dtype=np.uint64), rows.tokens), index_in_row(rows))
    total = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(bits, dtype=np.uint64)])
    return total[rows.row_start[1:]] - total[rows.row_start[:-1]]


@dataclass(frozen=True)
class Scores:
    """Scores of `B` rows with `N` tokens in all, memory-mapped; `columns` maps a name to float32 `[N]`."""

    folder: Path
    meta: Mapping[str, Any]
    ids: np.ndarray
    row_start: np.ndarray
    row_hash: np.ndarray
    columns: Mapping[str, np.ndarray]

    def column(self, name: str) -> np.ndarray:
        """A column as it is on disk. Raises UserError if there is none of that name."""
        if name not in self.columns:
            raise UserError(f"{self.folder} has no scores '{name}'{nearest(name, self.columns)}")
        return self.columns[name]

    def finished(self, name: str) -> np.ndarray:
        """All scores of a column, float32 `[num_scored]`. Raises UserError while some are missing."""
        values = self.column(name)
        values = values[~np.isnan(values)]
        if len(values) < self.meta["num_scored"]:
            raise UserError(f"{self.folder}: scores '{name}' are not finished; run the scoring again to continue")
        return values

    def is_finished(self, name: str) -> bool:
        """Whether no score of a column is missing."""
        return int((~np.isnan(self.column(name))).sum()) == self.meta["num_scored"]

    def gather(self, flat: Flat, *names: str) -> list[np.ndarray]:
        """Columns for the tokens of a batch, float32 `[N]` each, NaN at tokens that have no score.

        Raises:
            UserError: a row that was not scored, or not with these tokens; a score that is still missing.
        """
        index = self.index_of(flat)
        lengths = flat.lengths
        position = np.arange(len(flat.tokens)) + np.repeat(self.row_start[index] - flat.row_start[:-1], lengths)
        found = [np.asarray(self.column(name)[position]) for name in names]
        scored = scored_tokens(flat)
        for name, values in zip(names, found, strict=True):
            if np.isnan(values[scored]).any():
                raise UserError(f"{self.folder}: scores '{name}' are not finished; run the scoring again to continue")
            values[~scored] = np.nan
        return found

    def row_sums(self, name: str) -> np.ndarray:
        """Sum of a column over each scored row, float64 `[B]`; see `index_of`. Raises UserError as `finished` does."""
        values = self.finished(name).astype(np.float64)
        return np.bincount(np.repeat(np.arange(len(self.ids)), self._num_scored), values, minlength=len(self.ids))

    def row_means(self, name: str) -> np.ndarray:
        """Mean of a column over the scored tokens of each row, float64 `[B]`; 0 for a row without any."""
        return self.row_sums(name) / np.maximum(self._num_scored, 1)

    @property
    def stamp(self) -> int:
        """Changes whenever columns are added; a key for caches."""
        return (self.folder / "meta.json").stat().st_mtime_ns

    @cached_property
    def _num_scored(self) -> np.ndarray:
        """Number of scored tokens in each row, in finished columns, int64 `[B]`."""
        scored = next(~np.isnan(values) for name, values in self.columns.items() if self.is_finished(name))
        return np.diff(np.concatenate([[0], np.cumsum(scored)])[self.row_start])

    def index_of(self, flat: Flat | Rows) -> np.ndarray:
        """Index of each of these rows among the scored ones, int64 `[B]`.

        Raises:
            UserError: a row that was not scored, or not with these tokens.
        """
        place = np.minimum(np.searchsorted(self._sorted_ids, flat.ids), len(self.ids) - 1)
        index = self._order[place]
        unknown = self.ids[index] != flat.ids
        if unknown.any():
            raise UserError(f"{self.folder}: row {flat.ids[unknown][0]} has no scores; the scores are of other data")
        changed = (self.row_hash[index] != row_hashes(flat)) & (flat.lengths > 0)
        if changed.any():
            raise UserError(
                f"{self.folder}: row {flat.ids[changed][0]} was scored with other tokens; tokenizer, template, tags and"
                " max_seq_len must be as when it was scored, and transforms that remove tokens must come later"
            )
        return index

    def fingerprint(self, *names: str) -> str:
        """sha256 over these columns: different scores train differently."""
        digest = hashlib.sha256()
        for name in names:
            digest.update(np.ascontiguousarray(self.column(name)).data)
        return digest.hexdigest()

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    @cached_property
    def _sorted_ids(self) -> np.ndarray:
        return self.ids[self._order]


def open_scores(folder: str | Path) -> Scores:
    """The scores in a folder; opened once per process.

    Raises:
        UserError: there are no scores, or scores of another version.
    """
    folder = Path(folder).expanduser()
    try:
        changed = (folder / "meta.json").stat().st_mtime_ns
    except OSError:
        raise UserError(f"{folder}: no scores here (no meta.json)") from None
    return _open(folder, changed)


@lru_cache(maxsize=8)
def _open(folder: Path, changed: int) -> Scores:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != VERSION:
            raise UserError(
                f"{folder}: scores of version {meta['version']}, this is version {VERSION}; remove them and score again"
            )
        with np.load(folder / "rows.npz") as rows:
            facts = {name: rows[name] for name in ("ids", "row_start", "row_hash")}
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["columns"]}
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{folder}: damaged scores ({error})") from error
    return Scores(folder, meta, **facts, columns=columns)
