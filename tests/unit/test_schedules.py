"""The schedule against a step-by-step imitation of the released script, and against the published numbers."""

import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cot_components.clock import Clock
from cot_components.schedules import REMOVE_ALL, Anneal, MicroBatchTick, Schedule, check_finishes, smoothing_offsets


def clocks(steps_per_epoch: int, epochs: int) -> list[Clock]:
    return [Clock(step // steps_per_epoch, step) for step in range(steps_per_epoch * epochs)]


def counted_stages(steps_per_epoch, epochs, per_epoch, *, start=0, pretrain_epochs=0, remove_all_from=float("inf")):
    """Stages before each batch, counted up batch by batch as the released training script does it."""
    interval, counter, stage, stages = round(steps_per_epoch / per_epoch), 0, start, []
    for epoch in range(epochs):
        for _ in range(steps_per_epoch):
            if counter == interval:
                stage, counter = stage + 1, 0
            if epoch >= pretrain_epochs:
                counter += 1
            if stage >= remove_all_from:
                stage = REMOVE_ALL
            stages.append(start if epoch < pretrain_epochs else stage)
    return stages


@given(
    *(st.integers(1, 60), st.integers(1, 8), st.sampled_from([0.5, 1, 3, 8, 16])),
    *(st.integers(0, 3), st.integers(0, 3), st.none() | st.integers(4, 30)),
)
def test_rounded_pace_is_the_released_scripts(steps, epochs, per_epoch, start, pretrain, remove_all_from):
    knobs = {"start": start, "pretrain_epochs": pretrain}
    rounded = partial(Schedule, ticks_per_epoch=steps, per_epoch=per_epoch, pace="rounded", **knobs)
    if round(steps / per_epoch) == 0:
        with pytest.raises(ValueError, match="per_epoch"):
            rounded()
        return
    schedule = rounded(remove_all_from=remove_all_from)
    beyond = float("inf") if remove_all_from is None else remove_all_from
    expected = counted_stages(steps, epochs, per_epoch, **knobs, remove_all_from=beyond)
    assert [schedule.stage(clock) for clock in clocks(steps, epochs)] == expected


@given(st.integers(1, 60), st.sampled_from([0.1, 0.3, 1, 2.5, 7, 8, 100]), st.integers(0, 2))
def test_exact_pace_removes_what_it_says_per_epoch(steps_per_epoch, per_epoch, pretrain_epochs):
    schedule = Schedule(ticks_per_epoch=steps_per_epoch, per_epoch=per_epoch, pretrain_epochs=pretrain_epochs)
    stages = [schedule.stage(clock) for clock in clocks(steps_per_epoch, 13)]
    assert stages == sorted(stages)
    begins = [schedule.stage(Clock(epoch, epoch * steps_per_epoch)) for epoch in range(13)]
    assert begins == [int(round(10 * per_epoch) * max(epoch - pretrain_epochs, 0) // 10) for epoch in range(13)]


@pytest.mark.parametrize(
    ("steps_per_epoch", "per_epoch", "remove_all_from", "interval", "epoch_ends"),
    [
        (10, 3, None, 3, [3, 6, 9]),
        (25_250, 8, None, 3156, [8, 16]),
        (2_525, 8, None, 316, [7, 15, 23, 31, 39, 47, 55]),
        (100, 8, 39, 12, [8, 16, 24, 33, REMOVE_ALL, REMOVE_ALL]),
    ],
)
def test_published_schedules(steps_per_epoch, per_epoch, remove_all_from, interval, epoch_ends):
    knobs = {"ticks_per_epoch": steps_per_epoch, "per_epoch": per_epoch, "remove_all_from": remove_all_from}
    schedule = Schedule(**knobs, pace="rounded")
    stages = [schedule.stage(Clock(0, step)) for step in range(6 * interval + 1)]
    events = [step for step in range(1, len(stages)) if stages[step] > stages[step - 1]]
    assert events == [interval * i for i in range(1, 7)]
    ends = [schedule.stage(Clock(e, (e + 1) * steps_per_epoch - 1)) for e in range(len(epoch_ends))]
    assert ends == epoch_ends


def test_a_schedule_travels_to_workers():
    schedule = Schedule(ticks_per_epoch=7, per_epoch=2, tick=MicroBatchTick(3, 3, 7))
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule and again.stage(Clock(2, 7)) == schedule.stage(Clock(2, 7))


PUBLISHED = {4.0: [0.98168436, 0.01798018, 0.00032932], 2.0: [0.86466472, 0.11701964, 0.01583689]}
PUBLISHED[1.0] = [0.63212056, 0.23254416, 0.08554821]


@pytest.mark.parametrize(("smoothing", "published"), PUBLISHED.items())
def test_offsets_have_the_published_distribution(smoothing, published):
    count = 400_000
    offsets = smoothing_offsets(np.arange(count), 3, smoothing=smoothing, seed=7)
    shares = np.bincount(offsets, minlength=3)[:3] / count
    tolerance = 5 * np.sqrt(np.array(published) / count)
    assert (np.abs(shares - published) < tolerance).all(), shares
    expected_mean = 1 / (np.exp(smoothing) - 1)
    assert abs(offsets.mean() - expected_mean) < 5 * np.sqrt(expected_mean * (1 + expected_mean) / count)


def test_the_rest_of_the_probability_lies_on_the_largest_offset():
    offsets = smoothing_offsets(np.arange(100_000), 0, smoothing=0.01, seed=0)
    assert offsets.max() == 99 and offsets.min() == 0
    assert abs((offsets == 99).mean() - np.exp(-0.99)) < 0.01


def test_offsets_depend_on_seed_epoch_and_id_only():
    ids = np.arange(5_000)
    base = smoothing_offsets(ids, 2, smoothing=1.0, seed=1)
    shuffled = np.random.default_rng(0).permutation(ids)
    assert (smoothing_offsets(shuffled, 2, smoothing=1.0, seed=1) == base[shuffled]).all()
    for epoch, seed in ((3, 1), (2, 5)):
        other = smoothing_offsets(ids, epoch, smoothing=1.0, seed=seed)
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.05
    assert not smoothing_offsets(ids, 2, smoothing=float("inf"), seed=1).any()


SCHEDULES = {
    "ticks_per_epoch": st.integers(1, 20),
    "per_epoch": st.sampled_from([0, 0.5, 1, 3, 8]),
    "start": st.integers(0, 4) | st.just("all"),
    "pretrain_epochs": st.integers(0, 2),
    "remove_all_from": st.none() | st.integers(1, 12),
    "pace": st.sampled_from(["exact", "rounded"]),
}


@given(st.fixed_dictionaries(SCHEDULES), st.integers(0, 15))
def test_epochs_to_remove_agrees_with_running_the_schedule(knobs, longest):
    ticks, per_epoch = knobs["ticks_per_epoch"], knobs["per_epoch"]
    assume(knobs["pace"] == "exact" or not per_epoch or round(ticks / per_epoch) > 0)
    schedule = Schedule(**knobs)
    whole = [clock.epoch for clock in clocks(ticks, 60) if schedule.stage(clock) >= longest]
    assert schedule.epochs_to_remove(longest) == (whole[0] + 1 if whole else None)
    if whole:
        check_finishes(schedule, longest=longest, epochs=whole[0] + 1)


@pytest.mark.parametrize("per_epoch", [1e-6, 1e300])
def test_extreme_paces_keep_a_stage_that_fits(per_epoch: float):
    stages = [Schedule(ticks_per_epoch=10, per_epoch=per_epoch).stage(clock) for clock in clocks(10, 2)]
    assert stages == [0] + [0 if per_epoch < 1 else REMOVE_ALL] * 19


def test_annealing_is_a_straight_line_of_the_step():
    anneal = Anneal(first=0.8, last=0.2, num_steps=4)
    strengths = [anneal(Clock(step % 3, step)) for step in range(7)]
    assert strengths == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2])
    assert strengths[0] == 0.8 and strengths[-1] == 0.2, "the ends are exact, so strength 0 is no blur bit for bit"
    assert pickle.loads(pickle.dumps(anneal)) == anneal
