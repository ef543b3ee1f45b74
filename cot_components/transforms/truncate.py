"""Thoughts that end early: the model learns to answer after a thought of any length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cot_components.clock import Clock, below, draw_bits, pick, row_keys
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.transforms.remove import keep_tokens
from cot_components.transforms.strength import Strength, check_seed, check_strength, strength_at

_BUDGET, _WHETHER = -3, -4
"""Counters for a row's draws, used by no token and not by `schedules.OFFSET_COUNTER`."""


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Cut each thought after a random number of tokens, drawn again every epoch. After a cut `think_close` loses its
    label, because its place is arbitrary; the answer keeps its labels. This prepares a model for
    `evaluation.max_thought_tokens`, which cuts thoughts in the same way.

    Args:
        at_least, at_most: the budget in thought tokens, drawn uniformly from this range, ends included; shorter
            thoughts are left alone.
        ratio: probability that a thought is cut at all, 0 to 1; or a function of the clock that returns it (`Anneal`).
        seed: of the draws.

    Raises:
        UserError: a setting out of range.
    """

    at_least: int
    at_most: int
    ratio: Strength = 1.0
    seed: int = 0

    needs_epoch = True
    changes_lengths = True
    removes_tokens = True

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= self.at_most:
            raise UserError(
                f"truncate: at_least must be a number from 0 to at_most, got {self.at_least} and {self.at_most}"
            )
        check_strength("truncate: ratio", self.ratio)
        check_seed("truncate", self.seed)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change `lengths`, and `labels` of close tags after a cut."""
        thought = flat.roles == Role.THOUGHT
        gone = thought & (_number_in_row(thought, flat) > np.repeat(self.budgets(flat, clock), flat.lengths))
        if not gone.any():
            return flat
        arbitrary = (flat.roles == Role.THINK_CLOSE) & (_number_in_row(gone, flat) > 0)
        return keep_tokens(flat.with_labels(np.where(arbitrary, IGNORE, flat.labels)), ~gone)

    def budgets(self, flat: Flat, clock: Clock) -> np.ndarray:
        """Thought tokens that each row may keep, int64 `[B]`."""
        keys = row_keys(self.seed, clock.epoch, flat.ids)
        drawn = pick(draw_bits(keys, np.full(len(keys), _BUDGET)), self.at_most - self.at_least + 1)
        ratio = strength_at("truncate: ratio", self.ratio, clock)
        cut = below(draw_bits(keys, np.full(len(keys), _WHETHER)), ratio)
        return np.where(cut, self.at_least + drawn, len(flat.tokens))


def _number_in_row(chosen: np.ndarray, flat: Flat) -> np.ndarray:
    """Number of chosen tokens in the row up to and including each token, int64 `[N]`."""
    total = np.concatenate([[0], np.cumsum(chosen)])
    return total[1:] - np.repeat(total[flat.row_start[:-1]], flat.lengths)
