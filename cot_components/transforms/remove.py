"""Stepwise internalisation (ICoT-SI, arXiv 2405.14838): more and more thought tokens are removed from the sequence.

Follows the released script of https://github.com/da03/Internalize_CoT_Step_by_Step (commit c2e3891). The schedule is in
`cot_components.schedules`; `cot_components.curriculum` combines the two for a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat, Ragged, index_in_row
from cot_components.errors import UserError
from cot_components.pace import MeasuredSchedule
from cot_components.roles import Role
from cot_components.schedules import MicroBatchTick, Schedule, smoothing_offsets
from cot_components.transforms.strength import check_seed

Side = Literal["left", "right"]
Unit = Literal["token", "step"]


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove the first (or last) units of every row's thought from the sequence: as many as the schedule says, plus the
    row's smoothing offset.

    One vectorised operation on the flat batch. At stage 0 without an offset it returns its input.

    Args:
        schedule: the stage as a function of the clock.
        side: `left` removes from the start of the thought, `right` from its end.
        unit: thought tokens, or whole steps.
        step_ends: with `unit: step`, ids of the tokens that end a step (and belong to it); the last step needs none.
        smoothing: lambda of the offsets, above 0, infinity for none; there are no offsets during the schedule's
            pretraining.
        keep_position: remaining tokens keep their position ids. As in the released script, the token right before the
            gap does not: it takes the last removed id. When a model answers, the length of the removed thought is
            unknown, so generation uses other positions; a run that evaluates answers is therefore refused.
        seed: of the offsets.

    Raises:
        UserError: a setting out of range, or `unit: step` without the tokens that end a step.
    """

    schedule: Schedule | MeasuredSchedule
    side: Side = "left"
    unit: Unit = "token"
    step_ends: tuple[int, ...] = ()
    smoothing: float = 4.0
    keep_position: bool = False
    seed: int = 0

    needs_epoch = True
    changes_lengths = True
    removes_tokens = True

    @property
    def counts_micro_batches(self) -> bool:
        """Whether the result depends on how a step is divided into micro-batches."""
        return isinstance(self.schedule.tick, MicroBatchTick)

    def __post_init__(self) -> None:
        if self.side not in ("left", "right"):
            raise UserError(f"curriculum: side must be 'left' or 'right', got {self.side!r}")
        if self.unit not in ("token", "step"):
            raise UserError(f"curriculum: unit must be 'token' or 'step', got {self.unit!r}")
        if self.unit == "step" and not self.step_ends:
            raise UserError("curriculum: unit is 'step', but the data set names no token that ends a step")
        if not self.smoothing > 0:
            raise UserError(f"curriculum: smoothing must be positive (.inf for none), got {self.smoothing}")
        check_seed("curriculum", self.seed)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change `lengths`, and set `positions` with `keep_position`; tokens that stay keep labels and weights."""
        amounts = self.amounts(flat.ids, clock)
        if not amounts.any():
            return flat
        unit_index = self.unit_index(flat)
        if self.side == "left":
            kept_units = unit_index >= np.repeat(amounts, flat.lengths)
        else:
            kept_units = unit_index < np.repeat(units_per_row(unit_index, flat.row_start) - amounts, flat.lengths)
        keep = kept_units | (flat.roles != Role.THOUGHT)
        if self.keep_position:
            flat = replace(flat, positions=_own_positions(flat))
        shorter = keep_tokens(flat, keep)
        return replace(shorter, positions=_close_gaps(shorter)) if self.keep_position else shorter

    def amounts(self, ids: np.ndarray, clock: Clock) -> np.ndarray:
        """Units to remove from each row, int64 `[B]`; may exceed the units the row has."""
        stage = np.full(len(ids), self.schedule.stage(clock), dtype=np.int64)
        if not self.schedule.removes(clock):
            return stage
        return stage + smoothing_offsets(ids, clock.epoch, smoothing=self.smoothing, seed=self.seed)

    def without_offsets(self) -> Remove:
        """The same removal with every row at the scheduled stage: what validation and evaluation use."""
        return replace(self, smoothing=float("inf"))

    def unit_index(self, rows: Ragged) -> np.ndarray:
        """For each thought token, the index of its unit within the row, `[N]`; -1 outside the thought."""
        if self.unit == "token":
            return rows.counters
        thought = rows.roles == Role.THOUGHT
        ended = np.concatenate([[0], np.cumsum(thought & np.isin(rows.tokens, self.step_ends))])
        before_row = np.repeat(ended[rows.row_start[:-1]], np.diff(rows.row_start))
        return np.where(thought, ended[:-1] - before_row, -1)

    def units(self, rows: Ragged) -> np.ndarray:
        """Units in the thought of each row, int64 `[B]`."""
        return units_per_row(self.unit_index(rows), rows.row_start)


def units_per_row(unit_index: np.ndarray, row_start: np.ndarray) -> np.ndarray:
    """Units in each row's thought, int64 `[B]`, from the unit index of each token `[N]` (-1 outside the thought)."""
    units = np.zeros(len(row_start) - 1, dtype=np.int64)
    filled = row_start[:-1] < row_start[1:]  # reduceat cannot take an empty row
    if filled.any():
        units[filled] = np.maximum.reduceat(unit_index, row_start[:-1][filled]) + 1
    return units


def keep_tokens(flat: Flat, keep: np.ndarray) -> Flat:
    """The batch with only the tokens where `keep` (bool `[N]`) holds; no row is dropped, but rows may become empty."""
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return Flat(
        tokens=flat.tokens[keep],
        roles=flat.roles[keep],
        counters=flat.counters[keep],
        labels=flat.labels[keep],
        weights=flat.weights[keep],
        row_start=kept_before[flat.row_start],
        ids=flat.ids,
        positions=None if flat.positions is None else flat.positions[keep],
        groups=None if flat.groups is None else flat.groups[keep],
        inputs=None if flat.inputs is None else flat.inputs[keep],
    )


def _own_positions(flat: Flat) -> np.ndarray:
    assert flat.positions is None, "one transform decides the positions"
    return index_in_row(flat)


def _close_gaps(flat: Flat) -> np.ndarray:
    """Position ids where a token before a gap takes the id right before the next token's."""
    positions = flat.positions
    assert positions is not None
    closed = positions.copy()
    same_row = np.ones(max(len(positions) - 1, 0), dtype=bool)
    starts = flat.row_start[1:-1]
    same_row[starts[(starts > 0) & (starts < len(positions))] - 1] = False
    closed[:-1][same_row] = positions[1:][same_row] - 1
    return closed
