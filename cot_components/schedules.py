"""Quantities that follow the clock: `Schedule` of stepwise internalisation (ICoT-SI, Deng, Choi, Shieber 2024, arXiv
2405.14838), and `Anneal`, a strength that moves linearly.

How many units of thought (tokens or steps) are removed at a given clock is computed, never counted up, so a resumed run
and a notebook agree with the original run. Which tokens go: `cot_components.transforms.remove`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from cot_components.clock import Clock, draw_bits, row_keys
from cot_components.errors import UserError

REMOVE_ALL = 2**31 - 1
"""The stage at which every thought is removed completely, however long."""

FINEST = 10**6
"""`per_epoch` is rounded to a fraction with at most this denominator."""

LARGEST_OFFSET = 99
"""The released script draws offsets from 0..99 and puts the rest of the probability on 99."""

OFFSET_COUNTER = -2
"""No token has this counter, so the offsets share no random bits with a transform that has the same seed."""


def clock_step(clock: Clock) -> int:
    """Ticks are optimizer steps."""
    return clock.step


@dataclass(frozen=True)
class MicroBatchTick:
    """Ticks are micro-batches, as the released script counts; `Clock.micro_batch` counts them inside a step.

    Every step of an epoch but the last holds `per_step` of them; an epoch holds `per_epoch`.
    """

    steps_per_epoch: int
    per_step: int
    per_epoch: int

    def __call__(self, clock: Clock) -> int:
        inside = (clock.step - clock.epoch * self.steps_per_epoch) * self.per_step
        return clock.epoch * self.per_epoch + inside + clock.micro_batch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The stage as a function of the clock: `s(t)` of the paper, the units scheduled to be removed.

    ticks_per_epoch: how often `tick` advances in an epoch: optimizer steps, or micro-batches.
    per_epoch:       units removed per epoch (Delta); 0 never removes anything (explicit chain-of-thought).
    start:           units removed from the first step on; "all" trains without any chain-of-thought.
    pretrain_epochs: epochs at `start` before the schedule begins.
    remove_all_from: a stage this high removes everything; None for never.
    pace:            "exact" is the paper's `floor(per_epoch * t / ticks_per_epoch)`; "rounded" removes one unit every
                     `round(ticks_per_epoch / per_epoch)` ticks, as released, which drifts from it.
    tick:            the time of a clock in ticks.

    Raises:
        UserError: a setting out of range, or more units per epoch than a rounded pace can remove.
    """

    ticks_per_epoch: int
    per_epoch: float = 8
    start: int | Literal["all"] = 0
    pretrain_epochs: int = 0
    remove_all_from: int | None = None
    pace: Literal["exact", "rounded"] = "exact"
    tick: Callable[[Clock], int] = clock_step

    boundaries: ClassVar[Sequence[tuple[int, int]]] = ()

    def __post_init__(self) -> None:
        if self.ticks_per_epoch < 1:
            raise UserError(f"curriculum: an epoch must have at least 1 step, got {self.ticks_per_epoch}")
        if not (self.per_epoch == 0 or 1 / FINEST <= self.per_epoch < float("inf")):
            raise UserError(f"curriculum: per_epoch must be 0 or a number from {1 / FINEST:g}, got {self.per_epoch}")
        if self.start != "all" and (isinstance(self.start, str) or not 0 <= self.start <= REMOVE_ALL):
            raise UserError(f"curriculum: start must be a number from 0 to {REMOVE_ALL}, or 'all', got {self.start!r}")
        if self.pretrain_epochs < 0:
            raise UserError(f"curriculum: pretrain_epochs must not be negative, got {self.pretrain_epochs}")
        if self.remove_all_from is not None and self.remove_all_from < 1:
            raise UserError(f"curriculum: remove_all_from must be at least 1, or null, got {self.remove_all_from}")
        if self.pace not in ("exact", "rounded"):
            raise UserError(f"curriculum: pace must be 'exact' or 'rounded', got {self.pace!r}")
        if self.per_epoch and self._ticks_per_unit == 0:
            raise UserError(
                f"curriculum: per_epoch {self.per_epoch:g} is more than {self.ticks_per_epoch} steps per epoch can "
                "remove one by one; use pace: exact or smaller batches"
            )

    @property
    def _ticks_per_unit(self) -> Fraction:
        """Ticks between two removals; a whole number where the pace is rounded."""
        exact = self.ticks_per_epoch / Fraction(self.per_epoch).limit_denominator(FINEST)
        return exact if self.pace == "exact" else Fraction(round(exact))

    def stage(self, clock: Clock) -> int:
        """Units scheduled to be removed in the batches of this clock; `REMOVE_ALL` for everything."""
        if self.start == "all":
            return REMOVE_ALL
        assert not isinstance(self.start, str)
        if not self.removes(clock):
            return self.start
        elapsed = self.tick(clock) - self.pretrain_epochs * self.ticks_per_epoch
        stage = self.start + (int(elapsed // self._ticks_per_unit) if self.per_epoch else 0)
        all_from = REMOVE_ALL if self.remove_all_from is None else min(self.remove_all_from, REMOVE_ALL)
        return REMOVE_ALL if stage >= all_from else stage

    def removes(self, clock: Clock) -> bool:
        """Whether the schedule is running: after the pretraining epochs."""
        return clock.epoch >= self.pretrain_epochs

    def measures(self, step: int) -> bool:
        """Whether a stage depends on a measurement after `step` steps: never, all stages are known from the start."""
        return False

    def decide(self, step: int, accuracy: float) -> str | None:
        """Nothing is left to decide; see `pace.MeasuredSchedule.decide`."""
        return None

    def epochs_to_remove(self, units: int) -> int | None:
        """Epochs after which a thought of `units` units has been trained on without any of them; None if never."""
        if self.start == "all":
            return 1
        assert not isinstance(self.start, str)
        if units <= self.start:
            return 1
        goal = units if self.remove_all_from is None else min(units, self.remove_all_from)
        missing = max(goal - self.start, 0)
        if missing and not self.per_epoch:
            return None
        ticks = missing * self._ticks_per_unit if missing else Fraction(0)
        return self.pretrain_epochs + int(-(-ticks // 1)) // self.ticks_per_epoch + 1


def smoothing_offsets(ids: np.ndarray, epoch: int, *, smoothing: float, seed: int) -> np.ndarray:
    """Extra units removed from each row, int64 `[B]`: `P(o) ~ exp(-smoothing * o)`, at most `LARGEST_OFFSET`.

    Args:
        ids: row ids, int64 `[B]`; a row keeps its offset for the epoch.
        smoothing: lambda of the paper; infinity switches the offsets off.
        seed: of the draws.
    """
    if smoothing == float("inf"):
        return np.zeros(len(ids), dtype=np.int64)
    bits = draw_bits(row_keys(seed, epoch, ids), np.full(len(ids), OFFSET_COUNTER))
    uniform = ((bits >> np.uint64(11)) + np.uint64(1)) * 2.0**-53  # in (0, 1], so the logarithm is finite
    return np.minimum(np.floor(-np.log(uniform) / smoothing), LARGEST_OFFSET).astype(np.int64)


def check_finishes(schedule: Schedule, *, longest: int, epochs: int, unit: str = "token") -> None:
    """Check that a run of `epochs` epochs reaches training without any thought, the longest being `longest` units.

    Raises:
        UserError: it does not; says how many epochs are needed.
    """
    needed = schedule.epochs_to_remove(longest)
    if needed is not None and needed <= epochs:
        return
    how = "never, because per_epoch is 0" if needed is None else f"only after {needed} epochs"
    raise UserError(
        f"curriculum: the longest thought has {longest} {unit}s and is removed whole {how}, but epochs is {epochs}; "
        "train longer, remove faster, or set partial: true"
    )


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A strength that changes linearly over the first steps of a run, for `Blur.ratio` and the like.

    first, last: strength at step 0, and from step `num_steps` on.
    num_steps:   optimizer steps it takes.

    Raises:
        UserError: fewer than 1 step, a strength that is not a number from 0.
    """

    first: float
    last: float
    num_steps: int

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"anneal: {name} must be a number from 0, got {getattr(self, name)}")
        if self.num_steps < 1:
            raise UserError(f"anneal: num_steps must be at least 1, got {self.num_steps}")

    def __call__(self, clock: Clock) -> float:
        way = min(clock.step / self.num_steps, 1.0)
        return (1.0 - way) * self.first + way * self.last
