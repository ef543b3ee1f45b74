"""A measured pace: a stage of internalisation lasts until the model answers correctly without the removed tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from cot_components.clock import Clock
from cot_components.errors import UserError
from cot_components.schedules import REMOVE_ALL, Schedule

Boundary = tuple[int, int]
"""The first step of a stage, and the stage."""


@dataclass(frozen=True)
class Bar:
    """When a measured stage ends, decided every `every` steps by the share of right validation answers.

    accuracy: the share that ends a stage, above 0 and at most 1.
    cap:      steps after which a stage ends anyway; None divides the rest of the run evenly among the remaining stages.
    every:    steps between two measurements.

    Raises:
        UserError: a number out of range, or a cap below `every`.
    """

    accuracy: float
    cap: int | None
    every: int

    def __post_init__(self) -> None:
        if not 0 < self.accuracy <= 1:
            raise UserError(f"curriculum: bar must be a share above 0 and at most 1, got {self.accuracy}")
        if self.every < 1:
            raise UserError(f"curriculum: measure_every must be at least 1, got {self.every}")
        if self.cap is not None and self.cap < self.every:
            raise UserError(f"curriculum: cap must be null, or at least measure_every ({self.every}), got {self.cap}")


@dataclass(frozen=True)
class MeasuredSchedule:
    """The stage as a function of the clock and of the boundaries measured so far, which checkpoints store.

    first:       the stage until the first boundary, and the pretraining, during which nothing is decided.
    bar:         when a stage ends.
    last:        the stage from which on nothing is left to remove.
    first_step:  of the first stage, after the pretraining.
    total_steps: of the run.
    boundaries:  of the stages that began, in order; `decide` adds to them.
    """

    first: Schedule
    bar: Bar
    last: int
    first_step: int
    total_steps: int
    boundaries: list[Boundary] = field(default_factory=list)

    def stage(self, clock: Clock) -> int:
        """Units removed in the batches of this clock; `REMOVE_ALL` for everything."""
        begun = bisect_right(self.boundaries, clock.step, key=lambda boundary: boundary[0])
        return self.boundaries[begun - 1][1] if begun else self.first.stage(clock)

    def removes(self, clock: Clock) -> bool:
        """See `Schedule.removes`."""
        return self.first.removes(clock)

    def tick(self, clock: Clock) -> int:
        """Time is counted in steps."""
        return clock.step

    def measures(self, step: int) -> bool:
        """Whether accuracy is measured after so many steps."""
        return step % self.bar.every == 0 and self.first_step <= step < self.total_steps

    def decide(self, step: int, accuracy: float) -> str | None:
        """Begin the next stage at `step` if the current one has reached the bar or its cap.

        Returns:
            a message if the stage ended without reaching the bar.
        """
        began, stage = self._current()
        reached, cap = accuracy >= self.bar.accuracy, self._cap(began, stage)
        if stage >= self.last or not (reached or step - began >= cap):
            return None
        following = stage + 1
        self.boundaries.append((step, following if following < self._all_from else REMOVE_ALL))
        if reached:
            return None
        return (
            f"step {step}: stage {stage} ended at its cap of {cap} steps with {accuracy:.1%} of the validation answers "
            f"right, below the bar of {self.bar.accuracy:.1%}"
        )

    def check_finishes(self, *, longest: int, unit: str) -> None:
        """Check that every thought is gone before the run ends, even if no stage reaches the bar.

        Raises:
            UserError: it may not be; says how many steps it can take.
        """
        began, stage = self._current()
        stages, per_stage = self.last - stage, -(-(self.bar.cap or 1) // self.bar.every)
        if stages * per_stage <= self._measurements_after(began):
            return
        needed = began + stages * per_stage * self.bar.every + 1
        raise UserError(
            f"curriculum: the longest thought has {longest} {unit}s, and without reaching the bar it takes {needed} "
            f"steps to remove it, but the run has {self.total_steps}; train longer, lower cap or measure_every, or set "
            "partial: true"
        )

    def _current(self) -> Boundary:
        if self.boundaries:
            return self.boundaries[-1]
        first_step = self.first_step // self.bar.every * self.bar.every
        return first_step, self.first.stage(Clock(self.first.pretrain_epochs, self.first_step))

    def _cap(self, began: int, stage: int) -> int:
        if self.bar.cap is not None:
            return self.bar.cap
        share = self._measurements_after(began) // max(self.last - stage + 1, 1)
        return max(share, 1) * self.bar.every

    def _measurements_after(self, step: int) -> int:
        return (self.total_steps - 1) // self.bar.every - step // self.bar.every

    @property
    def _all_from(self) -> int:
        return REMOVE_ALL if self.first.remove_all_from is None else self.first.remove_all_from


def measured(
    first: Schedule, bar: Bar, *, longest: int, first_step: int, total_steps: int, boundaries: Iterable[Boundary]
) -> MeasuredSchedule:
    """The schedule of a run whose longest thought has `longest` units, with the boundaries of a resumed run."""
    last = longest if first.remove_all_from is None else min(longest, first.remove_all_from)
    known = [(int(step), int(stage)) for step, stage in boundaries]
    return MeasuredSchedule(first, bar, last, first_step, total_steps, known)
