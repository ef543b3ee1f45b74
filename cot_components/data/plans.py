"""Which rows meet in which optimizer step: planned from lengths alone, before any batch is made.

`Plans` is the sampler of the data loader and `Batches` its data set:
`DataLoader(batches, sampler=plans, batch_size=None)`. A plan says everything a batch depends on, so nothing has to be
told to workers, and a resumed run is `Plans(start_step=...)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cot_components.clock import Clock
from cot_components.errors import UserError


class Plan(NamedTuple):
    """One optimizer step as one process sees it.

    clock: when.
    micro_batches: row indices of each of this process's micro-batches. Every process has the same number of them; in
        the ragged last step of an epoch one may be empty.
    """

    clock: Clock
    micro_batches: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plans:
    """All optimizer steps of a run, in order: a pure function of (seed, epoch, lengths), never of a curriculum's stage.

    Each epoch draws `rows_per_epoch` rows (see `shares`), shuffles them, and cuts them into steps of
    `batch_size * gradient_accumulation_steps * world_size` rows; the last step of an epoch takes what is left. Inside a
    step rows of similar length share a micro-batch, which saves padding and changes no gradient.

    Args:
        lengths: tokens per row as encoded, int64 `[R]`.
        batch_size: rows per micro-batch and process.
        gradient_accumulation_steps: micro-batches per step and process.
        epochs: passes over the data.
        seed: seed of the shuffle.
        max_steps_per_epoch: cut every epoch short; None for all of it.
        shares: `(first_row, last_row, weight)` per source; each epoch draws `round(weight * (last_row - first_row))` of
            its rows. None: one source, every row once.
        start_step: steps already done.
        rank, world_size: which process this is, of how many.

    Raises:
        UserError: no rows, or a number that must be positive is not.
    """

    lengths: np.ndarray
    batch_size: int
    gradient_accumulation_steps: int = 1
    epochs: int = 1
    seed: int = 0
    max_steps_per_epoch: int | None = None
    shares: tuple[tuple[int, int, float], ...] | None = None
    start_step: int = 0
    rank: int = 0
    world_size: int = 1
    _order: dict[str, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # of the last epoch asked

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_steps_per_epoch is not None and self.max_steps_per_epoch < 1:
            raise UserError(f"max_steps_per_epoch must be at least 1 or null, got {self.max_steps_per_epoch}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")
        if self.rows_per_epoch == 0:
            raise UserError("there is no row to train on")

    @property
    def rows_per_epoch(self) -> int:
        return sum(count for _, _, count in self._draws)

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        steps = -(-self.rows_per_epoch // self.rows_per_step)
        return steps if self.max_steps_per_epoch is None else min(steps, self.max_steps_per_epoch)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: what schedules are drawn over."""
        return self.steps_per_epoch * self.epochs

    @property
    def _draws(self) -> list[tuple[int, int, int]]:
        shares = self.shares or ((0, len(self.lengths), 1.0),)
        return [(first, last, round(weight * (last - first))) for first, last, weight in shares]

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[Plan]:
        for step in range(self.start_step, self.total_steps):
            yield self.plan(step)

    def clock(self, step: int) -> Clock:
        """The time of one step."""
        return Clock(step // self.steps_per_epoch, step)

    def plan(self, step: int) -> Plan:
        """The plan of one step, whichever came before."""
        clock = self.clock(step)
        rows = self.rows_of(clock)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        num_micro_batches = -(-len(rows) // (self.batch_size * self.world_size))
        parts = np.array_split(rows, num_micro_batches * self.world_size)
        mine = parts[self.rank :: self.world_size]
        return Plan(clock, tuple(tuple(part.tolist()) for part in mine))

    def rows_of(self, clock: Clock) -> np.ndarray:
        """Row indices of one step over all processes, int64 `[rows_per_step]` or fewer: what a curriculum asks."""
        if self._order.get("epoch") != clock.epoch:
            self._order.update(epoch=clock.epoch, rows=self.epoch_order(clock.epoch))
        begin = (clock.step % self.steps_per_epoch) * self.rows_per_step
        return self._order["rows"][begin : begin + self.rows_per_step]

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Row indices in the order the epoch takes them, int64 `[rows_per_epoch]`."""
        random = np.random.default_rng([self.seed, epoch])
        drawn = []
        for first, last, count in self._draws:
            whole, rest = divmod(count, max(last - first, 1))
            drawn += [np.arange(first, last)] * whole + [first + random.permutation(last - first)[:rest]]
        return random.permutation(np.concatenate(drawn))
