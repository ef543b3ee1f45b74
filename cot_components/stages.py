"""The interface between a recipe and its curriculum, and its implementation for a run without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.store import Rows
from cot_components.pace import Boundary


class Stages(Protocol):
    """The curriculum of one run, a pure function of the clock and of the boundaries that were measured."""

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """First step and stage of every stage that a measurement began; stored in checkpoints."""

    def measures(self, step: int) -> bool:
        """Whether the curriculum needs the share of right validation answers after `step` steps."""

    def decide(self, step: int, accuracy: float) -> str | None:
        """Record that share, the same on every process; returns a message for the log, if any."""

    def applied_to(self, data: ReasoningDataset) -> ReasoningDataset:
        """Training data with the curriculum's changes."""

    def held_out(self, data: ReasoningDataset | None) -> ReasoningDataset | None:
        """Validation data with the curriculum's changes; None stays None."""

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        """Refuse rows or questions that the run cannot be measured on."""

    def held_out_clock(self, step: int) -> Clock:
        """The time at which validation rows are transformed when they are measured after `step`."""

    def resets_optimizer(self, clock: Clock) -> bool:
        """Whether the optimizer is rebuilt before the step of this clock."""

    def restarts_schedule(self, clock: Clock) -> bool:
        """Whether the learning-rate schedule restarts before the step of this clock."""

    def last_restart(self, *, before: int) -> int:
        """The last step below `before` at which the schedule restarted; 0 if none."""

    def progress(self, clock: Clock) -> dict[str, float]:
        """The curriculum's entries in a step's log record."""

    def clocks(self) -> dict[str, Clock]:
        """Times worth looking at, by name."""


@dataclass(frozen=True)
class NoStages:
    """A run without a curriculum: rows stay as they are, optimizer and schedule are built once."""

    plans: Plans
    boundaries: tuple[Boundary, ...] = ()

    def measures(self, step: int) -> bool:
        return False

    def decide(self, step: int, accuracy: float) -> str | None:
        return None

    def applied_to(self, data: ReasoningDataset) -> ReasoningDataset:
        return data

    def held_out(self, data: ReasoningDataset | None) -> ReasoningDataset | None:
        return data

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        pass

    def held_out_clock(self, step: int) -> Clock:
        return Clock(0, 0)  # the mask of the first epoch, at every evaluation

    def resets_optimizer(self, clock: Clock) -> bool:
        return False

    def restarts_schedule(self, clock: Clock) -> bool:
        return False

    def last_restart(self, *, before: int) -> int:
        return 0

    def progress(self, clock: Clock) -> dict[str, float]:
        return {}

    def clocks(self) -> dict[str, Clock]:
        return self.plans.epoch_clocks()


class NoCurriculum:
    """The curriculum when a config names none."""

    changes_lengths = removes_tokens = keep_position = False

    def __call__(
        self, plans: Plans, rows: Rows, step_ends: Sequence[int] = (), boundaries: Sequence[Boundary] = ()
    ) -> NoStages:
        return NoStages(plans)
