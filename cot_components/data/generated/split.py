"""What generated data is held out, and draws that bring something new: the same for every kind of it.

The split goes by what decides a row, whatever its wording and the seed, so nothing that was trained on comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Literal, TypeVar

from cot_components.errors import UserError

Split = Literal["train", "held_out"]
Drawn = TypeVar("Drawn")

HELD_OUT_ONE_IN = 10
"""One in so many is held out."""
PATIENCE = 10_000
"""Draws in a row that bring nothing new before what can be drawn counts as used up."""


def split_of_text(text: str) -> Split:
    """The split of what this text spells out."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0 else "train"


def new_draws(
    draw: Callable[[], Drawn],
    *,
    wanted: Callable[[Drawn], bool],
    name: Callable[[Drawn], Hashable],
    used_up: Callable[[int], str],
) -> Iterator[Drawn]:
    """Wanted draws, none with a name that came before.

    The next is drawn only when it is asked for: what the caller draws in between may use the same generator.

    Raises:
        UserError: `PATIENCE` others in a row; says what `used_up` says of the number of draws so far.
    """
    seen: set[Hashable] = set()
    misses = 0
    while misses < PATIENCE:
        drawn = draw()
        if not wanted(drawn) or name(drawn) in seen:
            misses += 1
            continue
        misses = 0
        seen.add(name(drawn))
        yield drawn
    raise UserError(used_up(len(seen)))
