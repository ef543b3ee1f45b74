"""Blurred thoughts (BT-SFT): part of the thought stays in context but loses its label.

Follows the released script of https://github.com/mkurman/blurred-thoughts-SFT (commit 763af42): each thought token
after the first five is ignored with probability `ratio`; both tags and the answer keep their labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cot_components.clock import Clock, below, draw_bits, row_keys
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.transforms.strength import Strength, check_seed, check_strength, strength_at


@dataclass(frozen=True)
class Blur:
    """Set the labels of a random part of the thought to `IGNORE`.

    The draw of a token depends on (seed, epoch, row id, counter) alone. Masks at a low ratio are subsets of those at a
    higher one.

    Args:
        ratio: probability that an eligible thought token (or span) is blurred, 0 to 1; or a function of the clock that
            returns it (annealing). 0 is plain SFT bit for bit.
        granularity: `token` draws each token independently, `span` draws runs of `span_length` tokens.
        span_length: tokens per span.
        keep_first: thought tokens at the start that are always supervised.
        redraw: `epoch` draws a new mask every epoch; `once` keeps the first (what the released script does by
            tokenising once).
        seed: seed of the masks.

    Raises:
        UserError: a setting out of range, including the ends of an `Anneal`; when called, a function's ratio out of
            range.
    """

    ratio: Strength = 0.2
    granularity: Literal["token", "span"] = "token"
    span_length: int = 8
    keep_first: int = 5
    redraw: Literal["epoch", "once"] = "epoch"
    seed: int = 0

    def __post_init__(self) -> None:
        check_strength("blur: ratio", self.ratio)
        if self.granularity not in ("token", "span"):
            raise UserError(f"blur: granularity must be 'token' or 'span', got {self.granularity!r}")
        if self.redraw not in ("epoch", "once"):
            raise UserError(f"blur: redraw must be 'epoch' or 'once', got {self.redraw!r}")
        if self.span_length < 1:
            raise UserError(f"blur: span_length must be at least 1, got {self.span_length}")
        if self.keep_first < 0:
            raise UserError(f"blur: keep_first must not be negative, got {self.keep_first}")
        check_seed("blur", self.seed)

    @property
    def needs_epoch(self) -> bool:
        """Whether the result changes over a run, which needs a data loader that knows the epoch."""
        return self.redraw == "epoch" or callable(self.ratio)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `labels`: blurred tokens get `IGNORE`. Their weights stay."""
        ratio = strength_at("blur: ratio", self.ratio, clock)
        if ratio == 0.0:
            return flat
        return flat.with_labels(np.where(self.mask(flat, clock, ratio), IGNORE, flat.labels))

    def mask(self, flat: Flat, clock: Clock, ratio: float) -> np.ndarray:
        """Which tokens are blurred, bool `[N]`."""
        keys = row_keys(self.seed, clock.epoch if self.redraw == "epoch" else 0, flat.ids)
        eligible = (flat.roles == Role.THOUGHT) & (flat.counters >= self.keep_first)
        counters = flat.counters[eligible]
        if self.granularity == "span":
            counters = (counters - self.keep_first) // self.span_length
        mask = np.zeros(len(flat.tokens), dtype=bool)
        mask[eligible] = below(draw_bits(keys[flat.row_of_token[eligible]], counters), ratio)
        return mask


@dataclass(frozen=True)
class Released:
    """BT-SFT exactly as its released script labels a row, for reproducing published runs.

    Ratio 0.2, single tokens, the first five kept, drawn once; and, by a slip of the script, the assistant header and
    one token before it are supervised (`header_tokens` + 1 tokens left of `<think>`).

    Args:
        ratio: see `Blur`; a number.
        header_tokens: tokens of the assistant header; 4 for Llama-3 (`<|start_header_id|> assistant <|end_header_id|>
            \\n\\n`).
        seed: see `Blur`.

    Raises:
        UserError: a setting out of range.
    """

    ratio: float = 0.2
    header_tokens: int = 4
    seed: int = 0
    needs_epoch = False

    def __post_init__(self) -> None:
        if self.header_tokens < 0:
            raise UserError(f"released: header_tokens must not be negative, got {self.header_tokens}")
        self._blur()

    def _blur(self) -> Blur:
        return Blur(ratio=self.ratio, redraw="once", seed=self.seed)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `labels`: blurred tokens get `IGNORE`, header tokens get their own id."""
        blurred = self._blur()(flat, clock)
        opens = np.flatnonzero(flat.roles == Role.THINK_OPEN)[::-1]
        first_open = np.full(len(flat.ids), -1, dtype=np.int64)
        first_open[flat.row_of_token[opens]] = opens  # reversed, so the first tag of a row is written last
        position, stop = np.arange(len(flat.tokens)), first_open[flat.row_of_token]
        header = (position >= stop - self.header_tokens - 1) & (position < stop)
        return blurred.with_labels(np.where(header, flat.tokens, blurred.labels))
