"""Score files: complete or resumable, and never shifted against the tokens they belong to."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rows import random_rows

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.scores import Scores, open_scores, row_hashes, score_rows, scored_tokens, similar_lengths
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.errors import UserError
from cot_components.roles import SUPERVISED_ROLES
from cot_components.transforms.blur import Blur

COLUMNS = {"original": "a", "shuffled": "b"}


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


def test_every_supervised_token_gets_its_own_score(tmp_path):
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


def test_scored_tokens_are_the_supervised_ones_but_for_a_rows_first():
    rows = store()
    slow = [
        role in SUPERVISED_ROLES and i > 0
        for a, b in zip(rows.row_start, rows.row_start[1:], strict=False)
        for i, role in enumerate(rows.roles[a:b])
    ]
    assert scored_tokens(rows).tolist() == slow


def test_batches_hold_rows_of_similar_lengths_once_each():
    lengths, indices = np.array([5, 3, 9, 1, 7, 40]), np.array([0, 1, 2, 4, 5])
    batches = list(similar_lengths(lengths, indices, 16))
    assert [batch.tolist() for batch in batches] == [[5], [2], [4, 0], [1]]


class Stopped(Exception):
    pass


def test_an_interrupted_scoring_goes_on_where_it_was(tmp_path):
    rows, calls = store(), []

    def stops(flat):
        calls.extend(flat.ids.tolist())
        if len(calls) > 15:
            raise Stopped
        return by_token(flat)

    with pytest.raises(Stopped):
        write(tmp_path, rows, stops)
    done = set(calls) - set(calls[-1:])
    with pytest.raises(UserError, match="scores 'original' are not finished; run the scoring again to go on"):
        open_scores(tmp_path).gather(rows.flat(range(40)), "original")
    with pytest.raises(UserError, match="not finished"):
        open_scores(tmp_path).finished("shuffled")
    again = []

    def goes_on(flat):
        again.extend(flat.ids.tolist())
        return by_token(flat)

    scores = write(tmp_path, rows, goes_on)
    assert 0 < len(again) < 40 and len(set(again) & done) < len(done)
    whole = write(tmp_path / "whole", rows)
    for name in COLUMNS:
        np.testing.assert_array_equal(scores.column(name), whole.column(name))
    write(tmp_path, rows, lambda flat: pytest.fail("nothing is left to do"))


def test_columns_may_come_one_after_the_other(tmp_path):
    rows = store()
    write(tmp_path, rows, columns={"original": "a"})
    with pytest.raises(UserError, match="has no scores 'shuffled'; it has: original"):
        open_scores(tmp_path).column("shuffled")
    scores = write(tmp_path, rows, columns={"shuffled": "b"})
    assert (scores.finished("original") == -scores.finished("shuffled")).all()


def test_other_rows_tokenizers_and_models_are_refused(tmp_path):
    rows = store()
    scores = write(tmp_path, rows)
    for knobs, message in (
        ({"rows": store(seed=1)}, "holds scores of another data; score into a new folder"),
        ({"rows": rows.select(range(39))}, "holds scores of another data"),
        ({"tokenizer": "u"}, "holds scores of another tokenizer"),
        ({"columns": {"original": "z"}}, "holds scores 'original' of a, not of z"),
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


def test_hashes_see_order_and_length():
    def hash_of(*tokens):
        return int(row_hashes(replace(random_rows(1).flat([0]), **columns(tokens)))[0])

    def columns(tokens):
        n = len(tokens)
        zeros = {name: np.zeros(n, dtype=kind) for name, kind in PER_TOKEN.items()}
        return {**zeros, "tokens": np.array(tokens), "labels": np.zeros(n), "row_start": np.array([0, n])}

    hashes = [hash_of(1, 2, 3), hash_of(2, 1, 3), hash_of(1, 2), hash_of(1, 2, 3, 0), hash_of(0, 1, 2, 3)]
    assert len(set(hashes)) == len(hashes)
    rows = store()
    assert (row_hashes(rows) == np.concatenate([row_hashes(rows.flat([i])) for i in range(len(rows))])).all()


def test_labels_that_a_transform_took_away_keep_their_scores(tmp_path):
    rows = store()
    scores = write(tmp_path, rows)
    flat = rows.flat(range(40))
    blurred = Blur(ratio=1.0)(flat, Clock(0, 0))
    assert (blurred.labels != flat.labels).any()
    np.testing.assert_array_equal(scores.gather(blurred, "original")[0], scores.gather(flat, "original")[0])


def test_bad_scores_and_damaged_folders(tmp_path):
    rows = store()
    with pytest.raises(UserError, match=r"scores 'original' of rows .* are not finite, or too few"):
        write(tmp_path / "a", rows, lambda flat: {**by_token(flat), "original": np.full(len(flat.tokens), np.inf)})
    with pytest.raises(UserError, match="not finite, or too few"):
        write(tmp_path / "b", rows, lambda flat: {**by_token(flat), "shuffled": np.zeros(3)})
    for columns in ({}, {"../up": "a"}):
        with pytest.raises(UserError, match="names of scores must be words"):
            write(tmp_path / "c", rows, columns=columns)
    with pytest.raises(UserError, match="no scores here"):
        open_scores(tmp_path / "nowhere")
    write(tmp_path / "d", rows)
    (tmp_path / "d/original.npy").unlink()
    (tmp_path / "d/meta.json").write_text(json.dumps(json.loads((tmp_path / "d/meta.json").read_text())))
    with pytest.raises(UserError, match="damaged scores"):
        open_scores(tmp_path / "d")
    meta = json.loads((tmp_path / "a/meta.json").read_text()) | {"version": 0}
    (tmp_path / "a/meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="scores of version 0"):
        open_scores(tmp_path / "a")


def test_transforms_carry_a_path_and_not_the_scores(tmp_path):
    from cot_components.transforms import Highlight

    rows = store()
    write(tmp_path, rows)
    highlight = Highlight(scores=str(tmp_path))
    highlight(rows.flat([0]), Clock(0, 0))
    assert len(pickle.dumps(highlight)) < 500
