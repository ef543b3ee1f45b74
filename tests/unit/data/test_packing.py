"""Packing: full micro-batches, every row once and near its place, pure in (seed, epoch), the same for every process."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from lookalikes import shared_data
from rows import make_flat, random_rows, trace_roles

from cot_components.clock import Clock
from cot_components.data.rows.batches import Batches, pack, pad
from cot_components.data.rows.packing import WINDOW, pack_rows
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.transforms import Blur

RANDOM = np.random.default_rng(0)
LENGTHS = np.clip(RANDOM.lognormal(np.log(500), 0.8, 20_000).astype(np.int64), 8, 4096)


def packed_plans(**settings):
    return Plans(LENGTHS, **{"batch_size": 1, "packed_tokens": 4096, "gradient_accumulation_steps": 3} | settings)


def rows_of(plans):
    return [row for plan in plans for part in plan.micro_batches for row in part]


def trace_lengths(tmp_path):
    """Characters of real traces over 4 as tokens, capped as `too_long: cut_thought` caps them, drawn 20,000 times."""
    characters = []
    for name in ("think_qwen3_small", "think_skythought", "think_toolrl"):
        lines = (shared_data(tmp_path) / name / "messages.jsonl").read_text(encoding="utf-8").strip().split("\n")
        characters += [sum(len(m["content"]) for m in json.loads(line)["messages"]) for line in lines]
    return np.random.default_rng(0).choice(np.array(characters) // 4 + 8, 20_000)


@pytest.mark.parametrize(("longest", "size"), [(4096, 4096), (4096, 16384), (1024, 4096), (8192, 8192)])
def test_fill_on_lengths_of_real_traces(longest, size, tmp_path):
    lengths = np.minimum(trace_lengths(tmp_path), longest)
    plans = Plans(lengths, batch_size=1, packed_tokens=size)
    assert plans.fill(steps=plans.total_steps) >= 0.97
    padded = Plans(lengths, batch_size=8, gradient_accumulation_steps=1)
    assert plans.fill() > padded.fill(steps=padded.total_steps)


def test_every_row_once_per_epoch_and_none_is_cut():
    plans = packed_plans(epochs=2)
    steps = list(plans)
    assert len(steps) == plans.total_steps == len(plans) and [plan.clock.step for plan in steps] == list(
        range(len(steps))
    )
    for epoch in range(2):
        assert sorted(rows_of(plan for plan in steps if plan.clock.epoch == epoch)) == list(range(len(LENGTHS)))
    first = [plan.micro_batches for plan in steps if plan.clock.epoch == 0]
    assert first != [plan.micro_batches for plan in steps if plan.clock.epoch == 1]
    assert max(LENGTHS[list(part)].sum() for plan in steps for part in plan.micro_batches) <= 4096


@pytest.mark.parametrize("lengths", [LENGTHS, np.full(5000, 3000), np.r_[np.full(5000, 10), 4096, 4095]])
def test_a_long_row_waits_for_nobody(lengths):
    """Every row is trained about where the shuffle put it, however badly it fits."""
    order = np.random.default_rng(1).permutation(len(lengths))
    packs = pack_rows(order, lengths, 4096, np.random.default_rng(2))
    place = np.empty(len(order))
    place[order] = np.cumsum(lengths[order]) / lengths.sum()
    turn = np.empty(len(order))
    for number, pack_ in enumerate(packs):
        turn[pack_] = (number + 0.5) / len(packs)
    windows = max(round(lengths.sum() / (WINDOW * 4096)), 1)
    assert np.abs(turn - place).max() <= 1.1 / windows
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))


@pytest.mark.parametrize(("accumulate", "world"), [(6, 1), (3, 2), (2, 3), (1, 6)])
def test_processes_share_a_step(accumulate, world):
    whole = list(packed_plans(gradient_accumulation_steps=6, epochs=2))
    ranks = [
        list(packed_plans(gradient_accumulation_steps=accumulate, world_size=world, rank=rank, epochs=2))
        for rank in range(world)
    ]
    assert {len(plans) for plans in ranks} == {len(whole)}
    for step, reference in enumerate(whole):
        assert len({len(plans[step].micro_batches) for plans in ranks}) == 1
        assert sorted(rows_of(plans[step] for plans in ranks)) == sorted(rows_of([reference]))
        assert all(plans[step].clock == reference.clock for plans in ranks)


def test_resume_is_a_start_step():
    plans = list(packed_plans(epochs=3, seed=5))
    ends = [b.clock.step for a, b in pairwise(plans) if a.clock.epoch != b.clock.epoch]
    assert len(ends) == 2
    for start in (0, 1, *ends, ends[0] - 1, ends[1] + 1, len(plans) - 1):
        assert list(packed_plans(epochs=3, seed=5, start_step=start)) == plans[start:]
        assert packed_plans(epochs=3, seed=5).plan(start) == plans[start]


def test_steps_can_be_cut_and_summed_up():
    plans = packed_plans(max_steps_per_epoch=2, epochs=3)
    assert [plan.clock[:2] for plan in plans] == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert plans.summary().startswith("6 steps of 3 x 4096 tokens, packed, 99.")
    unpacked = Plans(np.array([10, 10, 30, 30]), batch_size=4)
    assert unpacked.summary() == "1 steps of 4 rows, 66.7% of the positions hold a token"


def test_rows_of_a_step():
    plans = packed_plans(world_size=2)
    assert sorted(plans.rows_of(Clock(0, 4))) == sorted(
        rows_of([packed_plans(world_size=2, rank=rank).plan(4) for rank in (0, 1)])
    )


def test_a_row_that_fits_nowhere_and_bad_numbers():
    with pytest.raises(UserError, match=r"packed_tokens is 4095, but the longest row has 4096 tokens"):
        Plans(np.array([5, 4096]), batch_size=1, packed_tokens=4095)
    with pytest.raises(UserError, match="packed_tokens must be at least 1 or null, got 0"):
        Plans(np.array([5]), batch_size=1, packed_tokens=0)


def test_a_packed_batch_is_the_padded_one_without_its_padding():
    flat = Blur(ratio=0.5)(random_rows(9).flat(range(9)), Clock(0, 0))
    padded, packed = pad(flat, pad_id=99), pack(flat, pad_id=99, num_tokens=len(flat.tokens) + 7)
    real = (torch.arange(padded.tokens.shape[1]) < torch.from_numpy(flat.lengths)[:, None]).flatten()
    size = len(flat.tokens)
    for name in ("tokens", "labels", "weights", "roles"):
        ours, theirs = getattr(packed, name), getattr(padded, name)
        assert ours.shape == (1, size + 7) and torch.equal(ours[0, :size], theirs.flatten()[real])
    assert packed.tokens[0, size:].tolist() == [99] * 7 and packed.roles[0, size:].tolist() == [Role.PAD] * 7
    assert (packed.labels[0, size:] == IGNORE).all() and packed.documents == (*flat.lengths.tolist(), 7)
    for name in ("ids", "num_supervised", "weight_sum", "num_tokens"):
        assert getattr(packed, name) == getattr(padded, name)
    for name in ("rows", "blurred_rows"):
        assert len(getattr(packed, name)) == len(getattr(padded, name)) > 0
        ours, theirs = (b.sample.flatten()[getattr(b, name)] for b in (packed, padded))
        assert torch.equal(ours, theirs)
        assert torch.equal(
            packed.next_tokens.flatten()[packed.rows], packed.labels.flatten()[packed.rows]
        )  # the shift stays inside a row
    counted = np.concatenate([np.arange(length) for length in flat.lengths])
    assert packed.input_pos[0].tolist() == [*counted, *[0] * 7]
    assert packed.sample[0, size:].tolist() == [9] * 7


def test_a_packed_batch_without_rows_can_be_run():
    batch = pack(make_flat([]), pad_id=5, num_tokens=8)
    assert batch.tokens.tolist() == [[5] * 8] and batch.documents == (8,) and batch.rows.numel() == 0
    full = pack(make_flat([trace_roles(1, 3, 2)]), pad_id=5, num_tokens=8)
    assert full.documents == (8,)


def test_masks_are_redrawn_in_packed_batches():
    rows = random_rows(30)
    lengths = np.array([len(row.tokens) for row in rows.rows])
    plans = Plans(lengths, batch_size=1, packed_tokens=128, epochs=2)
    batches = Batches(rows, {"blur": Blur(ratio=0.5)}, 0, packed_tokens=128)
    drawn = [{}, {}]
    for plan in plans:
        for batch in batches[plan].micro_batches:
            for number, row in enumerate(batch.ids):
                drawn[plan.clock.epoch][row] = batch.labels[0][batch.sample[0] == number].tolist()
    assert len(drawn[0]) == len(drawn[1]) == 30
    assert sum(drawn[0][row] != drawn[1][row] for row in drawn[0]) > 20
