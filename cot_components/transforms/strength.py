"""The strength of a transform: a number, or a function of the clock that returns one (`schedules.Anneal`)."""

from __future__ import annotations

import math
from collections.abc import Callable

from cot_components.clock import Clock
from cot_components.errors import UserError
from cot_components.schedules import Anneal

Strength = float | Callable[[Clock], float]


def check_strength(name: str, strength: Strength, *, most: float = 1.0) -> None:
    """Check that a number, or both ends of an `Anneal`, lie between 0 and `most`; other functions are checked when
    called.

    Raises:
        UserError: one is out of range.
    """
    for value in (strength.first, strength.last) if isinstance(strength, Anneal) else (strength,):
        if not callable(value) and not 0.0 <= value <= most:
            raise UserError(f"{name} must {_range(most)}, got {value}")


def strength_at(name: str, strength: Strength, clock: Clock, *, most: float = 1.0) -> float:
    """The strength at this time.

    Raises:
        UserError: a function returned a strength out of range.
    """
    value = strength(clock) if callable(strength) else strength
    if not 0.0 <= value <= most:
        raise UserError(f"{name} must {_range(most)}, at step {clock.step} it is {value}")
    return value


def _range(most: float) -> str:
    return "be a number from 0" if most == math.inf else f"lie in [0, {most:g}]"


def check_seed(name: str, seed: int) -> None:
    """Raises UserError for a seed that is negative or has more than 63 bits."""
    if not 0 <= seed < 2**63:
        raise UserError(f"{name}: seed must lie between 0 and 2**63, got {seed}")
