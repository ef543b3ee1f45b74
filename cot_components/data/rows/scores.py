"""Numbers that models gave to the tokens of a data set, kept in a folder and tied to exactly these rows.

    meta.json       tokenizer, data, number of scored tokens, and for each column the model it comes from
    rows.npz        ids, row_start, row_hash [B]
    <column>.npy    float32 [N], NaN where nothing is scored, or not yet

A row is found by its id and must have the tokens it was scored with: another tokenizer, template or text is an error,
never a silent shift. Writing may be interrupted at any time; the next call scores what is still missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cot_components.clock import draw_bits
from cot_components.data.rows.flat import Flat, Ragged, index_in_row, is_supervised
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError

VERSION = 1
Score = Callable[[Flat], Mapping[str, np.ndarray]]
"""A batch to columns `[N]`: what each token was given, aligned with the tokens; only `scored_tokens` are read."""


def scored_tokens(rows: Ragged) -> np.ndarray:
    """Which tokens have a score, bool `[N]`: those of a supervised role, but for a row's first, which nothing predicts.

    Whether a transform took a label away makes no difference.
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
        """A column as it is on disk. Raises UserError where there is none of that name."""
        if name not in self.columns:
            raise UserError(f"{self.folder} has no scores '{name}'; it has: {', '.join(self.columns) or 'none'}")
        return self.columns[name]

    def finished(self, name: str) -> np.ndarray:
        """All scores of a column, float32 `[num_scored]`. Raises UserError while some are missing."""
        values = self.column(name)
        values = values[~np.isnan(values)]
        if len(values) < self.meta["num_scored"]:
            raise UserError(f"{self.folder}: scores '{name}' are not finished; run the scoring again to go on")
        return values

    def gather(self, flat: Flat, *names: str) -> list[np.ndarray]:
        """Columns for the tokens of a batch, float32 `[N]` each, NaN at tokens that have no score.

        Raises:
            UserError: a row that was not scored, or not with these tokens; a score that is still missing.
        """
        index = self._find(flat)
        lengths = flat.lengths
        position = np.arange(len(flat.tokens)) + np.repeat(self.row_start[index] - flat.row_start[:-1], lengths)
        found = [np.asarray(self.column(name)[position]) for name in names]
        scored = scored_tokens(flat)
        for name, values in zip(names, found, strict=True):
            if np.isnan(values[scored]).any():
                raise UserError(f"{self.folder}: scores '{name}' are not finished; run the scoring again to go on")
            values[~scored] = np.nan
        return found

    def _find(self, flat: Flat) -> np.ndarray:
        """Index of each row of a batch, int64 `[B]`."""
        place = np.minimum(np.searchsorted(self._sorted_ids, flat.ids), len(self.ids) - 1)
        index = self._order[place]
        unknown = self.ids[index] != flat.ids
        if unknown.any():
            raise UserError(f"{self.folder}: row {flat.ids[unknown][0]} has no scores; other data were scored")
        changed = (self.row_hash[index] != row_hashes(flat)) & (flat.lengths > 0)
        if changed.any():
            raise UserError(
                f"{self.folder}: row {flat.ids[changed][0]} was scored with other tokens; tokenizer, template, tags and"
                " max_seq_len must be those of the scoring, and transforms that remove tokens come later"
            )
        return index

    def fingerprint(self, *names: str) -> str:
        """sha256 over these columns: other scores, other training."""
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
    """The scores in a folder; opened once per process, however often they are asked for.

    Raises:
        UserError: there are none, or those of another version.
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
            raise UserError(f"{folder}: scores of version {meta['version']}, this is version {VERSION}; score again")
        with np.load(folder / "rows.npz") as rows:
            facts = {name: rows[name] for name in ("ids", "row_start", "row_hash")}
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["columns"]}
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{folder}: damaged scores ({error})") from error
    return Scores(folder, meta, **facts, columns=columns)


def score_rows(
    rows: Rows,
    score: Score,
    folder: str | Path,
    *,
    columns: Mapping[str, str],
    tokenizer: str,
    max_tokens: int = 16_384,
) -> Scores:
    """Score every supervised token of `rows` and keep the result in `folder`; what is there already is not done again.

    Args:
        rows: all rows of the data set.
        score: called with batches of similar lengths, longest first; returns at least the columns asked for.
        folder: new, or that of an earlier call for the same rows, which it goes on with.
        columns: name of a column -> the model it comes from (a path, a hash), so that none is finished by another.
        tokenizer: fingerprint of the tokenizer.
        max_tokens: tokens per batch, padding included; a longer row is a batch of its own.

    Raises:
        UserError: the folder holds scores of other rows, another tokenizer or another model; a score is not finite.
    """
    folder = Path(folder).expanduser()
    _prepare_folder(folder, rows, columns, tokenizer)
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in columns}
    scored = scored_tokens(rows)
    missing = np.zeros(len(scored), dtype=bool)
    for values in files.values():
        missing |= np.isnan(values)
    counts = np.concatenate([[0], np.cumsum(missing & scored)])
    todo = np.flatnonzero(counts[rows.row_start[1:]] > counts[rows.row_start[:-1]])
    with tqdm(
        total=int(rows.lengths[todo].sum()), desc="scoring", unit=" tokens", unit_scale=True, disable=None
    ) as bar:
        for indices in similar_lengths(rows.lengths, todo, max_tokens):
            flat = rows.flat(indices)
            given = score(flat)
            here, at = scored_tokens(flat), _positions(rows, indices)
            for name, file in files.items():
                values = np.asarray(given[name], dtype=np.float32)
                if values.shape != here.shape or not np.isfinite(values[here]).all():
                    raise UserError(f"scores '{name}' of rows {flat.ids[:3].tolist()}... are not finite, or too few")
                file[at[here]] = values[here]
            bar.update(len(flat.tokens))
    for file in files.values():
        file.flush()
    return open_scores(folder)


def similar_lengths(lengths: np.ndarray, indices: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Rows in batches of at most `max_tokens` tokens, padding included, longest first."""
    ordered = indices[np.argsort(-lengths[indices], kind="stable")]
    start = 0
    while start < len(ordered):
        size = max(max_tokens // max(int(lengths[ordered[start]]), 1), 1)
        yield ordered[start : start + size]
        start += size


def _positions(rows: Rows, indices: np.ndarray) -> np.ndarray:
    """Where the tokens of these rows stand among all, int64."""
    lengths = rows.lengths[indices]
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.arange(lengths.sum()) + np.repeat(rows.row_start[indices] - before, lengths)


def data_key(rows: Rows) -> str:
    """sha256 over ids, lengths and tokens of all rows."""
    digest = hashlib.sha256()
    for values in (rows.ids, rows.row_start, row_hashes(rows)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _prepare_folder(folder: Path, rows: Rows, columns: Mapping[str, str], tokenizer: str) -> None:
    """Files of every column; `meta.json` names a column only once its file is there."""
    if not columns or not all(name.isidentifier() for name in columns):
        raise UserError(f"names of scores must be words, got {', '.join(columns) or 'none'}")
    meta: dict[str, Any] = {"version": VERSION, "tokenizer": tokenizer, "data": data_key(rows)}
    meta |= {"num_scored": int(scored_tokens(rows).sum()), "columns": {}}
    if (folder / "meta.json").exists():
        kept = dict(open_scores(folder).meta)
        for what in ("tokenizer", "data"):
            if kept[what] != meta[what]:
                raise UserError(f"{folder} holds scores of another {what}; score into a new folder")
        for name, model in columns.items():
            if kept["columns"].get(name, model) != model:
                raise UserError(f"{folder} holds scores '{name}' of {kept['columns'][name]}, not of {model}")
        meta = kept
    folder.mkdir(parents=True, exist_ok=True)
    new = [name for name in columns if name not in meta["columns"]]
    for name in new:
        np.save(folder / f"{name}.npy", np.full(len(rows.tokens), np.nan, dtype=np.float32))
    if not (folder / "meta.json").exists():
        np.savez(folder / "rows.npz", ids=rows.ids, row_start=rows.row_start, row_hash=row_hashes(rows))
    if new:
        meta["columns"] = {**meta["columns"], **{name: columns[name] for name in new}}
        unfinished = folder / "meta.json.new"
        unfinished.write_text(json.dumps(meta, indent=1) + "\n")
        os.replace(unfinished, folder / "meta.json")
