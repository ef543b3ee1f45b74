"""Errors whose message is written for the person who can fix them."""

import math

GET_IT = "create or download it first; see the config's header"
"""What to do about a model folder that a config names but that does not exist."""


class UserError(ValueError):
    """Bad input: one clear sentence naming file and line, key or value. Recipes print it without a traceback and exit
    with code 2, and IPython shows it alone.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"error: {self}"]


def require(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Check that a setting is a finite number from `low` to `high`.

    Args:
        name: its name in the error.
        value: what was given.
        low, high: the range, ends included; an infinite `high` is no upper limit.
        above: refuse `low` itself, too.

    Raises:
        UserError: not a number, NaN, infinite or out of range; names the setting, the range and the value.
    """
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    if is_number and value <= high and (value > low if above else value >= low):
        return
    least = f"above {low:g}" if above else f"at least {low:g}"
    most = f" and at most {high:g}" if math.isfinite(high) else ""
    raise UserError(f"{name} must be {least}{most}, got {value!r}")
