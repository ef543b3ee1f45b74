"""Which rows go into which optimizer step, planned from lengths alone before any batch is made.

`Plans` is the sampler of the data loader and `Batches` its data set:
`DataLoader(batches, sampler=plans, batch_size=None)`. A plan holds everything a batch depends on, so workers need no
other state, and a resumed run is `Plans(start_step=...)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.packing import pack_rows
from cot_components.errors import UserError

SHOWN_EPOCHS = 3


class Plan(NamedTuple):
    """One optimizer step as one process sees it.

    clock: when.
    micro_batches: row indices of each of this process's micro-batches. Every process has the same number of them; in
        the ragged last step of an epoch some may be empty.
    """

    clock: Clock
    micro_batches: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plans:
    """All optimizer steps of a run, in order: a pure function of (seed, epoch, lengths), never of a curriculum's stage.

    Each epoch draws `rows_per_epoch` rows (see `shares`) and shuffles them. Then

    - unpacked, they are cut into steps of `batch_size * gradient_accumulation_steps * world_size` rows. Inside a step
      rows of similar length share a micro-batch, which saves padding and changes no gradient.
    - packed, they are grouped into micro-batches of `packed_tokens` tokens (see `pack_rows`), and a step is
      `gradient_accumulation_steps * world_size` of those.

    The last step of an epoch takes the rest.

    Args:
        lengths: tokens per row as encoded, int64 `[R]`.
        batch_size: rows per micro-batch and process; unused when packed.
        packed_tokens: tokens per micro-batch and process, when packed; None pads rows instead.
        gradient_accumulation_steps: micro-batches per step and process.
        epochs: passes over the data.
        seed: seed of the shuffle.
        max_steps_per_epoch: cut every epoch short; None for all of it.
        shares: `(first_row, last_row, weight)` per source; each epoch draws `round(weight * (last_row - first_row))` of
            its rows. None: one source, every row once.
        start_step: steps already done.
        rank, world_size: which process this is, of how many.

    Raises:
        UserError: no rows, a number that must be positive is not, or a row is longer than `packed_tokens`.
    """

    lengths: np.ndarray
    batch_size: int
    packed_tokens: int | None = None
    gradient_accumulation_steps: int = 1
    epochs: int = 1
    seed: int = 0
    max_steps_per_epoch: int | None = None
    shares: tuple[tuple[int, int, float], ...] | None = None
    start_step: int = 0
    rank: int = 0
    world_size: int = 1
    _latest: dict[str, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # the epoch asked for last

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_steps_per_epoch", "packed_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1 or null, got {value}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")
        if self.rows_per_epoch == 0:
            raise UserError("there is no row to train on")
        for first, last, weight in self.shares or ():
            if last > first and round(weight * (last - first)) == 0:
                raise UserError(f"a source of {last - first} rows with weight {weight:g} has no row in any epoch")
        if self.packed_tokens is not None and self.lengths.max() > self.packed_tokens:
            raise UserError(
                f"packed_tokens is {self.packed_tokens}, but the longest row has {self.lengths.max()} tokens, and rows "
                "are never cut; raise packed_tokens, or set dataset.max_seq_len"
            )

    @property
    def rows_per_epoch(self) -> int:
        return sum(count for _, _, count in self._draws)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of every epoch; packed epochs differ from one another."""
        assert self.packed_tokens is None
        return int(self._steps_before[1])

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, the length of every schedule."""
        return int(self._steps_before[-1])

    @property
    def _micro_batches_per_step(self) -> int:
        return self.gradient_accumulation_steps * self.world_size

    @property
    def _draws(self) -> list[tuple[int, int, int]]:
        shares = self.shares or ((0, len(self.lengths), 1.0),)
        return [(first, last, round(weight * (last - first))) for first, last, weight in shares]

    @cached_property
    def _steps_before(self) -> np.ndarray:
        """Steps before each epoch and before the end, int64 `[epochs + 1]`; packed, every epoch is planned for it."""
        if self.packed_tokens is None:
            steps = [-(-self.rows_per_epoch // (self.batch_size * self._micro_batches_per_step))] * self.epochs
        else:
            steps = [-(-len(self._epoch(epoch)) // self._micro_batches_per_step) for epoch in range(self.epochs)]
        most = max(steps) if self.max_steps_per_epoch is None else self.max_steps_per_epoch
        return np.concatenate([[0], np.minimum(steps, most).cumsum()])

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[Plan]:
        for step in range(self.start_step, self.total_steps):
            yield self.plan(step)

    def clock(self, step: int) -> Clock:
        """The time of one step."""
        return Clock(int(np.searchsorted(self._steps_before, step, side="right")) - 1, step)

    def first_step(self, epoch: int) -> int:
        """The step an epoch begins with."""
        return int(self._steps_before[epoch])

    def epoch_clocks(self, epochs: Sequence[int] | None = None) -> dict[str, Clock]:
        """The start of each of these epochs, by name (None: the first three), for previews.

        Raises:
            UserError: an epoch that the run does not have.
        """
        chosen = range(min(SHOWN_EPOCHS, self.epochs)) if epochs is None else epochs
        for epoch in chosen:
            if not 0 <= epoch < self.epochs:
                raise UserError(f"epochs: this run has no epoch {epoch}; its epochs are 0 to {self.epochs - 1}")
        return {f"epoch {epoch}": self.clock(self.first_step(epoch)) for epoch in chosen}

    def plan(self, step: int) -> Plan:
        """The plan of one step, independent of the order of calls."""
        clock = self.clock(step)
        parts = self._parts(clock)
        parts += [np.empty(0, np.int64)] * (-len(parts) % self.world_size)
        return Plan(clock, tuple(tuple(part.tolist()) for part in parts[self.rank :: self.world_size]))

    def rows_of(self, clock: Clock) -> np.ndarray:
        """Row indices of one step over all processes, int64, for curricula."""
        taken = self._taken(clock)
        return taken if self.packed_tokens is None else np.concatenate(taken)

    def fill(self, *, steps: int = 256) -> float:
        """Share of a micro-batch's positions that hold a token, over the first `steps` steps of the run; the rest is
        padding.
        """
        parts = [part for step in range(min(steps, self.total_steps)) for part in self._parts(self.clock(step))]
        widths = [self.packed_tokens or len(part) * int(self.lengths[part].max(initial=1)) for part in parts]
        return sum(int(self.lengths[part].sum()) for part in parts) / max(sum(widths), 1)

    def summary(self) -> str:
        """Steps, their size and their fill, for the first line of a run."""
        return f"{self.total_steps} steps of {self.step_size}, {self.fill():.1%} of the positions hold a token"

    @property
    def step_size(self) -> str:
        """What one step takes, over all processes."""
        if self.packed_tokens is None:
            return f"{self.batch_size * self._micro_batches_per_step} rows"
        return f"{self._micro_batches_per_step} x {self.packed_tokens} tokens, packed"

    def _parts(self, clock: Clock) -> list[np.ndarray]:
        """Row indices of the micro-batches of all processes."""
        taken = self._taken(clock)
        if self.packed_tokens is not None:
            return taken
        rows = taken[np.argsort(self.lengths[taken], kind="stable")]
        num_parts = -(-len(rows) // (self.batch_size * self.world_size)) * self.world_size
        return np.array_split(rows, num_parts)

    def _taken(self, clock: Clock) -> Any:
        """What the step takes of its epoch: rows, or packs."""
        size = self._micro_batches_per_step * (self.batch_size if self.packed_tokens is None else 1)
        begin = (clock.step - int(self._steps_before[clock.epoch])) * size
        return self._epoch(clock.epoch)[begin : begin + size]

    def _epoch(self, epoch: int) -> Any:
        """The rows of an epoch in order, or its packs; cached until another epoch is requested."""
        if self._latest.get("epoch") != epoch:
            order: Any = self.epoch_order(epoch)
            if self.packed_tokens is not None:
                random = np.random.default_rng([self.seed, epoch, 1])
                order = pack_rows(order, self.lengths, self.packed_tokens, random)
            self._latest.update(epoch=epoch, order=order)
        return self._latest["order"]

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Row indices in the order the epoch takes them, int64 `[rows_per_epoch]`."""
        random = np.random.default_rng([self.seed, epoch])
        drawn = []
        for first, last, count in self._draws:
            whole, rest = divmod(count, max(last - first, 1))
            drawn += [np.arange(first, last)] * whole + [first + random.permutation(last - first)[:rest]]
        return random.permutation(np.concatenate(drawn))
