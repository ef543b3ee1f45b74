"""Fill in the missing scores of a folder, batch by batch, with one process or several.

Batches are the same whatever is missing and however many processes there are, so scores do not depend on interruptions
or on how the work is divided.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from cot_components.data.rows.flat import Flat, index_in_row
from cot_components.data.rows.score_table import write_table
from cot_components.data.rows.scores import VERSION, Scores, open_scores, row_hashes, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.files import write_whole

Score = Callable[[Flat], Mapping[str, np.ndarray]]
"""A batch to columns `[N]` of scores, aligned with the tokens; only those of `scored_tokens` are read."""


class Column(NamedTuple):
    """What a column holds: the model (a path, a hash), so that no other model continues it, and the kind of score
    (`losses.measures.MEASURES`).
    """

    model: str
    measure: str = "nll"


class Processes(Protocol):
    """This process among those that share the work; `training.distributed.World` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def gather(self, value: Any) -> list[Any]:
        """The value of every process; returns once all have arrived."""
        ...

    def first_decides(self, decide: Callable[[], Any]) -> Any:
        """The result or error of the first process, on all processes."""
        ...


@dataclass(frozen=True)
class _Alone:
    rank: int = 0
    size: int = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def first_decides(self, decide: Callable[[], Any]) -> Any:
        return decide()


ONE_PROCESS: Processes = _Alone()


def score_rows(
    rows: Rows,
    score: Score,
    folder: str | Path,
    *,
    columns: Mapping[str, Column],
    tokenizer: str,
    max_tokens: int = 16_384,
    processes: Processes = ONE_PROCESS,
) -> Scores:
    """Score every supervised token of `rows` and keep the result in `folder`; finished rows are skipped.

    Args:
        rows: all rows of the data set.
        score: called with batches of similar lengths, longest first, and equally often on all processes; returns at
            least the requested columns.
        folder: new, or from an earlier call for the same rows, which is continued.
        columns: by name.
        tokenizer: fingerprint of the tokenizer.
        max_tokens: tokens per batch, padding included; a longer row is a batch of its own.
        processes: each writes its scores into the same files.

    Raises:
        UserError: the folder holds scores of other rows, another tokenizer or another model; a score is not finite.
    """
    folder = Path(folder).expanduser()
    todo = processes.first_decides(lambda: _begin(folder, rows, columns, tokenizer, max_tokens))
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in columns}
    sizes = [int((rows.row_start[batch + 1] - rows.row_start[batch]).sum()) for batch in todo]
    off = True if processes.rank else None
    with tqdm(total=sum(sizes), desc="scoring", unit=" tokens", unit_scale=True, disable=off) as bar:
        for at in range(0, len(todo), processes.size):
            together = todo[at : at + processes.size]
            mine = together[min(processes.rank, len(together) - 1)]  # the last one again if there are no more
            flat = rows.flat(mine)
            given = score(flat)
            if processes.rank < len(together):
                _write(files, given, flat, rows.row_start[mine])
            bar.update(sum(sizes[at : at + processes.size]))
    for file in files.values():
        file.flush()
    processes.gather(None)
    processes.first_decides(lambda: write_table(open_scores(folder), rows, again=bool(todo)) and None)
    return open_scores(folder)


def similar_lengths(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Indices of all rows, in batches of at most `max_tokens` tokens, padding included, longest first."""
    ordered = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(ordered):
        size = max(max_tokens // max(int(lengths[ordered[start]]), 1), 1)
        yield ordered[start : start + size]
        start += size


def data_key(rows: Rows) -> str:
    """sha256 over ids, lengths and tokens of all rows."""
    digest = hashlib.sha256()
    for values in (rows.ids, rows.row_start, row_hashes(rows)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _begin(
    folder: Path, rows: Rows, columns: Mapping[str, Column], tokenizer: str, max_tokens: int
) -> list[np.ndarray]:
    """Create the folder with all its files, and return the batches that lack a score."""
    _prepare_folder(folder, rows, columns, tokenizer)
    missing = np.zeros(len(rows.tokens), dtype=bool)
    for name in columns:
        missing |= np.isnan(np.load(folder / f"{name}.npy", mmap_mode="r"))
    counts = np.concatenate([[0], np.cumsum(missing & scored_tokens(rows))])
    lacks = counts[rows.row_start[1:]] > counts[rows.row_start[:-1]]
    return [batch for batch in similar_lengths(rows.lengths, max_tokens) if lacks[batch].any()]


def _write(files: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], flat: Flat, starts: np.ndarray) -> None:
    """Write the rows' scores at their places among all tokens."""
    here = scored_tokens(flat)
    positions = index_in_row(flat) + np.repeat(starts, flat.lengths)
    for name, file in files.items():
        values = np.asarray(given[name], dtype=np.float32)
        if values.shape != here.shape or not np.isfinite(values[here]).all():
            raise UserError(f"scores '{name}' of rows {flat.ids[:3].tolist()}... are not finite, or too few")
        file[positions[here]] = values[here]


def _prepare_folder(folder: Path, rows: Rows, columns: Mapping[str, Column], tokenizer: str) -> None:
    """Files of every column; `meta.json` names a column only once its file is there."""
    if not columns or not all(name.isidentifier() for name in columns):
        raise UserError(f"names of scores must be words, got {', '.join(columns) or 'none'}")
    meta: dict[str, Any] = {"version": VERSION, "tokenizer": tokenizer, "data": data_key(rows)}
    meta |= {"num_scored": int(scored_tokens(rows).sum()), "columns": {}}
    if (folder / "meta.json").exists():
        kept = open_scores(folder)
        _refuse_other(kept, meta, rows, columns)
        meta = dict(kept.meta)
    folder.mkdir(parents=True, exist_ok=True)
    new = [name for name in columns if name not in meta["columns"]]
    for name in new:
        np.save(folder / f"{name}.npy", np.full(len(rows.tokens), np.nan, dtype=np.float32))
    if not (folder / "meta.json").exists():
        np.savez(folder / "rows.npz", ids=rows.ids, row_start=rows.row_start, row_hash=row_hashes(rows))
    if new:
        meta["columns"] = {**meta["columns"], **{name: columns[name]._asdict() for name in new}}
        write_whole(folder / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())


def _refuse_other(kept: Scores, meta: Mapping[str, Any], rows: Rows, columns: Mapping[str, Column]) -> None:
    """Raises UserError for a folder with other scores."""
    if kept.meta["tokenizer"] != meta["tokenizer"]:
        raise UserError(f"{kept.folder} holds scores with another tokenizer; score into a new folder")
    if kept.meta["data"] != meta["data"]:
        sizes = (
            f"{len(kept.ids):,} rows of {kept.row_start[-1]:,} tokens, these are {len(rows):,} of {len(rows.tokens):,}"
        )
        raise UserError(f"{kept.folder} holds scores of other data ({sizes}); score into a new folder")
    for name, column in columns.items():
        model = kept.meta["columns"].get(name, column._asdict())["model"]
        if model != column.model:
            raise UserError(
                f"{kept.folder} holds scores '{name}' of another model ({model[:12]}, this is {column.model[:12]}); "
                "use another name for this model's columns"
            )
