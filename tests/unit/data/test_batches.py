"""Batches: the shift happens once per row, every column describes the target token, and padding never counts."""

from dataclasses import replace

import numpy as np
import torch
from rows import make_flat, random_rows, trace_roles
from torch.utils.data import DataLoader

from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches, pad
from cot_components.data.rows.plans import Plans
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.transforms import Blur


def slow_pad(flat, pad_id):
    """The obvious way, row by row."""
    width = max(flat.lengths)
    rows = []
    for first, last in zip(flat.row_start[:-1], flat.row_start[1:], strict=True):
        rest = width - (last - first)
        rows.append(
            (
                [*flat.tokens[first:last], *[pad_id] * rest],
                [*flat.labels[first + 1 : last], *[IGNORE] * (rest + 1)],
                [*flat.weights[first + 1 : last], *[0.0] * (rest + 1)],
                [*flat.roles[first + 1 : last], *[Role.PAD] * (rest + 1)],
            )
        )
    return [torch.tensor(np.array(column)) for column in zip(*rows, strict=True)]


def test_pad_equals_the_obvious_way():
    flat = Blur(ratio=0.5)(random_rows(9).flat(range(9)), Clock(0, 0))
    batch, (tokens, labels, weights, roles) = pad(flat, pad_id=99), slow_pad(flat, 99)
    assert torch.equal(batch.tokens, tokens) and torch.equal(batch.labels, labels)
    assert torch.equal(batch.weights, weights.float()) and torch.equal(batch.roles, roles.long())
    assert torch.equal(batch.rows, (labels.flatten() != IGNORE).nonzero().squeeze(1))
    assert batch.num_supervised == len(batch.rows) == batch.weight_sum
    assert batch.num_tokens == len(flat.tokens)
    blurred = batch.roles.flatten()[batch.blurred_rows]
    assert len(blurred) > 0 and (blurred == Role.THOUGHT).all()
    assert torch.equal(batch.next_tokens.flatten()[batch.rows], batch.labels.flatten()[batch.rows])


def test_the_last_token_of_a_row_predicts_nothing():
    batch = pad(make_flat([trace_roles(1, 3, 1), trace_roles(1, 1, 1)]), pad_id=0)
    assert (batch.labels[0, -1], batch.labels[1, 4]) == (IGNORE, IGNORE)


def test_positions_travel_with_their_tokens():
    flat = random_rows(3).flat(range(3))
    assert pad(flat, pad_id=0).input_pos is None
    positions = np.arange(len(flat.tokens)) * 2
    batch = pad(replace(flat, positions=positions), pad_id=0)
    kept = torch.cat([row[:length] for row, length in zip(batch.input_pos, flat.lengths.tolist(), strict=True)])
    assert kept.tolist() == positions.tolist() and batch.input_pos.shape == batch.tokens.shape


def test_weight_zero_is_not_supervised():
    flat = make_flat([trace_roles(1, 3, 2)])
    weights = flat.weights.copy()
    weights[3] = 0.0
    batch = pad(flat.with_weights(weights), pad_id=0)
    assert batch.num_supervised == 6 and 2 not in batch.rows.tolist()
    assert batch.blurred_rows.tolist() == [2], "what does not count is measured beside what does"


def test_a_batch_without_rows_can_be_run():
    batch = pad(make_flat([]), pad_id=5, multiple=4)
    assert batch.tokens.tolist() == [[5, 5, 5, 5]]
    assert batch.num_supervised == 0 and batch.rows.numel() == 0 and batch.ids == []


def test_padding_to_a_multiple_changes_nothing_else():
    flat = random_rows(3).flat(range(3))
    narrow, wide = pad(flat, pad_id=0), pad(flat, pad_id=0, multiple=64)
    assert wide.tokens.shape[1] == 64
    size = narrow.tokens.shape[1]
    assert torch.equal(wide.labels[:, :size], narrow.labels) and (wide.labels[:, size:] == IGNORE).all()


def test_the_loader_gives_the_same_batches_for_any_number_of_workers():
    rows = random_rows(30)
    lengths = np.array([len(row.tokens) for row in rows.rows])
    batches = Batches(rows, {"blur": Blur(ratio=0.5)}, pad_id=0)
    plans = Plans(lengths, batch_size=3, gradient_accumulation_steps=2, epochs=2)
    expected = [batches[plan] for plan in plans]
    compared = 0
    for workers in (0, 2):
        for step, reference in zip(
            DataLoader(batches, sampler=plans, batch_size=None, num_workers=workers), expected, strict=True
        ):
            assert step.clock == reference.clock
            for ours, theirs in zip(step.micro_batches, reference.micro_batches, strict=True):
                assert torch.equal(ours.labels, theirs.labels) and ours.ids == theirs.ids
                compared += 1
    assert compared == 2 * 2 * 5 * 2


def test_roles_that_count():
    flat = make_flat([list(Role)])
    assert (flat.labels != IGNORE).sum() == len(SUPERVISED_ROLES)
