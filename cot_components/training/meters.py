"""A step's measurements, kept on the device until its end: sums by role, so that means cover the tokens of all
processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cot_components.data.rows.batches import Batch
from cot_components.roles import Role
from cot_components.training.distributed import World
from cot_components.transforms.discriminator import CLASSES

LOSS_ROLES = (Role.THOUGHT, Role.ANSWER, Role.CALL)
"""Roles whose mean loss is logged as `loss_<role>`; `loss_thought` is the thought without its tags."""


ROLE_NAMES = tuple(role.label if role in LOSS_ROLES else "" for role in Role)
CLASS_NAMES = (*CLASSES, *(f"class_{number}" for number in range(len(CLASSES), 256)))
"""Number of values of the column `groups` (a byte); the same on every process, whichever classes its rows have."""


class StepMeter:
    """Sums over the supervised tokens of one optimizer step."""

    def __init__(self, device: torch.device) -> None:
        self._by_role = torch.zeros(2, len(Role), dtype=torch.float64, device=device)  # sum of nll, number of tokens
        self._by_class = torch.zeros(2, len(CLASS_NAMES), dtype=torch.float64, device=device)  # the same
        self._totals = torch.zeros(2, dtype=torch.float64, device=device)  # objective, weighted nll
        self._blurred = torch.zeros(2, dtype=torch.float64, device=device)  # sum of nll, number of tokens
        self._measured_blurred = False
        self._seen: list[tuple[Tensor, Batch]] = []

    def add(self, out: Any, batch: Batch) -> None:
        """Add a `LossOutput`; no host sync."""
        roles = batch.roles.flatten()[batch.rows]
        nll = out.nll.double()
        self._by_role[0].index_add_(0, roles, nll)
        self._by_role[1].index_add_(0, roles, torch.ones_like(nll))
        if batch.groups is not None:
            classes = batch.groups.flatten()[batch.rows]
            self._by_class[0].index_add_(0, classes, nll)
            self._by_class[1].index_add_(0, classes, torch.ones_like(nll))
        self._totals += torch.stack([out.objective.detach().double(), out.loss.double()])
        self._seen.append((out.nll, batch))

    def add_blurred(self, nll: Tensor) -> None:
        """Add the losses of tokens that were not trained on."""
        self._measured_blurred = True
        self._blurred += torch.stack([nll.double().sum(), nll.new_tensor(float(nll.numel()), dtype=torch.float64)])

    def result(self, world: World, *, count: float, denominator: float) -> dict[str, float]:
        """Means over all processes: `objective`, `loss` (weighted NLL), `loss_<role>`, `loss_<class>` if tokens have
        classes, `loss_blurred` if measured.
        """
        sums = (self._by_role, self._by_class, self._totals, self._blurred)
        flat = world.sum(torch.cat([values.flatten() for values in sums]).tolist())
        summed = torch.tensor(flat, dtype=torch.float64).split([values.numel() for values in sums])
        objective, loss = summed[2].tolist()
        blurred, num_blurred = summed[3].tolist()
        measured = {"objective": objective / denominator, "loss": loss / denominator, "supervised_tokens": count}
        for names, table in zip((ROLE_NAMES, CLASS_NAMES), summed, strict=False):
            nll, tokens = table.view(2, -1).tolist()
            measured |= {f"loss_{name}": nll[i] / tokens[i] for i, name in enumerate(names) if name and tokens[i]}
        if self._measured_blurred and num_blurred:
            measured["loss_blurred"] = blurred / num_blurred
        return measured

    def non_finite_ids(self) -> list[int]:
        """Ids of this process's rows with a token whose loss is not finite."""
        ids: list[int] = []
        for nll, batch in self._seen:
            bad = batch.sample.flatten()[batch.rows[~torch.isfinite(nll)]]
            ids += [batch.ids[row] for row in bad.unique().tolist()]
        return ids
