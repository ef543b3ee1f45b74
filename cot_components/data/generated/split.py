"""The split of generated data, and draws without repetition; shared by all generators.

The split depends on a row's content, not on its wording or the seed, so no training problem is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Literal, TypeVar

from cot_components.errors import UserError

Split = Literal["train", "held_out"]
Drawn = TypeVar("Drawn")

HELD_OUT_ONE_IN = 10
"""One in this many is held out."""
PATIENCE = 10_000
"""Consecutive draws without anything new after which a source counts as exhausted."""


def split_of_text(text: str) -> Split:
    """The split of the content that this text identifies."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0 else "train"


def new_draws(
    draw: Callable[[], Drawn],
    *,
    wanted: Callable[[Drawn], bool],
    name: Callable[[Drawn], Hashable],
    used_up: Callable[[int], str],
) -> Iterator[Drawn]:
    """Draws that are wanted and whose name has not occurred before.

    Lazy: the caller may use the same random generator between two draws.

    Raises:
        UserError: `PATIENCE` unusable draws in a row; the message is `used_up` of the number of draws so far.
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
