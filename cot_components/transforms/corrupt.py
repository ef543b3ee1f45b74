"""Masked thoughts (MFT, Chen et al. 2024, arXiv 2403.02178): the model reads a thought with some tokens replaced, and
learns all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from cot_components.clock import Clock, below, draw_bits, pick, redrawn, row_keys
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError
from cot_components.roles import Role
from cot_components.transforms.strength import Strength, check_seed, check_strength, strength_at

_WHETHER, _WHICH = 2, 3
"""Salts: the two draws are independent of each other and of `Blur` with the same seed."""


@dataclass(frozen=True, kw_only=True)
class Corrupt:
    """Replace some thought tokens in the model's input; every label stays the original token.

    The released script also masks the answer, and on GSM8K raises the ratio from 0 to 0.4 over the first two thirds of
    training (`Anneal`). Tokens masked at a low ratio are also masked at a higher one.

    Args:
        ratio: probability that a thought token is replaced, 0 to 1; or a function of the clock that returns it.
        by: `pad`, the tokenizer's padding; `random`, any id of its vocabulary; or an id, such as that of a mask token.
        tokenizer: needed by `pad` and `random`; `${tokenizer}` in a config.
        seed: of the draws; every epoch draws new ones.

    Raises:
        UserError: a setting out of range; a tokenizer without `pad_id` or `vocab_size`.
    """

    ratio: Strength = 0.4
    by: Literal["pad", "random"] | int = "pad"
    tokenizer: Any = None
    seed: int = 0

    needs_epoch = True

    def __post_init__(self) -> None:
        check_strength("corrupt: ratio", self.ratio)
        check_seed("corrupt", self.seed)
        if isinstance(self.by, int):
            if self.by < 0:
                raise UserError(f"corrupt: by must be 'pad', 'random' or the id of a token, got {self.by}")
            return
        needed = {"pad": "pad_id", "random": "vocab_size"}.get(self.by)
        if needed is None:
            raise UserError(f"corrupt: by must be 'pad', 'random' or the id of a token, got {self.by!r}")
        if getattr(self.tokenizer, needed, None) is None:
            raise UserError(f"corrupt: by: {self.by} needs a tokenizer (${{tokenizer}}) with a {needed}")

    @property
    def largest_id(self) -> int:
        """The largest token id that the model may have to read."""
        if isinstance(self.by, int):
            return self.by
        return int(self.tokenizer.pad_id if self.by == "pad" else self.tokenizer.vocab_size - 1)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Set `inputs`, int64 `[N]`; tokens, labels and weights are unchanged."""
        thought = np.flatnonzero(flat.roles == Role.THOUGHT)
        keys = row_keys(self.seed, clock.epoch, flat.ids)
        bits = draw_bits(keys[flat.row_of_token[thought]], flat.counters[thought])
        masked = below(redrawn(bits, _WHETHER), strength_at("corrupt: ratio", self.ratio, clock))
        if not masked.any():
            return flat
        inputs = flat.read.copy()
        by_chance = self.by == "random"
        inputs[thought[masked]] = (
            pick(redrawn(bits, _WHICH)[masked], self.largest_id + 1) if by_chance else self.largest_id
        )
        return replace(flat, inputs=inputs)
