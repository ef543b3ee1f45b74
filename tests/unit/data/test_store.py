"""Rows come back as they went in, one by one, selected and joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_rows_for_tests import assert_same_flat, assert_same_rows, make

from cot_components.data.rows.store import PER_TOKEN, SOURCE_SHIFT, Rows
from cot_components.roles import Role


@given(st.lists(st.integers(0, 19), max_size=25), st.integers(0, 3))
def test_a_batch_is_its_rows_one_after_the_other(indices, seed):
    rows, slow = make(20, seed=seed)
    assert_same_flat(rows.flat(indices), slow.flat(indices))
    assert_same_flat(rows.flat(np.array(indices, dtype=np.int64)), slow.flat(indices))


def test_types_of_a_batch():
    flat = make(3)[0].flat([1])
    wanted = {**PER_TOKEN, "tokens": np.int64, "labels": np.int64}
    assert {name: getattr(flat, name).dtype for name in wanted} == wanted
    assert flat.row_start.dtype == flat.ids.dtype == np.int64


def test_an_index_that_is_not_there():
    rows, _ = make(3)
    with pytest.raises(IndexError):
        rows.flat([3])


@given(st.lists(st.integers(0, 9), max_size=12))
def test_selected_rows_are_those_rows(indices):
    rows, slow = make(10)
    chosen = rows.select(indices)
    assert len(chosen) == len(indices)
    assert_same_flat(chosen.flat(range(len(indices))), slow.flat(indices))
    assert [getattr(chosen, name).dtype for name in PER_TOKEN] == [np.dtype(kind) for kind in PER_TOKEN.values()]


def test_rows_of_several_parts_follow_each_other():
    (first, slow), (second, _) = make(4), make(3, seed=1)
    joined = Rows.concatenate([first, Rows.of([], []), second])
    assert len(joined) == 7
    assert_same_flat(joined.flat(range(4)), slow.flat(range(4)))
    assert_same_rows(joined.select(range(4, 7)), second)
    assert_same_rows(Rows.concatenate([]), Rows.of([], []))


def test_ids_of_several_sources_differ():
    rows, _ = make(5)
    joined = Rows.join_sources([rows, rows, rows])
    assert len(set(joined.ids.tolist())) == 15
    assert joined.ids[:5].tolist() == rows.ids.tolist()
    assert joined.ids[10:].tolist() == [i + (2 << SOURCE_SHIFT) for i in rows.ids.tolist()]


def test_lengths_and_tokens_by_role():
    rows, slow = make(10)
    assert rows.lengths.tolist() == [len(row.tokens) for row in slow.rows]
    counts = {role.label: sum(int((row.roles == role).sum()) for row in slow.rows) for role in Role}
    assert rows.tokens_by_role() == {label: count for label, count in counts.items() if count}
    assert "pad" not in rows.tokens_by_role()
