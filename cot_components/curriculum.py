"""Curricula: stepwise internalisation (`Stepwise`, `Released`), and the `Stages` a recipe gets from them.

    curriculum:
      _component_: cot_components.curriculum.Stepwise
      per_epoch: 8

A curriculum holds settings; called with the planned steps of a run, it returns the `Stages` of that run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.overlap import check_no_overlap, prompts_of
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.pace import Bar, Boundary, MeasuredSchedule, measured
from cot_components.roles import Role
from cot_components.schedules import Anneal, MicroBatchTick, Schedule, check_finishes
from cot_components.stages import NoCurriculum, NoStages, Stages
from cot_components.transforms.remove import Remove, Side, Unit

__all__ = ["Anneal", "NoCurriculum", "NoStages", "Released", "Stages", "Stepwise"]


@dataclass(frozen=True)
class Internalisation:
    """Stepwise internalisation of one run; only the boundaries of a measured pace are remembered from step to step.

    remove: the transform
    plans:  all optimizer steps of the run
    ids:    ids of all rows, int64 `[R]`
    units:  units in the thought of each row as encoded, int64 `[R]`
    reset_optimizer: whether the optimizer is rebuilt at each stage
    restart_schedule: whether the learning-rate schedule restarts at each stage, over the remaining steps
    """

    remove: Remove
    plans: Plans
    ids: np.ndarray
    units: np.ndarray
    reset_optimizer: bool = True
    restart_schedule: bool = True

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """First step and stage of every stage that a measurement began."""
        return tuple(self.remove.schedule.boundaries)

    def measures(self, step: int) -> bool:
        """Whether validation answers are measured after `step` steps to set the pace."""
        return self.remove.schedule.measures(step)

    def decide(self, step: int, accuracy: float) -> str | None:
        """Record the share of right answers, the same on every process; see `MeasuredSchedule.decide`."""
        return self.remove.schedule.decide(step, accuracy)

    def applied_to(self, data: ReasoningDataset) -> ReasoningDataset:
        """The data set with the removal before its other transforms, except those that look up a row's tokens as
        encoded (`needs_whole_rows`).
        """
        return self._in_front(self.remove, data)

    def held_out(self, data: ReasoningDataset | None) -> ReasoningDataset | None:
        """As `applied_to`, without offsets."""
        return None if data is None else self._in_front(self.remove.without_offsets(), data)

    def _in_front(self, remove: Remove, data: ReasoningDataset) -> ReasoningDataset:
        assert "remove" not in data.transforms  # see `training.refusals`
        first = {name: t for name, t in data.transforms.items() if getattr(t, "needs_whole_rows", False)}
        return replace(data, transforms={**first, "remove": remove, **data.transforms})

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        """Check that the run is not evaluated on its training questions, and that its validation rows can be measured.

        Args:
            data, held_out: training and validation data.
            answers: the `AnswerEvaluation`, or None.

        Raises:
            UserError: an evaluation question that is also trained on, or that decides when a stage ends; validation
                rows without an answer where answers decide.
        """
        questions = answers.prompts(data.chat) if answers is not None else []
        check_no_overlap(data.rows, questions)
        check_no_overlap(data.rows, prompts_of(held_out.rows) if held_out is not None else [])
        if isinstance(self.remove.schedule, MeasuredSchedule) and held_out is not None:
            check_no_overlap(held_out.rows, questions, of="validation")
            if not (held_out.rows.roles == Role.ANSWER).any():
                raise UserError("curriculum: pace: accuracy is measured on answers, and no row of dataset_val has one")

    def held_out_clock(self, step: int) -> Clock:
        """The clock of that step: validation rows lose as much as training rows."""
        return self.plans.clock(step)

    def resets_optimizer(self, clock: Clock) -> bool:
        """Whether the optimizer is rebuilt before this clock's step: at the start of a stage."""
        return self.reset_optimizer and self._begins_stage(clock)

    def restarts_schedule(self, clock: Clock) -> bool:
        """Whether the learning-rate schedule restarts before this clock's step: at the start of a stage."""
        return self.restart_schedule and self._begins_stage(clock)

    def _begins_stage(self, clock: Clock) -> bool:
        """Whether the stage changes while some row of the previous step (over all processes) still had thought: once
        nothing is left to remove, there are no more resets.
        """
        if clock.step == 0:
            return False
        before = self.plans.clock(clock.step - 1)
        if self.remove.schedule.stage(clock) == self.remove.schedule.stage(before):
            return False
        rows = self.plans.rows_of(before)
        return bool((self.remove.amounts(self.ids[rows], before) < self.units[rows]).any())

    def last_restart(self, *, before: int) -> int:
        """The last step below `before` at which the schedule restarted; 0 if none."""
        steps = (step for step in range(before - 1, 0, -1) if self.restarts_schedule(self.plans.clock(step)))
        return next(steps, 0)

    def progress(self, clock: Clock) -> dict[str, float]:
        """For the log of a step: `stage` (at most the longest thought), and per row of the step, over all processes,
        the mean number of units `removed` and left (`thought_tokens` or `thought_steps`)."""
        rows = self.plans.rows_of(clock)
        units = self.units[rows]
        removed = np.minimum(self.remove.amounts(self.ids[rows], clock), units)
        return {
            "stage": float(min(self.remove.schedule.stage(clock), self._longest)),
            "removed": float(removed.mean()),
            f"thought_{self.remove.unit}s": float((units - removed).mean()),
        }

    def clocks(self, *, count: int = 6) -> dict[str, Clock]:
        """Times at which the run removes more than before, by name: `count` of them, evenly spaced."""
        shown: dict[float, Clock] = {}
        for step in range(self.plans.total_steps):
            clock = self.plans.clock(step)
            shown.setdefault(min(self.remove.schedule.stage(clock), self._longest), clock)
        chosen = np.unique(np.linspace(0, len(shown) - 1, num=min(count, len(shown))).round().astype(int))
        return {
            f"step {clock.step}, {stage} removed": clock
            for number, (stage, clock) in enumerate(shown.items())
            if number in chosen
        }

    @functools.cached_property
    def _longest(self) -> int:
        return int(self.units.max(initial=0))


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """Stepwise internalisation (ICoT-SI, arXiv 2405.14838) as a config describes it.

    Args:
        start, pretrain_epochs, remove_all_from: see `Schedule`.
        pace: `exact` and `rounded` remove `per_epoch` units per epoch, see `Schedule`; `accuracy` removes one unit more
            when the answers of `dataset_val` are right (see `bar`) and ignores `per_epoch`.
        bar: with `pace: accuracy`, the share of validation rows that ends a stage: a row is right if every answer token
            is the model's first choice given the tokens before it.
        cap: steps after which a stage ends anyway; null divides the rest of the run evenly among the remaining stages.
        measure_every: steps between two measurements.
        count: the schedule advances with every optimizer `step`, or with every `micro_batch`.
        smoothing, side, unit, keep_position: see `Remove`.
        reset_optimizer: whether the optimizer is reset at each stage, as long as there is something left to remove.
        restart_schedule: whether the learning-rate schedule restarts at each stage, over the remaining steps; null
            follows `reset_optimizer`.
        partial: allow a run that ends before every thought is removed.
        seed: of the offsets.
    """

    per_epoch: float = 8.0
    start: int | Literal["all"] = 0
    pretrain_epochs: int = 0
    remove_all_from: int | None = None
    pace: Literal["exact", "rounded", "accuracy"] = "exact"
    bar: float = 0.95
    cap: int | None = None
    measure_every: int = 100
    count: Literal["step", "micro_batch"] = "step"
    smoothing: float = 4.0
    side: Side = "left"
    unit: Unit = "token"
    keep_position: bool = False
    reset_optimizer: bool = True
    restart_schedule: bool | None = None
    partial: bool = False
    seed: int = 0

    changes_lengths: ClassVar[bool] = True
    removes_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._bar()

    @property
    def needs_held_out(self) -> bool:
        """Whether validation rows decide when a stage ends."""
        return self.pace == "accuracy"

    def __call__(
        self, plans: Plans, rows: Rows, step_ends: Sequence[int] = (), boundaries: Sequence[Boundary] = ()
    ) -> Internalisation:
        """The stages of one run.

        Args:
            plans: all optimizer steps of the run.
            rows: the rows the plans are about.
            step_ends: ids of the tokens that end a step of a thought, for `unit: step`.
            boundaries: those a resumed run has already measured.

        Raises:
            UserError: a setting out of range, a schedule that cannot finish, micro-batches counted on several
                processes.
        """
        schedule = self._schedule(plans)
        remove = Remove(
            schedule=schedule,
            side=self.side,
            unit=self.unit,
            step_ends=tuple(step_ends),
            smoothing=self.smoothing,
            keep_position=self.keep_position,
            seed=self.seed,
        )
        units = remove.units(rows)
        longest = int(units.max(initial=0))
        if self.pace == "accuracy":
            remove = replace(remove, schedule=self._measured(schedule, plans, longest, boundaries))
        elif not self.partial:
            check_finishes(schedule, longest=longest, epochs=plans.epochs, unit=self.unit)
        restart = self.reset_optimizer if self.restart_schedule is None else self.restart_schedule
        return Internalisation(remove, plans, np.asarray(rows.ids), units, self.reset_optimizer, restart)

    def _schedule(self, plans: Plans) -> Schedule:
        if self.count == "micro_batch" and plans.world_size > 1:
            raise UserError(
                f"curriculum: count: micro_batch is for one process, not for {plans.world_size}; use count: step"
            )
        return Schedule(
            **(_count_steps(plans) if self.count == "step" else _count_micro_batches(plans)),
            start=self.start,
            pretrain_epochs=self.pretrain_epochs,
            remove_all_from=self.remove_all_from,
            **({"per_epoch": 0} if self.pace == "accuracy" else {"per_epoch": self.per_epoch, "pace": self.pace}),
        )

    def _measured(
        self, first: Schedule, plans: Plans, longest: int, boundaries: Sequence[Boundary]
    ) -> MeasuredSchedule:
        first_step = plans.first_step(min(self.pretrain_epochs, plans.epochs))
        steps = {"first_step": first_step, "total_steps": plans.total_steps}
        schedule = measured(first, self._bar(), longest=longest, boundaries=boundaries, **steps)
        if not self.partial:
            schedule.check_finishes(longest=longest, unit=self.unit)
        return schedule

    def _bar(self) -> Bar:
        if self.pace == "accuracy" and self.count == "micro_batch":
            raise UserError("curriculum: pace: accuracy is decided between steps; use count: step")
        return Bar(self.bar, self.cap, self.measure_every)


def _count_steps(plans: Plans) -> dict[str, Any]:
    return {"ticks_per_epoch": plans.steps_per_epoch}


def _count_micro_batches(plans: Plans) -> dict[str, Any]:
    per_step = plans.gradient_accumulation_steps
    per_epoch = min(-(-plans.rows_per_epoch // plans.batch_size), plans.steps_per_epoch * per_step)
    return {"ticks_per_epoch": per_epoch, "tick": MicroBatchTick(plans.steps_per_epoch, per_step, per_epoch)}


@dataclass(frozen=True, kw_only=True)
class Released(Stepwise):
    """`Stepwise` with the clock of the script released with arXiv 2405.14838, for reproducing published runs.

    Time is counted in micro-batches: one more token is removed every `round(micro-batches per epoch / per_epoch)` of
    them. All other settings are those of `Stepwise`. When removing from the right, the script never resets its
    optimizer; set `side: right` and `reset_optimizer: false` to match.

    Raises:
        UserError: as `Stepwise`; or several processes, for which micro-batches are not counted.
    """

    pace: Literal["exact", "rounded", "accuracy"] = "rounded"
    count: Literal["step", "micro_batch"] = "micro_batch"
