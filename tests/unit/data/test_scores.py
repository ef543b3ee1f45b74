"""Score files: complete or resumable, and never shifted against the tokens they belong to."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow.parquet as pq
import pytest
from rows import random_rows

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows, similar_lengths
from cot_components.data.rows.scores import VERSION, Scores, open_scores, row_hashes, scored_tokens
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.errors import UserError
from cot_components.roles import SUPERVISED_ROLES
from cot_components.transforms.blur import Blur

COLUMNS = {"original": Column("a"), "shuffled": Column("b")}


def store(count: int = 40, *, seed: int = 0) -> Rows:
    flat = random_rows(count, seed=seed).flat(range(count))
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    return Rows(**columns, row_start=flat.row_start, ids=flat.ids)


def by_token(flat: Flat) -> dict[str, np.ndarray]:
    """Scores that say where they belong: id and place in the row."""
    place = np.arange(len(flat.tokens)) - np.repeat(flat.row_start[:-1], flat.lengths)
    base = np.repeat(flat.ids, flat.lengths) * 1000 + place
    return {"original": base.astype(np.float32), "shuffled": -base.astype(np.float32)}


def write(folder: Path, rows: Rows, score: Callable = by_token, **knobs: object) -> Scores:
    return score_rows(rows, score, folder, **{"columns": COLUMNS, "tokenizer": "t", "max_tokens": 64, **knobs})  # type: ignore[arg-type]


def test_every_supervised_token_gets_its_own_score(tmp_path: Path) -> None:
    rows = store()
    scores = write(tmp_path / "s", rows)
    for indices in ([3], [7, 1, 1], range(40)):
        flat = rows.flat(indices)
        found = scores.gather(flat, "original", "shuffled")
        wanted, scored = by_token(flat), scored_tokens(flat)
        for name, values in zip(COLUMNS, found, strict=True):
            assert (values[scored] == wanted[name][scored]).all() and np.isnan(values[~scored]).all()
    assert len(scores.finished("original")) == scored_tokens(rows).sum() > 0
    assert open_scores(tmp_path / "s") is scores  # the same file is opened once


def test_scored_tokens_are_the_supervised_ones_but_for_a_rows_first() -> None:
    rows = store()
    slow = [
        role in SUPERVISED_ROLES and i > 0
        for a, b in zip(rows.row_start, rows.row_start[1:], strict=False)
        for i, role in enumerate(rows.roles[a:b])
    ]
    assert scored_tokens(rows).tolist() == slow


def test_batches_hold_rows_of_similar_lengths_once_each() -> None:
    batches = list(similar_lengths(np.array([5, 3, 9, 7, 40]), 16))
    assert [batch.tolist() for batch in batches] == [[4], [2], [3, 0], [1]]


class Stopped(Exception):
    pass


def test_an_interrupted_scoring_goes_on_where_it_was(tmp_path: Path) -> None:
    rows, calls = store(), []

    def stops(flat: Flat) -> dict[str, np.ndarray]:
        calls.extend(flat.ids.tolist())
        if len(calls) > 15:
            raise Stopped
        return by_token(flat)

    with pytest.raises(Stopped):
        write(tmp_path, rows, stops)
    done = set(calls) - set(calls[-1:])
    with pytest.raises(UserError, match="scores 'original' are not finished; run the scoring again to continue"):
        open_scores(tmp_path).gather(rows.flat(range(40)), "original")
    with pytest.raises(UserError, match="not finished"):
        open_scores(tmp_path).finished("shuffled")
    again: list[int] = []

    def goes_on(flat: Flat) -> dict[str, np.ndarray]:
        again.extend(flat.ids.tolist())
        return by_token(flat)

    scores = write(tmp_path, rows, goes_on)
    assert 0 < len(again) < 40 and len(set(again) & done) < len(done)
    whole = write(tmp_path / "whole", rows)
    for name in COLUMNS:
        np.testing.assert_array_equal(scores.column(name), whole.column(name))
    write(tmp_path, rows, lambda flat: pytest.fail("nothing is left to do"))


def test_batches_are_the_same_whatever_is_missing_and_however_many_processes_there_are(tmp_path: Path) -> None:
    """A score that depends on what else is in its batch, as floats do in their last bits."""
    rows, size = store(), 3

    def mixed(flat: Flat) -> dict[str, np.ndarray]:
        return {name: values + flat.ids.sum() for name, values in by_token(flat).items()}

    whole = write(tmp_path / "whole", rows, mixed)
    meet, decided = Barrier(size), [None]
    with ThreadPoolExecutor(size) as pool:
        for rank in range(size):
            pool.submit(write, tmp_path / "shared", rows, mixed, processes=OneOf(rank, size, meet, decided))
    assert len(open_scores(tmp_path / "shared").finished("original")) == scored_tokens(rows).sum()
    damaged = np.load(tmp_path / "shared/original.npy", mmap_mode="r+")
    damaged[np.flatnonzero(~np.isnan(damaged))[::50]] = np.nan
    damaged.flush()
    shared = write(tmp_path / "shared", rows, mixed)
    for name in COLUMNS:
        np.testing.assert_array_equal(shared.finished(name), whole.finished(name))


@dataclass(frozen=True)
class OneOf:
    """A thread among those that share the work, in place of a process."""

    rank: int
    size: int
    meet: Barrier
    decided: list[object]

    def gather(self, value: object) -> list[object]:
        self.meet.wait(10)
        return [value] * self.size

    def first_decides(self, decide: Callable) -> object:
        if self.rank == 0:
            self.decided[:] = [decide()]
        self.meet.wait(10)
        decided = self.decided[0]
        self.meet.wait(10)
        return decided


def test_the_parquet_file_says_the_same_row_by_row(tmp_path: Path) -> None:
    rows = store()
    kinds = {"nll": "nll", "entropy": "entropy", "rank": "rank", "other_nll": "nll"}

    def score(flat: Flat) -> dict[str, np.ndarray]:
        return {name: by_token(flat)["original"] + number for number, name in enumerate(kinds)}

    scores = write(tmp_path, rows, score, columns={name: Column("m", kind) for name, kind in kinds.items()})
    table = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [line["id"] for line in table] == rows.ids.tolist()
    scored = scored_tokens(rows)
    for index, line in enumerate(table):
        here = slice(rows.row_start[index], rows.row_start[index + 1])
        given = {name: scores.column(name)[here][scored[here]] for name in kinds}
        assert line["tokens"] == rows.tokens[here].tolist() and line["length"] == len(line["tokens"])
        assert line["scored"] == scored[here].sum() and isinstance(line["rank"][-1], int | None)
        for name, values in given.items():
            assert [value for value in line[name] if value is not None] == values.tolist()
            assert [value is not None for value in line[name]] == scored[here].tolist()
        if len(given["nll"]):
            assert line["sum_logprob"] == pytest.approx(-given["nll"].sum(dtype=np.float64))
            assert line["mean_logprob"] == pytest.approx(-given["nll"].mean(dtype=np.float64))
            assert line["other_mean_logprob"] == pytest.approx(-given["other_nll"].mean(dtype=np.float64))
            assert line["mean_entropy"] == pytest.approx(given["entropy"].mean(dtype=np.float64))
        else:
            assert line["mean_logprob"] is None


def test_columns_may_come_one_after_the_other(tmp_path: Path) -> None:
    rows = store()
    write(tmp_path, rows, columns={"original": Column("a")})
    with pytest.raises(UserError, match="has no scores 'shuffled'; valid: original"):
        open_scores(tmp_path).column("shuffled")
    with pytest.raises(UserError, match="has no scores 'orginal'; did you mean 'original'"):
        open_scores(tmp_path).column("orginal")
    scores = write(tmp_path, rows, columns={"shuffled": Column("b")})
    assert {"original", "shuffled"} <= set(pq.read_schema(tmp_path / "scores.parquet").names)
    assert (scores.finished("original") == -scores.finished("shuffled")).all()


def test_other_rows_tokenizers_and_models_are_refused(tmp_path: Path) -> None:
    rows = store()
    scores = write(tmp_path, rows)
    for knobs, message in (
        ({"rows": store(seed=1)}, r"holds scores of other data \(40 rows of .*\); score into a new folder"),
        ({"rows": rows.select(range(39))}, r"holds scores of other data \(40 rows of .*, these are 39"),
        ({"tokenizer": "u"}, "holds scores with another tokenizer"),
        ({"columns": {"original": Column("z")}}, r"holds scores 'original' of another model \(a, this is z\)"),
    ):
        with pytest.raises(UserError, match=message):
            write(tmp_path, **{"rows": rows, **knobs})
    flat = rows.flat([2, 5])
    changed = replace(flat, tokens=np.where(np.arange(len(flat.tokens)) == len(flat.tokens) - 1, 99, flat.tokens))
    with pytest.raises(UserError, match=f"row {flat.ids[1]} was scored with other tokens; tokenizer, template"):
        scores.gather(changed, "original")
    for unknown in (-7, 1, 10**6):
        with pytest.raises(UserError, match=f"row {unknown} has no scores"):
            scores.gather(replace(flat, ids=np.array([flat.ids[0], unknown])), "original")


def test_hashes_see_order_and_length() -> None:
    def hash_of(*tokens: int) -> int:
        return int(row_hashes(replace(random_rows(1).flat([0]), **columns(tokens)))[0])

    def columns(tokens: tuple[int, ...]) -> dict[str, np.ndarray]:
        n = len(tokens)
        zeros = {name: np.zeros(n, dtype=kind) for name, kind in PER_TOKEN.items()}
        return {**zeros, "tokens": np.array(tokens), "labels": np.zeros(n), "row_start": np.array([0, n])}

    hashes = [hash_of(1, 2, 3), hash_of(2, 1, 3), hash_of(1, 2), hash_of(1, 2, 3, 0), hash_of(0, 1, 2, 3)]
    assert len(set(hashes)) == len(hashes)
    rows = store()
    assert (row_hashes(rows) == np.concatenate([row_hashes(rows.flat([i])) for i in range(len(rows))])).all()


def test_labels_that_a_transform_took_away_keep_their_scores(tmp_path: Path) -> None:
    rows = store()
    scores = write(tmp_path, rows)
    flat = rows.flat(range(40))
    blurred = Blur(ratio=1.0)(flat, Clock(0, 0))
    assert (blurred.labels != flat.labels).any()
    np.testing.assert_array_equal(scores.gather(blurred, "original")[0], scores.gather(flat, "original")[0])


def test_bad_scores_and_damaged_folders(tmp_path: Path) -> None:
    rows = store()
    with pytest.raises(UserError, match=r"scores 'original' of rows .* are not finite, or too few"):
        write(tmp_path / "a", rows, lambda flat: {**by_token(flat), "original": np.full(len(flat.tokens), np.inf)})
    with pytest.raises(UserError, match="not finite, or too few"):
        write(tmp_path / "b", rows, lambda flat: {**by_token(flat), "shuffled": np.zeros(3)})
    for columns in ({}, {"../up": Column("a")}):
        with pytest.raises(UserError, match="names of scores must be words"):
            write(tmp_path / "c", rows, columns=columns)
    with pytest.raises(UserError, match="no scores here"):
        open_scores(tmp_path / "nowhere")
    write(tmp_path / "d", rows)
    (tmp_path / "d/original.npy").unlink()
    (tmp_path / "d/meta.json").write_text(json.dumps(json.loads((tmp_path / "d/meta.json").read_text())))
    with pytest.raises(UserError, match="damaged scores"):
        open_scores(tmp_path / "d")
    meta = json.loads((tmp_path / "a/meta.json").read_text()) | {"version": VERSION - 1}
    (tmp_path / "a/meta.json").write_text(json.dumps(meta))
    for old in (lambda: open_scores(tmp_path / "a"), lambda: write(tmp_path / "a", rows)):
        with pytest.raises(UserError, match=f"scores of version {VERSION - 1}, .*; remove them and score again"):
            old()


def test_transforms_carry_a_path_and_not_the_scores(tmp_path: Path) -> None:
    from cot_components.transforms import Highlight

    rows = store()
    write(tmp_path, rows)
    highlight = Highlight(scores=str(tmp_path))
    highlight(rows.flat([0]), Clock(0, 0))
    assert len(pickle.dumps(highlight)) < 500
