"""Python's JSON decoder without what Python alone takes for JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from cot_components.data.errors import RowError


def strict_decoder(
    fault: Callable[[str], RowError], *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> json.JSONDecoder:
    """A decoder that raises `fault("NaN is not JSON")` for NaN, and so for the infinities.

    Args:
        fault: makes the error from what is wrong.
        pairs: what becomes of an object's keys and values; None is a dict of them, the last of equal keys.
    """

    def refuse(name: str) -> NoReturn:
        raise fault(f"{name} is not JSON")

    return json.JSONDecoder(parse_constant=refuse, object_pairs_hook=pairs)
