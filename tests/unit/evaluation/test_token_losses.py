"""Losses of tokens laid over the rows as encoded, and which rows are few enough to be kept."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rows import byte_flat, decode_bytes, make_flat, trace, trace_roles, without

from cot_components.evaluation.token_losses import LONG_ROW, MAX_ROWS, MAX_TOKENS, PieceLoss, rows_to_show, token_losses


@given(st.lists(st.integers(1, 3 * MAX_TOKENS), max_size=30))
def test_few_rows_of_few_tokens_are_chosen(lengths):
    chosen = rows_to_show(lengths)
    assert len(chosen) == len(set(chosen)) <= MAX_ROWS and bool(chosen) == bool(lengths)
    assert len(chosen) <= 1 or sum(lengths[i] for i in chosen) <= MAX_TOKENS
    assert not lengths or lengths[chosen[0]] <= max(LONG_ROW, min(lengths))


def test_rows_that_are_not_long_come_in_their_order():
    assert rows_to_show([9, LONG_ROW + 1, 3, 4]) == [0, 2, 3, 1]
    assert rows_to_show([10] * 20) == list(range(MAX_ROWS)) and rows_to_show([LONG_ROW] * 9) == [0, 1, 2, 3]


def test_a_character_of_several_tokens_is_one_piece_with_their_sum():
    flat = byte_flat([trace("Q", "\u00e9x", "4")])
    losses = np.arange(len(flat.tokens), dtype=float)
    (row,) = token_losses(flat, flat, losses, decode_bytes)
    at = decode_bytes(flat.tokens).index("\u00e9")
    inside = [piece for piece in row.pieces if piece.role == "thought"]
    assert inside[:2] == [PieceLoss("\u00e9", "thought", at + at + 1), PieceLoss("x", "thought", at + 2)]
    assert row.pieces[0].loss is None and sum(piece.role == "prompt" for piece in row.pieces) == 1


def test_removed_tokens_keep_their_places_without_a_loss():
    flat = byte_flat([trace("Q", "abcd", "4")])
    gone = (flat.counters == 1) | (flat.counters == 2)
    seen = without(flat, gone)
    (row,) = token_losses(flat, seen, np.ones(len(seen.tokens)), decode_bytes)
    assert [piece.loss for piece in row.pieces if piece.role == "thought"][:4] == [1.0, None, None, 1.0]


def test_a_row_that_is_no_part_of_the_encoded_one_is_left_out():
    flat, other = make_flat([trace_roles(1, 2, 1)] * 2), make_flat([trace_roles(1, 2, 1)] * 2)
    other.tokens[-1] = 99
    assert [row.row_id for row in token_losses(flat, other, np.ones(len(other.tokens)), decode_bytes)] == [0]
