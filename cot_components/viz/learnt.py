"""What was learnt, token by token: the losses of a few held-out rows in the first and last evaluation of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.token_losses import PieceLoss
from cot_components.roles import Role
from cot_components.viz.visible import visible

HARDEST = 8


class Cell(NamedTuple):
    """A piece of a row, safe to display. `before`, `after`: its loss in nats, None if it was not predicted."""

    text: str
    role: str
    before: float | None
    after: float | None


class RoleChange(NamedTuple):
    """Mean losses, in nats, over the `pieces` of a role that both evaluations predicted."""

    role: str
    pieces: int
    before: float
    after: float


class Learnt(NamedTuple):
    """Rows by id, and a summary of their losses.

    scale: loss in nats that gets the full tint; the same for before, after and the change
    roles: mean losses by role
    hardest: row id and piece of the highest losses after training
    """

    rows: dict[int, list[Cell]]
    scale: float
    roles: list[RoleChange]
    hardest: list[tuple[int, Cell]]

    def tint(self, nats: float | None) -> float:
        """Share of the full tint, 0 to 1."""
        return 0.0 if nats is None else round(min(1.0, abs(nats) / self.scale), 2)


def learnt(first: Evaluation, last: Evaluation) -> Learnt | None:
    """The rows that both evaluations scored; None if there are none."""
    before = {row.row_id: row.pieces for row in first.token_losses}
    rows = {
        row.row_id: _cells(before[row.row_id], row.pieces)
        for row in last.token_losses
        if [piece.text for piece in before.get(row.row_id, ())] == [piece.text for piece in row.pieces]
    }
    scored = [(i, cell) for i, cells in rows.items() for cell in cells if (cell.before, cell.after) != (None, None)]
    if not scored:
        return None
    values = [nats for _, cell in scored for nats in (cell.before, cell.after) if nats is not None]
    hardest = sorted((s for s in scored if s[1].after is not None), key=lambda s: -(s[1].after or 0.0))
    scale = max(1.0, float(np.quantile(values, 0.95)))
    return Learnt(rows, scale, _by_role([cell for _, cell in scored]), hardest[:HARDEST])


def _cells(before: Sequence[PieceLoss], after: Sequence[PieceLoss]) -> list[Cell]:
    return [Cell(visible(b.text), b.role, b.loss, a.loss) for b, a in zip(before, after, strict=True)]


def _by_role(cells: Sequence[Cell]) -> list[RoleChange]:
    found = []
    for role in Role:
        pairs = [(c.before, c.after) for c in cells if c.role == role.label and c.before is not None]
        both = np.array([pair for pair in pairs if pair[1] is not None], dtype=float).reshape(-1, 2)
        if len(both):
            found.append(RoleChange(role.label, len(both), *both.mean(0).tolist()))
    return found
