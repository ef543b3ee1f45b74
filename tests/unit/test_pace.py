"""A measured pace against a run that counts stage by stage; what cannot be measured is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.clock import Clock
from cot_components.curriculum import Stepwise
from cot_components.pace import Bar, MeasuredSchedule, measured
from cot_components.schedules import REMOVE_ALL, Schedule

PER_EPOCH = 50


def schedule(
    *, bar=0.5, cap=None, every=10, longest=4, total=400, boundaries=(), pretrain_epochs=0, **knobs
) -> MeasuredSchedule:
    first = Schedule(ticks_per_epoch=PER_EPOCH, per_epoch=0, pretrain_epochs=pretrain_epochs, **knobs)
    steps = {"first_step": pretrain_epochs * PER_EPOCH, "total_steps": total}
    return measured(first, Bar(bar, cap, every), longest=longest, boundaries=boundaries, **steps)


def run(pace: MeasuredSchedule, accuracies) -> list[str]:
    """Every measurement of a run in order; what was said."""
    steps = [step for step in range(1, pace.total_steps) if pace.measures(step)]
    return [said for step in steps if (said := pace.decide(step, float(accuracies[step % len(accuracies)])))]


def counted(accuracies, *, bar, cap, every, longest, total) -> list[int]:
    """The stage of every step, counted up while a run goes on."""
    stage, in_stage, stages = 0, 0, []
    for step in range(total):
        if step and step % every == 0 and stage < longest:
            measurements = sum(later % every == 0 for later in range(step - in_stage + 1, total))
            allowed = cap or every * max(measurements // (longest - stage + 1), 1)
            if accuracies[step % len(accuracies)] >= bar or in_stage >= allowed:
                stage, in_stage = stage + 1, 0
        stages.append(stage)
        in_stage += 1
    return stages


@given(
    accuracies=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    cap=st.none() | st.integers(7, 60),
    every=st.integers(1, 7),
    longest=st.integers(0, 9),
    total=st.integers(1, 300),
)
def test_stages_are_those_counted_up(accuracies, cap, every, longest, total) -> None:
    settings = {"bar": 0.5, "cap": cap, "every": every, "longest": longest, "total": total}
    pace = schedule(**settings)
    run(pace, accuracies)
    stages = [pace.stage(Clock(0, step)) for step in range(total)]
    assert stages == counted(accuracies, **settings)
    resumed = schedule(**settings, boundaries=[list(boundary) for boundary in pace.boundaries])
    assert [resumed.stage(Clock(0, step)) for step in range(total)] == stages


@given(
    every=st.integers(1, 9),
    longest=st.integers(1, 12),
    more=st.integers(0, 60),
    cap=st.none() | st.integers(9, 40),
    pretrain_epochs=st.integers(0, 2),
)
def test_a_bar_that_is_never_reached_ends_at_the_last_stage(every, longest, more, cap, pretrain_epochs) -> None:
    """In the fewest steps that are not refused, and in more; every stage that ends so is said."""
    needed = math.ceil((cap or 1) / every) * longest * every + pretrain_epochs * PER_EPOCH // every * every + 1
    knobs = {"every": every, "longest": longest, "cap": cap, "pretrain_epochs": pretrain_epochs}
    schedule(total=needed, **knobs).check_finishes(longest=longest, unit="token")
    pace = schedule(total=needed + more, **knobs)
    said = run(pace, [0.0])
    assert len(said) == longest and "cap" in said[0] and "0.0%" in said[0]
    assert pace.stage(Clock(9, pace.total_steps - 1)) == longest
    assert all(step >= pretrain_epochs * PER_EPOCH for step, _ in pace.boundaries)
    with pytest.raises(ValueError, match=f"takes {needed} steps .* has {needed - 1}"):
        schedule(total=needed - 1, **knobs).check_finishes(longest=longest, unit="token")


def test_a_stage_ends_at_the_bar_and_everything_goes_from_the_threshold_on() -> None:
    pace = schedule(longest=9, remove_all_from=3)
    assert run(pace, [1.0]) == [] and pace.boundaries == [(10, 1), (20, 2), (30, REMOVE_ALL)]
    assert [pace.stage(Clock(0, step)) for step in (9, 10, 29, 30)] == [0, 1, 2, REMOVE_ALL]
    nothing = schedule(start="all")
    assert run(nothing, [1.0]) == [] and nothing.stage(Clock(0, 0)) == REMOVE_ALL


@pytest.mark.parametrize(
    ("knobs", "key"),
    [
        *(({"bar": bar}, "bar") for bar in (0, -0.1, 1.01, 95, math.nan)),
        ({"measure_every": 0}, "measure_every"),
        ({"cap": 99}, "cap"),
        ({"pace": "accuracy", "count": "micro_batch"}, "count: step"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(knobs, key) -> None:
    with pytest.raises(ValueError, match=f"curriculum: .*{key}"):
        Stepwise(**knobs)
