"""Stepwise internalisation of a whole run: schedule and removal from the plans of the run, and what a recipe asks.

In a config (the recipe supplies plans and rows):

    curriculum:
      _component_: cot_components.internalisation.stepwise
      per_epoch: 8
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from cot_components.clock import Clock
from cot_components.curriculum import MicroBatchTick, Schedule, check_finishes
from cot_components.data.overlap import check_no_overlap, prompts_of
from cot_components.data.plans import Plans
from cot_components.data.store import Rows
from cot_components.datasets import ReasoningDataset
from cot_components.errors import UserError
from cot_components.transforms.remove import Remove, Side, Unit


@dataclass(frozen=True)
class Internalisation:
    """Stepwise internalisation of one run, as its recipe asks for it; nothing is remembered from step to step.

    remove: the transform
    plans:  all optimizer steps of the run
    ids:    ids of all rows, int64 `[R]`
    units:  units in the thought of each row as encoded, int64 `[R]`
    reset_optimizer: whether the optimizer starts anew at each stage
    """

    remove: Remove
    plans: Plans
    ids: np.ndarray
    units: np.ndarray
    reset_optimizer: bool = True

    def applied_to(self, data: ReasoningDataset, *, smoothing: bool = True) -> ReasoningDataset:
        """The data set with the removal in front of its other transforms, but for those that look up a row's tokens as
        they were encoded (`needs_whole_rows`); held-out data goes without offsets.

        Raises:
            UserError: one of its transforms has the name of the curriculum's, `remove`.
        """
        if "remove" in data.transforms:
            raise UserError("dataset.transforms.remove has the name of the curriculum's own transform; rename it")
        remove = self.remove if smoothing else self.remove.without_offsets()
        first = {name: t for name, t in data.transforms.items() if getattr(t, "needs_whole_rows", False)}
        return replace(data, transforms={**first, "remove": remove, **data.transforms})

    def check_held_out(self, data: ReasoningDataset, held_out: ReasoningDataset | None, answers: Any) -> None:
        """Make sure that what the run is measured on is not what it trains on, and can be measured.

        Args:
            data, held_out: training and validation data.
            answers: the `AnswerEvaluation`, or None.

        Raises:
            UserError: a question that is trained on, too; answers of a model whose remaining tokens kept their
                positions.
        """
        if self.remove.keep_position and answers is not None:
            raise UserError(
                "curriculum.keep_position: what a model writes has positions without the gap that it was trained with, "
                "so its answers would not be those of what was learnt; set keep_position: false or evaluation: null"
            )
        check_no_overlap(data.rows, answers.prompts(data.chat) if answers is not None else [])
        check_no_overlap(data.rows, prompts_of(held_out.rows) if held_out is not None else [])

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
        """The last step below `before` at which the optimizer started anew; 0 without one. What a resumed run asks."""
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


def stepwise(
    plans: Plans,
    rows: Rows,
    step_ends: Sequence[int] = (),
    *,
    per_epoch: float = 8.0,
    start: int | Literal["all"] = 0,
    pretrain_epochs: int = 0,
    remove_all_from: int | None = None,
    pace: Literal["exact", "rounded"] = "exact",
    count: Literal["step", "micro_batch"] = "step",
    smoothing: float = 4.0,
    side: Side = "left",
    unit: Unit = "token",
    keep_position: bool = False,
    reset_optimizer: bool = True,
    partial: bool = False,
    seed: int = 0,
) -> Internalisation:
    """The curriculum of a run.

    Args:
        plans: all optimizer steps of the run.
        rows: the rows the plans are about.
        step_ends: ids of the tokens that end a step of a thought, for `unit: step`.
        per_epoch, start, pretrain_epochs, remove_all_from, pace: see `Schedule`.
        count: the schedule advances with every optimizer `step`, or with every `micro_batch`.
        smoothing, side, unit, keep_position: see `Remove`.
        reset_optimizer: see `Internalisation.resets_optimizer`.
        partial: allow a run that ends before every thought is removed.
        seed: of the offsets.

    Raises:
        UserError: a setting out of range, a schedule that cannot finish, micro-batches counted on several processes,
            packed rows.
    """
    if plans.packed_tokens is not None:
        raise UserError(
            "curriculum: packed_tokens must be null: rows are packed by their lengths, which removal changes; rows of "
            "similar length share a micro-batch instead"
        )
    if count == "micro_batch" and plans.world_size > 1:
        raise UserError(
            f"curriculum: count: micro_batch is for one process, not for {plans.world_size}; use count: step"
        )
    schedule = Schedule(
        **(_count_steps(plans) if count == "step" else _count_micro_batches(plans)),
        per_epoch=per_epoch,
        start=start,
        pretrain_epochs=pretrain_epochs,
        remove_all_from=remove_all_from,
        pace=pace,
    )
    remove = Remove(
        schedule=schedule,
        side=side,
        unit=unit,
        step_ends=tuple(step_ends),
        smoothing=smoothing,
        keep_position=keep_position,
        seed=seed,
    )
    units = remove.units(rows)
    if not partial:
        check_finishes(schedule, longest=int(units.max(initial=0)), epochs=plans.epochs, unit=unit)
    return Internalisation(remove, plans, np.asarray(rows.ids), units, reset_optimizer)


def _count_steps(plans: Plans) -> dict[str, Any]:
    return {"ticks_per_epoch": plans.steps_per_epoch}


def _count_micro_batches(plans: Plans) -> dict[str, Any]:
    per_step = plans.gradient_accumulation_steps
    per_epoch = min(-(-plans.rows_per_epoch // plans.batch_size), plans.steps_per_epoch * per_step)
    return {"ticks_per_epoch": per_epoch, "tick": MicroBatchTick(plans.steps_per_epoch, per_step, per_epoch)}


reference = functools.partial(stepwise, count="micro_batch", pace="rounded")
"""`stepwise` with the released script's behaviour: time in micro-batches, one token every
`round(micro-batches per epoch / per_epoch)` of them. Takes the same settings.
"""
