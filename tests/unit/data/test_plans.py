"""Plans: every row once, pure in (seed, epoch), the same global batch however it is split, and exact resumes."""

import json
from itertools import pairwise

import numpy as np
import pytest
from lookalikes import shared_data

from cot_components.clock import Clock
from cot_components.data.rows.packing import WINDOW, pack_rows
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(5, 200, 101)
LONG = np.clip(RANDOM.lognormal(np.log(500), 0.8, 2_000).astype(np.int64), 8, 4096)
PADDED = {"lengths": LENGTHS, "batch_size": 4, "gradient_accumulation_steps": 3}
PACKED = {"lengths": LONG, "batch_size": 1, "gradient_accumulation_steps": 3, "packed_tokens": 4096}
both = pytest.mark.parametrize("settings", [PADDED, PACKED], ids=["padded", "packed"])


def rows_of(*plans):
    return sorted(row for plan in plans for part in plan.micro_batches for row in part)


@both
def test_every_row_once_per_epoch(settings):
    plans = Plans(**settings, epochs=2)
    steps = list(plans)
    assert len(steps) == plans.total_steps == len(plans)
    assert [plan.clock.step for plan in steps] == list(range(len(steps)))
    epochs = [[plan for plan in steps if plan.clock.epoch == epoch] for epoch in range(2)]
    assert rows_of(*epochs[0]) == rows_of(*epochs[1]) == list(range(len(plans.lengths)))
    assert rows_of(epochs[0][0]) != rows_of(epochs[1][0])
    if settings is PADDED:
        assert plans.steps_per_epoch == 9 == len(steps) // 2
        assert [len(part) for part in steps[-1].micro_batches] == [3, 2], "the ragged last step is kept"
    else:
        assert max(LONG[list(part)].sum() for plan in steps for part in plan.micro_batches) <= 4096


@pytest.mark.parametrize("accumulate, world", [(12, 1), (6, 2), (2, 6), (3, 4), (1, 12)])
@both
def test_a_step_is_the_same_rows_however_it_is_split(settings, accumulate, world):
    settings = settings | {"epochs": 2, "batch_size": 1, "gradient_accumulation_steps": 12}
    whole = Plans(**settings)
    settings = settings | {"gradient_accumulation_steps": accumulate, "world_size": world}
    ranks = [Plans(**settings, rank=rank) for rank in range(world)]
    for step, reference in enumerate(whole):
        plans = [rank.plan(step) for rank in ranks]
        assert {plan.clock for plan in plans} == {reference.clock}
        assert rows_of(*plans) == rows_of(reference) == sorted(ranks[0].rows_of(reference.clock))
        assert len({len(plan.micro_batches) for plan in plans}) == 1
    assert {len(rank) for rank in ranks} == {len(whole)}


@pytest.mark.parametrize("batch_size, accumulate, world", [(4, 3, 1), (2, 3, 2), (3, 1, 4), (6, 1, 2)])
def test_larger_micro_batches_hold_the_same_rows(batch_size, accumulate, world):
    settings = {"batch_size": batch_size, "gradient_accumulation_steps": accumulate, "world_size": world}
    ranks = [list(Plans(LENGTHS, **settings, rank=rank)) for rank in range(world)]
    for step, reference in enumerate(Plans(LENGTHS, batch_size=12)):
        assert rows_of(*(rank[step] for rank in ranks)) == rows_of(reference)
        assert max(len(part) for rank in ranks for part in rank[step].micro_batches) <= batch_size


@both
def test_resume_is_a_start_step(settings):
    settings = settings | {"epochs": 3, "seed": 5}
    plans = list(Plans(**settings))
    ends = [b.clock.step for a, b in pairwise(plans) if a.clock.epoch != b.clock.epoch]
    assert len(ends) == 2
    for start in (0, 1, *ends, ends[0] - 1, ends[1] + 1, len(plans) - 1):
        assert list(Plans(**settings, start_step=start)) == plans[start:]
        assert Plans(**settings).plan(start) == plans[start]


@both
def test_steps_can_be_cut(settings):
    plans = Plans(**settings, max_steps_per_epoch=2, epochs=3)
    assert [plan.clock[:2] for plan in plans] == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def test_the_summary_says_what_a_step_takes_and_how_full_it_is():
    assert Plans(**PACKED, max_steps_per_epoch=2).summary().startswith("2 steps of 3 x 4096 tokens, packed, 100.0%")
    unpacked = Plans(np.array([10, 10, 30, 30]), batch_size=4)
    assert unpacked.summary() == "1 steps of 4 rows, 66.7% of the positions hold a token"


def test_the_beginning_of_an_epoch_has_its_own_step():
    """A transform that is annealed over steps is shown as it then is."""
    plans = Plans(**PADDED, epochs=5)
    assert plans.epoch_clocks() == {f"epoch {epoch}": Clock(epoch, 9 * epoch) for epoch in range(3)}
    assert plans.epoch_clocks([4]) == {"epoch 4": Clock(4, 36)}
    with pytest.raises(UserError, match="epochs: this run has no epoch 5; its epochs are 0 to 4"):
        plans.epoch_clocks([5])


def test_similar_lengths_share_a_micro_batch():
    plans = Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=8)
    padded = sum(len(part) * max(LENGTHS[list(part)]) for plan in plans for part in plan.micro_batches)
    assert LENGTHS.sum() / padded > 0.9


def test_shares_of_sources():
    plans = Plans(LENGTHS[:30], batch_size=5, shares=((0, 10, 2.0), (10, 30, 0.5)), epochs=2)
    order = plans.epoch_order(0)
    counts = np.bincount(order, minlength=30)
    assert plans.rows_per_epoch == 30 == len(order)
    assert counts[:10].tolist() == [2] * 10 and counts[10:].max() == 1
    assert set(plans.epoch_order(1)) != set(order)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"max_steps_per_epoch": 0}, "max_steps_per_epoch must be at least 1 or null"),
        ({"packed_tokens": 0}, "packed_tokens must be at least 1 or null"),
        ({"seed": -1}, "seed must not be negative"),
        ({"lengths": LENGTHS[:0]}, "no row"),
        ({"shares": ((0, 9, 1.0), (9, 18, 0.05))}, r"a source of 9 rows with weight 0\.05 has no row"),
        ({"lengths": np.array([5, 4096]), "packed_tokens": 4095}, "packed_tokens is 4095, .* 4096 tokens"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Plans(**{"lengths": LENGTHS[:18], "batch_size": 1, **settings})


@pytest.mark.parametrize(("longest", "size"), [(4096, 4096), (4096, 16384), (1024, 4096), (8192, 8192)])
def test_packing_fills_on_lengths_of_real_traces(longest, size, tmp_path):
    """Characters over 4 as tokens, capped as `too_long: cut_thought` caps them, drawn 20,000 times."""
    characters = []
    for name in ("think_qwen3_small", "think_skythought", "think_toolrl"):
        lines = (shared_data(tmp_path) / name / "messages.jsonl").read_text(encoding="utf-8").strip().split("\n")
        characters += [sum(len(m["content"]) for m in json.loads(line)["messages"]) for line in lines]
    drawn = np.random.default_rng(0).choice(np.array(characters) // 4 + 8, 20_000)
    plans, padded = (Plans(np.minimum(drawn, longest), batch_size=8, packed_tokens=one) for one in (size, None))
    assert plans.fill(steps=plans.total_steps) >= 0.97 and plans.fill() > padded.fill(steps=padded.total_steps)


@pytest.mark.parametrize("lengths", [LONG, np.full(5000, 3000), np.r_[np.full(5000, 10), 4096, 4095]])
def test_a_long_row_waits_for_nobody(lengths):
    """Every row is trained about where the shuffle put it, however badly it fits."""
    order = np.random.default_rng(1).permutation(len(lengths))
    packs = pack_rows(order, lengths, 4096, np.random.default_rng(2))
    place, turn = np.empty(len(order)), np.empty(len(order))
    place[order] = np.cumsum(lengths[order]) / lengths.sum()
    for number, one in enumerate(packs):
        turn[one] = (number + 0.5) / len(packs)
    windows = max(round(lengths.sum() / (WINDOW * 4096)), 1)
    assert np.abs(turn - place).max() <= 1.1 / windows
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
