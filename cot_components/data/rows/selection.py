"""Row selection: which rows are trained on and with what weight, decided once, before any step is planned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cot_components.data.rows.row_cache import select_mapped
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError

SHOWN_IDS = 3


@dataclass(frozen=True)
class Selection:
    """A selector's result for `B` rows.

    left_out: reason -> rows left out for it, bool `[B]`; a row with several reasons counts under the first
    factors:  float32 `[B]`, what the weights of each row's tokens are multiplied by; None for 1
    """

    left_out: Mapping[str, np.ndarray] = field(default_factory=dict)
    factors: np.ndarray | None = None


Selector = Callable[[Rows], Selection]
"""A pure function of encoded rows; anything else it knows about a row, it looks up by the row's id."""


class Choice(NamedTuple):
    """What one selector did: its name, the number of rows it was given, ids of those it left out by reason, factors of
    the rest."""

    name: str
    given: int
    left_out: Mapping[str, np.ndarray]
    factors: np.ndarray | None

    def summary(self) -> str:
        """One line: rows kept, rows left out by reason with the first of them, the range of the factors."""
        gone = sum(map(len, self.left_out.values()))
        said = [f"select.{self.name} keeps {self.given - gone:,} of {self.given:,} rows"]
        for reason, ids in self.left_out.items():
            if len(ids):
                more = ", ..." if len(ids) > SHOWN_IDS else ""
                said.append(f"{len(ids):,} left out: {reason} (row {', '.join(map(str, ids[:SHOWN_IDS]))}{more})")
        if self.factors is not None and len(self.factors):
            low, middle, high = np.quantile(self.factors, [0.0, 0.5, 1.0])
            said.append(f"weights {low:.3g} to {high:.3g}, median {middle:.3g}")
        return ", ".join(said)


def select_rows(rows: Rows, selectors: Mapping[str, Selector]) -> tuple[np.ndarray, Rows, tuple[Choice, ...]]:
    """Let each selector, in order, choose from the rows the previous ones kept.

    Returns:
        Indices of the rows that are kept, int64 ascending; these rows, their weights multiplied by all factors; and
        what each selector did. Kept rows keep their ids, so random draws for them do not change.

    Raises:
        UserError: a selector keeps nothing or fails; names it.
    """
    kept, factors, choices = np.arange(len(rows)), np.ones(len(rows), dtype=np.float32), []
    for name, selector in selectors.items():
        try:
            found = selector(rows)
        except UserError as error:
            raise UserError(f"dataset.select.{name}: {error}") from error
        _refuse_misfit(name, found, len(rows))
        stays, left_out = np.ones(len(rows), dtype=bool), {}
        for reason, leaves in found.left_out.items():
            left_out[reason] = np.asarray(rows.ids)[leaves & stays]
            stays &= ~leaves
        if not stays.any():
            reasons = "; ".join(f"{len(ids):,}: {reason}" for reason, ids in left_out.items() if len(ids))
            raise UserError(
                f"dataset.select.{name} keeps none of {len(rows):,} rows ({reasons or 'it was given none'})"
            )
        chosen = np.flatnonzero(stays)
        weights = None if found.factors is None else found.factors[chosen].astype(np.float32)
        choices.append(Choice(name, len(rows), left_out, weights))
        factors = factors[chosen] if weights is None else factors[chosen] * weights
        if not stays.all():
            rows, kept = select_mapped(rows, chosen), kept[chosen]
    if any(choice.factors is not None for choice in choices):
        rows = replace(rows, weights=rows.weights * np.repeat(factors, rows.lengths))
    return kept, rows, tuple(choices)


def _refuse_misfit(name: str, found: object, num_rows: int) -> None:
    """Raises UserError unless this is a selection of so many rows; a user's own function may return anything."""
    if isinstance(found, Selection):
        factors = np.ones(num_rows) if found.factors is None else found.factors
        sound = factors.shape == (num_rows,) and bool((np.isfinite(factors) & (factors >= 0)).all())
        if sound and all(mask.shape == (num_rows,) and mask.dtype == bool for mask in found.left_out.values()):
            return
    raise UserError(
        f"dataset.select.{name} must return a Selection of {num_rows:,} rows: one bool per row for every reason, and "
        "factors, if any, that are finite and not negative"
    )


def selection_hash(choices: Iterable[Choice]) -> str:
    """sha256 over the rows left out and the factors of the others, which must not change when a run is resumed."""
    digest = hashlib.sha256()
    for choice in choices:
        gone = np.sort(np.concatenate([np.empty(0, np.int64), *choice.left_out.values()]))
        for values in (gone, np.empty(0) if choice.factors is None else choice.factors):
            digest.update(f"{choice.given} {len(values)} ".encode() + np.ascontiguousarray(values).data)
    return digest.hexdigest()
