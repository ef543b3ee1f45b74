"""Curricula: the `Stages` that a recipe asks, `Stepwise` and `Released` internalisation, and `NoCurriculum`.

    curriculum:
      _component_: cot_components.curriculum.Stepwise
      per_epoch: 8

A curriculum is settings until the steps of a run are planned; called with them, it gives the `Stages` of that run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.overlap import check_no_overlap, prompts_of
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.schedules import Anneal, MicroBatchTick, Schedule, check_finishes
from cot_components.transforms.remove import Remove, Side, Unit

__all__ = ["Anneal", "NoCurriculum", "NoStages", "Released", "Stages", "Stepwise"]


class Stages(Protocol):
    """The curriculum of one run, a pure function of the clock."""

    def applied_to(self, data: ReasoningDataset) -> ReasoningDataset:
        """Training data as the curriculum changes them."""

    def held_out(self, data: ReasoningDataset | None) -> ReasoningDataset | None:
        """Validation data as the curriculum changes them; None stays None."""

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        """Refuse rows or questions that the run cannot be measured on."""

    def held_out_clock(self, step: int) -> Clock:
        """The time at which validation rows are transformed when they are measured after `step`."""

    def resets_optimizer(self, clock: Clock) -> bool:
        """Whether optimizer and learning-rate schedule are rebuilt before the step of this clock."""

    def last_reset(self, *, before: int) -> int:
        """The last step below `before` at which they were; 0 without one. What a resumed run asks."""

    def progress(self, clock: Clock) -> dict[str, float]:
        """What the record of a step says about the curriculum."""

    def clocks(self) -> dict[str, Clock]:
        """Times worth looking at, by name."""


@dataclass(frozen=True)
class NoStages:
    """A run without a curriculum: rows stay as they are, the optimizer is built once."""

    plans: Plans

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

    def last_reset(self, *, before: int) -> int:
        return 0

    def progress(self, clock: Clock) -> dict[str, float]:
        return {}

    def clocks(self) -> dict[str, Clock]:
        return self.plans.epoch_clocks()


class NoCurriculum:
    """The curriculum of a config that names none."""

    changes_lengths = removes_tokens = keep_position = False

    def __call__(self, plans: Plans, rows: Rows, step_ends: Sequence[int] = ()) -> NoStages:
        return NoStages(plans)


@dataclass(frozen=True)
class Internalisation:
    """Stepwise internalisation of one run; nothing is remembered from step to step.

    remove: the transform
    plans:  all optimizer steps of the run
    ids:    ids of all rows, int64 `[R]`
    units:  units in the thought of each row as encoded, int64 `[R]`
    reset_optimizer: whether the optimizer is rebuilt at each stage
    """

    remove: Remove
    plans: Plans
    ids: np.ndarray
    units: np.ndarray
    reset_optimizer: bool = True

    def applied_to(self, data: ReasoningDataset) -> ReasoningDataset:
        """The data set with the removal in front of its other transforms, but for those that look up a row's tokens as
        they were encoded (`needs_whole_rows`).
        """
        return self._in_front(self.remove, data)

    def held_out(self, data: ReasoningDataset | None) -> ReasoningDataset | None:
        """As `applied_to`, without offsets."""
        return None if data is None else self._in_front(self.remove.without_offsets(), data)

    def _in_front(self, remove: Remove, data: ReasoningDataset) -> ReasoningDataset:
        assert "remove" not in data.transforms  # see `training.combination`
        first = {name: t for name, t in data.transforms.items() if getattr(t, "needs_whole_rows", False)}
        return replace(data, transforms={**first, "remove": remove, **data.transforms})

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        """Make sure that what the run is measured on is not what it trains on, and can be measured.

        Args:
            data, held_out: training and validation data.
            answers: the `AnswerEvaluation`, or None.

        Raises:
            UserError: a question that is trained on, too.
        """
        check_no_overlap(data.rows, answers.prompts(data.chat) if answers is not None else [])
        check_no_overlap(data.rows, prompts_of(held_out.rows) if held_out is not None else [])

    def held_out_clock(self, step: int) -> Clock:
        """The clock of that step: validation rows lose what training rows have lost."""
        return self.plans.clock(step)

    def resets_optimizer(self, clock: Clock) -> bool:
        """Whether optimizer and learning-rate schedule are rebuilt before the step of this clock.

        They are when the stage changes, unless every row of the step before (over all processes) had already lost its
        thought: once there is nothing left to remove, training settles.
        """
        if not self.reset_optimizer or clock.step == 0:
            return False
        before = self.plans.clock(clock.step - 1)
        if self.remove.schedule.stage(clock) == self.remove.schedule.stage(before):
            return False
        rows = self.plans.rows_of(before)
        return bool((self.remove.amounts(self.ids[rows], before) < self.units[rows]).any())

    def last_reset(self, *, before: int) -> int:
        """The last step below `before` at which the optimizer was rebuilt; 0 without one. What a resumed run asks."""
        reset = (s for s in range(before - 1, 0, -1) if self.resets_optimizer(self.plans.clock(s)))
        return next(reset, 0)

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
        """Times at which the run takes away what it did not before, `count` of them evenly over all, by name."""
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
        per_epoch, start, pretrain_epochs, remove_all_from, pace: see `Schedule`.
        count: the schedule advances with every optimizer `step`, or with every `micro_batch`.
        smoothing, side, unit, keep_position: see `Remove`.
        reset_optimizer: see `Internalisation.resets_optimizer`.
        partial: allow a run that ends before every thought is removed.
        seed: of the offsets.
    """

    per_epoch: float = 8.0
    start: int | Literal["all"] = 0
    pretrain_epochs: int = 0
    remove_all_from: int | None = None
    pace: Literal["exact", "rounded"] = "exact"
    count: Literal["step", "micro_batch"] = "step"
    smoothing: float = 4.0
    side: Side = "left"
    unit: Unit = "token"
    keep_position: bool = False
    reset_optimizer: bool = True
    partial: bool = False
    seed: int = 0

    changes_lengths: ClassVar[bool] = True
    removes_tokens: ClassVar[bool] = True

    def __call__(self, plans: Plans, rows: Rows, step_ends: Sequence[int] = ()) -> Internalisation:
        """The stages of one run.

        Args:
            plans: all optimizer steps of the run.
            rows: the rows the plans are about.
            step_ends: ids of the tokens that end a step of a thought, for `unit: step`.

        Raises:
            UserError: a setting out of range, a schedule that cannot finish, micro-batches counted on several
                processes.
        """
        remove = Remove(
            schedule=self._schedule(plans),
            side=self.side,
            unit=self.unit,
            step_ends=tuple(step_ends),
            smoothing=self.smoothing,
            keep_position=self.keep_position,
            seed=self.seed,
        )
        units = remove.units(rows)
        if not self.partial:
            longest = int(units.max(initial=0))
            check_finishes(remove.schedule, longest=longest, epochs=plans.epochs, unit=self.unit)
        return Internalisation(remove, plans, np.asarray(rows.ids), units, self.reset_optimizer)

    def _schedule(self, plans: Plans) -> Schedule:
        if self.count == "micro_batch" and plans.world_size > 1:
            raise UserError(
                f"curriculum: count: micro_batch is for one process, not for {plans.world_size}; use count: step"
            )
        return Schedule(
            **(_count_steps(plans) if self.count == "step" else _count_micro_batches(plans)),
            per_epoch=self.per_epoch,
            start=self.start,
            pretrain_epochs=self.pretrain_epochs,
            remove_all_from=self.remove_all_from,
            pace=self.pace,
        )


def _count_steps(plans: Plans) -> dict[str, Any]:
    return {"ticks_per_epoch": plans.steps_per_epoch}


def _count_micro_batches(plans: Plans) -> dict[str, Any]:
    per_step = plans.gradient_accumulation_steps
    per_epoch = min(-(-plans.rows_per_epoch // plans.batch_size), plans.steps_per_epoch * per_step)
    return {"ticks_per_epoch": per_epoch, "tick": MicroBatchTick(plans.steps_per_epoch, per_step, per_epoch)}


Released = functools.partial(Stepwise, count="micro_batch", pace="rounded")
"""`Stepwise` with the released script's behaviour: time in micro-batches, one token every
`round(micro-batches per epoch / per_epoch)` of them. Takes the same settings.
"""
