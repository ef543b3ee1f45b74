"""Batches: the shift happens once per row, every column describes the target token, and padding never counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rows import make_flat, random_rows, trace_roles

from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches, pack, pad
from cot_components.data.rows.plans import Plans
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.transforms import Blur

COLUMNS = ("tokens", "labels", "weights", "roles")


@pytest.fixture
def flat():
    return Blur(ratio=0.5)(random_rows(9).flat(range(9)), Clock(0, 0))


def slow_pad(flat, pad_id):
    """The obvious way, row by row."""
    width, rows = max(flat.lengths), []
    for first, last in zip(flat.row_start[:-1], flat.row_start[1:], strict=True):
        rest = int(width - (last - first))
        filled = ((flat.labels, IGNORE), (flat.weights, 0.0), (flat.roles, Role.PAD))
        shifted = [[*column[first + 1 : last], *[filler] * (rest + 1)] for column, filler in filled]
        rows.append([[*flat.tokens[first:last], *[pad_id] * rest], *shifted])
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_pad_equals_the_obvious_way(flat):
    batch = pad(flat, pad_id=99)
    for name, column in zip(COLUMNS, slow_pad(flat, 99), strict=True):
        assert np.array_equal(getattr(batch, name).numpy(), column.astype(getattr(batch, name).numpy().dtype)), name
    assert torch.equal(batch.rows, (batch.labels.flatten() != IGNORE).nonzero().squeeze(1))
    assert batch.num_supervised == len(batch.rows) == batch.weight_sum
    assert batch.num_tokens == len(flat.tokens)
    blurred = batch.roles.flatten()[batch.blurred_rows]
    assert len(blurred) > 0 and (blurred == Role.THOUGHT).all()


def test_a_packed_batch_is_the_padded_one_without_its_padding(flat):
    size = len(flat.tokens)
    padded, packed = pad(flat, pad_id=99), pack(flat, pad_id=99, num_tokens=size + 7)
    real = (torch.arange(padded.tokens.shape[1]) < torch.from_numpy(flat.lengths)[:, None]).flatten()
    for name in COLUMNS:
        ours, theirs = getattr(packed, name), getattr(padded, name)
        assert ours.shape == (1, size + 7) and torch.equal(ours[0, :size], theirs.flatten()[real])
    rest = [column[0, size:].tolist() for column in (packed.tokens, packed.roles, packed.labels, packed.sample)]
    assert rest == [[filler] * 7 for filler in (99, Role.PAD, IGNORE, 9)]
    assert packed.documents == (*flat.lengths.tolist(), 7)
    for name in ("ids", "num_supervised", "weight_sum", "num_tokens"):
        assert getattr(packed, name) == getattr(padded, name)
    for name in ("rows", "blurred_rows"):
        ours, theirs = (b.sample.flatten()[getattr(b, name)] for b in (packed, padded))
        assert torch.equal(ours, theirs) and len(ours) > 0
    for batch in (packed, padded):  # the shift stays inside a row
        assert torch.equal(batch.next_tokens.flatten()[batch.rows], batch.labels.flatten()[batch.rows])
    counted = np.concatenate([np.arange(length) for length in flat.lengths])
    assert packed.input_pos[0].tolist() == [*counted, *[0] * 7]


def test_the_last_token_of_a_row_predicts_nothing():
    batch = pad(make_flat([trace_roles(1, 3, 1), trace_roles(1, 1, 1)]), pad_id=0)
    assert (batch.labels[0, -1], batch.labels[1, 4]) == (IGNORE, IGNORE)


def test_positions_travel_with_their_tokens(flat):
    assert pad(flat, pad_id=0).input_pos is None
    batch = pad(replace(flat, positions=np.arange(len(flat.tokens)) * 2), pad_id=0)
    kept = torch.cat([row[:length] for row, length in zip(batch.input_pos, flat.lengths.tolist(), strict=True)])
    assert kept.tolist() == list(range(0, 2 * len(flat.tokens), 2)) and batch.input_pos.shape == batch.tokens.shape


def test_weight_zero_is_not_supervised():
    flat = make_flat([trace_roles(1, 3, 2)])
    batch = pad(flat.with_weights(np.where(np.arange(len(flat.tokens)) == 3, 0, flat.weights)), pad_id=0)
    assert batch.num_supervised == 6 and 2 not in batch.rows.tolist()
    assert batch.blurred_rows.tolist() == [2], "what does not count is measured beside what does"


def test_a_batch_without_rows_can_be_run():
    empty = make_flat([])
    for batch, width in ((pad(empty, pad_id=5, multiple=4), 4), (pack(empty, pad_id=5, num_tokens=8), 8)):
        assert batch.tokens.tolist() == [[5] * width]
        assert batch.num_supervised == batch.rows.numel() == 0 and batch.ids == []
    assert batch.documents == (8,) == pack(make_flat([trace_roles(1, 3, 2)]), pad_id=5, num_tokens=8).documents


def test_padding_to_a_multiple_changes_nothing_else(flat):
    narrow, wide = pad(flat, pad_id=0), pad(flat, pad_id=0, multiple=64)
    size = narrow.tokens.shape[1]
    assert wide.tokens.shape[1] == 64
    assert torch.equal(wide.labels[:, :size], narrow.labels) and (wide.labels[:, size:] == IGNORE).all()


def test_masks_are_redrawn_in_packed_batches():
    rows, drawn = random_rows(30), [{}, {}]
    plans = Plans(np.array([len(row.tokens) for row in rows.rows]), batch_size=1, packed_tokens=128, epochs=2)
    batches = Batches(rows, {"blur": Blur(ratio=0.5)}, 0, packed_tokens=128)
    for plan in plans:
        for batch in batches[plan].micro_batches:
            for number, row in enumerate(batch.ids):
                drawn[plan.clock.epoch][row] = batch.labels[0][batch.sample[0] == number].tolist()
    assert len(drawn[0]) == len(drawn[1]) == 30
    assert sum(drawn[0][row] != drawn[1][row] for row in drawn[0]) > 20


def test_roles_that_count():
    assert (make_flat([list(Role)]).labels != IGNORE).sum() == len(SUPERVISED_ROLES)
