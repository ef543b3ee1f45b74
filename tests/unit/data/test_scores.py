"""Score files: complete or resumable, and never shifted against the tokens they belong to."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from rows import make_flat
from stored_rows_for_tests import make

from cot_components.clock import Clock
from cot_components.data.rows.scores import open_scores, row_hashes, score_rows, scored_tokens, similar_lengths
from cot_components.errors import UserError
from cot_components.roles import SUPERVISED_ROLES, Role
from cot_components.transforms import Blur, Highlight

COLUMNS = {"original": "a", "shuffled": "b"}
ROWS = make(40)[0]
ALL = ROWS.flat(range(40))


def by_token(flat):
    """Scores that say where they belong: id and place in the row."""
    place = np.arange(len(flat.tokens)) - np.repeat(flat.row_start[:-1], flat.lengths)
    base = np.repeat(flat.ids, flat.lengths) * 1000 + place
    return {"original": base.astype(np.float32), "shuffled": -base.astype(np.float32)}


def write(folder, rows=ROWS, score=by_token, **knobs):
    return score_rows(rows, score, folder, **{"columns": COLUMNS, "tokenizer": "t", "max_tokens": 64, **knobs})


def test_every_supervised_token_gets_its_own_score(tmp_path):
    scores = write(tmp_path / "s")
    for indices in ([3], [7, 1, 1], range(40)):
        flat = ROWS.flat(indices)
        wanted, scored = by_token(flat), scored_tokens(flat)
        for name, values in zip(COLUMNS, scores.gather(flat, *COLUMNS), strict=True):
            assert (values[scored] == wanted[name][scored]).all() and np.isnan(values[~scored]).all()
    assert len(scores.finished("original")) == scored_tokens(ROWS).sum() > 0
    assert open_scores(tmp_path / "s") is scores  # the same file is opened once
    blurred = Blur(ratio=1.0)(ALL, Clock(0, 0))
    assert (blurred.labels != ALL.labels).any(), "labels that a transform took away keep their scores"
    np.testing.assert_array_equal(scores.gather(blurred, "original"), scores.gather(ALL, "original"))


def test_scored_tokens_are_the_supervised_ones_but_for_a_rows_first():
    bounds = zip(ROWS.row_start, ROWS.row_start[1:], strict=False)
    slow = [role in SUPERVISED_ROLES and i > 0 for a, b in bounds for i, role in enumerate(ROWS.roles[a:b])]
    assert scored_tokens(ROWS).tolist() == slow


def test_batches_hold_rows_of_similar_lengths_once_each():
    lengths, indices = np.array([5, 3, 9, 1, 7, 40]), np.array([0, 1, 2, 4, 5])
    assert [batch.tolist() for batch in similar_lengths(lengths, indices, 16)] == [[5], [2], [4, 0], [1]]


def test_an_interrupted_scoring_goes_on_where_it_was(tmp_path):
    calls, again = [], []

    def stops(flat):
        calls.extend(flat.ids.tolist())
        if len(calls) > 15:
            raise InterruptedError
        return by_token(flat)

    def goes_on(flat):
        again.extend(flat.ids.tolist())
        return by_token(flat)

    with pytest.raises(InterruptedError):
        write(tmp_path, score=stops)
    for look in (lambda scores: scores.gather(ALL, "original"), lambda scores: scores.finished("shuffled")):
        with pytest.raises(UserError, match="are not finished; run the scoring again to go on"):
            look(open_scores(tmp_path))
    scores, whole, done = write(tmp_path, score=goes_on), write(tmp_path / "whole"), set(calls[:-1])
    assert 0 < len(again) < 40 and len(set(again) & done) < len(done)
    for name in COLUMNS:
        np.testing.assert_array_equal(scores.column(name), whole.column(name))
    write(tmp_path, score=lambda flat: pytest.fail("nothing is left to do"))


def test_columns_may_come_one_after_the_other(tmp_path):
    write(tmp_path, columns={"original": "a"})
    with pytest.raises(UserError, match="has no scores 'shuffled'; it has: original"):
        open_scores(tmp_path).column("shuffled")
    scores = write(tmp_path, columns={"shuffled": "b"})
    assert (scores.finished("original") == -scores.finished("shuffled")).all()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rows": make(40, seed=1)[0]}, "holds scores of another data"),
        ({"rows": ROWS.select(range(39))}, "holds scores of another data"),
        ({"tokenizer": "u"}, "holds scores of another tokenizer"),
        ({"columns": {"original": "z"}}, "holds scores 'original' of a, not of z"),
    ],
)
def test_other_rows_tokenizers_and_models_are_refused(knobs, message, tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        write(tmp_path, **knobs)


def test_tokens_that_were_not_scored_have_no_scores(tmp_path):
    scores, flat = write(tmp_path), ROWS.flat([2, 5])
    tokens = np.append(flat.tokens[:-1], 99)
    with pytest.raises(UserError, match=f"row {flat.ids[1]} was scored with other tokens"):
        scores.gather(replace(flat, tokens=tokens), "original")
    for unknown in (-7, 1, 10**6):
        with pytest.raises(UserError, match=f"row {unknown} has no scores"):
            scores.gather(replace(flat, ids=np.array([flat.ids[0], unknown])), "original")


def test_hashes_see_order_and_length():
    def hash_of(*tokens):
        flat = make_flat([[Role.PROMPT] * len(tokens)])
        return int(row_hashes(replace(flat, tokens=np.array(tokens)))[0])

    hashes = [hash_of(1, 2, 3), hash_of(2, 1, 3), hash_of(1, 2), hash_of(1, 2, 3, 0), hash_of(0, 1, 2, 3)]
    assert len(set(hashes)) == len(hashes)
    assert row_hashes(ROWS).tolist() == [int(row_hashes(ROWS.flat([i]))[0]) for i in range(len(ROWS))]


@pytest.mark.parametrize(("name", "values"), [("original", np.inf), ("shuffled", 0)])
def test_bad_scores_are_refused(name, values, tmp_path):
    def bad(flat):
        return {**by_token(flat), name: np.full(len(flat.tokens) if values else 3, values)}

    with pytest.raises(UserError, match=f"scores '{name}' of rows .* are not finite, or too few"):
        write(tmp_path, score=bad)


def test_bad_names_and_damaged_folders(tmp_path):
    for columns in ({}, {"../up": "a"}):
        with pytest.raises(UserError, match="names of scores must be words"):
            write(tmp_path / "c", columns=columns)
    with pytest.raises(UserError, match="no scores here"):
        open_scores(tmp_path / "nowhere")
    for name in ("damaged", "old"):
        write(tmp_path / name)
        meta = json.loads((tmp_path / name / "meta.json").read_text())
        (tmp_path / name / "meta.json").write_text(json.dumps(meta | ({"version": 0} if name == "old" else {})))
    (tmp_path / "damaged/original.npy").unlink()
    for name, message in (("damaged", "damaged scores"), ("old", "scores of version 0")):
        with pytest.raises(UserError, match=message):
            open_scores(tmp_path / name)


def test_transforms_carry_a_path_and_not_the_scores(tmp_path):
    write(tmp_path)
    highlight = Highlight(scores=str(tmp_path))
    highlight(ROWS.flat([0]), Clock(0, 0))
    assert len(pickle.dumps(highlight)) < 500
