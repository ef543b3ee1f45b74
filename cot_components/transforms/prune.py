"""Remove the least informative steps or tokens of a thought first: in the order of a score, not by position.

Low-entropy steps are removed first in arXiv 2508.03346 (Li et al. 2025), tokens of low importance in TokenSkip (arXiv
2502.12067, Xia et al. 2025). The scores are columns of `cot score`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cot_components.clock import Clock, draw_bits, redrawn, row_keys
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.scores import open_scores
from cot_components.errors import UserError
from cot_components.roles import Role
from cot_components.transforms.remove import keep_tokens
from cot_components.transforms.strength import Strength, check_seed, check_strength, strength_at

_SALT = 1


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove the lowest- (or highest-) scoring units of every thought from the sequence; the others keep their order.
    What is removed at one strength is also removed at every higher one.

    Args:
        ratio: share of a thought's units to remove, 0 to 1; or a function of the clock that returns it (`Anneal`).
        budget: instead of `ratio`: remove units until at most this many thought tokens are left; or such a function.
        order: `lowest` or `highest` score first; `random` needs no scores and is drawn once.
        scores: folder that `cot score` has filled.
        column: `entropy`, `nll`, `rank`, `top_probability`, or any other column in the folder.
        unit: thought tokens, or whole steps, whose score is the sum over their tokens.
        step_end: a token whose text holds this ends a step.
        tokenizer: with `unit: step`, anything with `decode(ids) -> text`; `${tokenizer}` in a config.
        seed: of the random order.

    Raises:
        UserError: a setting out of range; neither or both of `ratio` and `budget`; an order by score without scores; no
            such column; steps without a tokenizer; when called, a row that was not scored, or was scored with other
            tokens.
    """

    ratio: Strength | None = None
    budget: Strength | None = None
    order: Literal["lowest", "highest", "random"] = "lowest"
    scores: str | None = None
    column: str = "entropy"
    unit: Literal["token", "step"] = "token"
    step_end: str = "\n"
    tokenizer: Any = None
    seed: int = 0

    changes_lengths = True
    removes_tokens = True

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.budget is None):
            raise UserError("prune: set one of ratio and budget")
        if self.ratio is not None:
            check_strength("prune: ratio", self.ratio)
        if self.budget is not None:
            check_strength("prune: budget", self.budget, most=math.inf)
        if self.order not in ("lowest", "highest", "random"):
            raise UserError(f"prune: order must be 'lowest', 'highest' or 'random', got {self.order!r}")
        if self.unit not in ("token", "step"):
            raise UserError(f"prune: unit must be 'token' or 'step', got {self.unit!r}")
        if self.unit == "step" and not (self.step_end and hasattr(self.tokenizer, "decode")):
            raise UserError("prune: unit: step needs a step_end and a tokenizer (${tokenizer}) that knows its text")
        check_seed("prune", self.seed)
        if self.needs_whole_rows:
            if self.scores is None:
                raise UserError(f"prune: order: {self.order} needs scores, a folder that `cot score` has filled")
            open_scores(self.scores).column(self.column)

    @property
    def needs_epoch(self) -> bool:
        """Whether the result changes over a run."""
        return callable(self.ratio) or callable(self.budget)

    @property
    def needs_whole_rows(self) -> bool:
        """Whether the transform must see rows as they were encoded."""
        return self.order != "random"

    def fingerprint(self) -> str:
        """What must not change when a run is resumed: the scores."""
        return "" if self.scores is None else open_scores(self.scores).fingerprint(self.column)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `lengths`; tokens that stay keep labels and weights."""
        thought = np.flatnonzero(flat.roles == Role.THOUGHT)
        row = flat.row_of_token[thought]
        unit = self._units(flat.tokens[thought], row)
        first = np.flatnonzero(np.diff(unit, prepend=-1))  # of each unit, among the thought tokens
        key = self._keys(flat, thought, row, unit, first)
        sizes, row = np.bincount(unit, minlength=len(first)), row[first]
        order = np.lexsort((np.arange(len(first)), key, row))
        gone = np.zeros(len(first), dtype=bool)
        gone[order] = self._leaves(sizes[order], row[order], clock)
        if not gone.any():
            return flat
        keep = np.ones(len(flat.tokens), dtype=bool)
        keep[thought] = ~gone[unit]
        return keep_tokens(flat, keep)

    def _units(self, tokens: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Number of the unit of each thought token, counted over all rows, `[n]`."""
        if self.unit == "token":
            return np.arange(len(tokens))
        ids, place = np.unique(tokens, return_inverse=True)
        ends = np.array([self.step_end in self.tokenizer.decode([i]) for i in ids.tolist()], dtype=bool)[place]
        begins = np.diff(row, prepend=-1) != 0
        begins[1:] |= ends[:-1]
        return np.cumsum(begins) - 1

    def _keys(
        self, flat: Flat, thought: np.ndarray, row: np.ndarray, unit: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """Sort key of each unit, lowest removed first, `[U]`."""
        if not self.needs_whole_rows:
            keys = row_keys(self.seed, 0, flat.ids)[row[first]]
            return redrawn(draw_bits(keys, flat.counters[thought[first]]), _SALT)
        assert self.scores is not None
        (scores,) = open_scores(self.scores).gather(flat, self.column)
        summed = np.bincount(unit, weights=scores[thought], minlength=len(first))
        return summed if self.order == "lowest" else -summed

    def _leaves(self, sizes: np.ndarray, row: np.ndarray, clock: Clock) -> np.ndarray:
        """Which units are removed, bool `[U]`, from their token counts and rows, both in order of removal."""
        begins = np.diff(row, prepend=-1) != 0
        start = np.flatnonzero(begins)  # of each row with a thought
        of_row = np.cumsum(begins) - 1
        if self.ratio is not None:
            units = np.diff(np.append(start, len(row)))[of_row]
            share = strength_at("prune: ratio", self.ratio, clock)
            return np.arange(len(row)) - start[of_row] < np.rint(share * units)
        assert self.budget is not None
        before = np.cumsum(sizes) - sizes
        total = np.bincount(of_row, weights=sizes, minlength=len(start))[of_row]
        left = total - (before - before[start][of_row])
        return left > strength_at("prune: budget", self.budget, clock, most=math.inf)
