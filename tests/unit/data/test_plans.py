"""Plans: every row once, pure in (seed, epoch), the same global batch however it is split, and exact resumes."""

import numpy as np
import pytest

from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError

LENGTHS = np.random.default_rng(0).integers(5, 200, 101)


def rows_of(plan):
    return sorted(row for micro_batch in plan.micro_batches for row in micro_batch)


def test_every_row_once_per_epoch():
    plans = Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=3, epochs=2)
    assert plans.steps_per_epoch == 9 and plans.total_steps == len(plans) == 18
    steps = list(plans)
    assert [plan.clock.step for plan in steps] == list(range(18))
    for epoch in range(2):
        drawn = [row for plan in steps if plan.clock.epoch == epoch for row in rows_of(plan)]
        assert sorted(drawn) == list(range(101))
    assert rows_of(steps[0]) != rows_of(steps[9])


def test_the_beginning_of_an_epoch_has_its_own_step():
    """A transform that is annealed over steps is shown as it then is."""
    plans = Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=3, epochs=5)
    assert plans.epoch_clocks() == {f"epoch {epoch}": (epoch, 9 * epoch, 0) for epoch in range(3)}
    assert plans.epoch_clocks([4]) == {"epoch 4": (4, 36, 0)}
    with pytest.raises(UserError, match="epochs: 5 is none of this run's, which are 0 to 4"):
        plans.epoch_clocks([5])


def test_the_ragged_last_step_is_kept():
    last = list(Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=3))[-1]
    assert [len(part) for part in last.micro_batches] == [3, 2]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world"), [(1, 12, 1), (4, 3, 1), (2, 3, 2), (3, 1, 4), (6, 1, 2)]
)
def test_a_step_is_the_same_rows_however_it_is_split(batch_size, accumulate, world):
    reference = list(Plans(LENGTHS, batch_size=12))
    ranks = [
        list(Plans(LENGTHS, batch_size=batch_size, gradient_accumulation_steps=accumulate, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert len(reference) == 9
    for step, plan in enumerate(reference):
        assert sorted(row for rank in ranks for row in rows_of(rank[step])) == rows_of(plan)
        assert len({len(rank[step].micro_batches) for rank in ranks}) == 1
        assert max(len(part) for rank in ranks for part in rank[step].micro_batches) <= batch_size


def test_resume_is_a_start_step():
    plans = list(Plans(LENGTHS, batch_size=7, epochs=3, seed=5))
    checked = 0
    for start in (0, 1, 14, 15, 16, 44):
        assert list(Plans(LENGTHS, batch_size=7, epochs=3, seed=5, start_step=start)) == plans[start:]
        assert Plans(LENGTHS, batch_size=7, epochs=3, seed=5).plan(start) == plans[start]
        checked += 1
    assert checked == 6


def test_similar_lengths_share_a_micro_batch():
    plans = Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=8)
    padded = sum(len(part) * max(LENGTHS[list(part)]) for plan in plans for part in plan.micro_batches)
    assert LENGTHS.sum() / padded > 0.9


def test_shares_of_sources():
    plans = Plans(LENGTHS[:30], batch_size=5, shares=((0, 10, 2.0), (10, 30, 0.5)), epochs=2)
    order = plans.epoch_order(0)
    assert plans.rows_per_epoch == 30 == len(order)
    assert np.bincount(order, minlength=30)[:10].tolist() == [2] * 10
    assert np.bincount(order, minlength=30)[10:].max() == 1
    assert set(plans.epoch_order(1)) != set(order)


def test_steps_can_be_cut():
    plans = Plans(LENGTHS, batch_size=4, max_steps_per_epoch=2, epochs=3)
    assert [plan.clock[:2] for plan in plans] == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"epochs": 0, "batch_size": 1}, {"batch_size": 1, "max_steps_per_epoch": 0}]
)
def test_bad_numbers(settings):
    with pytest.raises(UserError, match="at least 1"):
        Plans(LENGTHS, **settings)


def test_a_source_that_gives_no_row_is_refused():
    with pytest.raises(UserError, match=r"a source of 9 rows with weight 0\.05 gives no row"):
        Plans(LENGTHS[:18], batch_size=2, shares=((0, 9, 1.0), (9, 18, 0.05)))


def test_no_rows():
    with pytest.raises(UserError, match="no row"):
        Plans(LENGTHS[:0], batch_size=1)
