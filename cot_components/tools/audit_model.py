"""A model's scores on the rows it would be trained on, for `cot audit --model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cot_components.data.rows.scores import Scores, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.roles import SUPERVISED_ROLES
from cot_components.tools.audit_places import Traces

SURE, UNSURE = 0.9, 0.1
FEWEST_TOKENS = 5
"""Rows with fewer scored tokens are left out, because their mean says little."""


@dataclass(frozen=True)
class Figures:
    """Statistics of some tokens: number, mean probability, mean entropy in nats, shares with a probability above 0.9
    and below 0.1.
    """

    tokens: int
    probability: float
    entropy: float
    sure: float
    unsure: float


@dataclass(frozen=True)
class ModelView:
    """figures: by role, and `all`; unlikely: place and mean log-probability of rows, least likely first; notes: results
    of this project's studies for such a config.
    """

    figures: Mapping[str, Figures]
    unlikely: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def model_view(values: Mapping[str, Any], rows: Rows, traces: Traces, scores: Scores, *, most: int = 10) -> ModelView:
    """Figures of the columns `nll` and `entropy`, whose rows are `rows` in this order.

    Raises:
        UserError: a column is missing or not finished.
    """
    scored = scored_tokens(rows)
    nll, entropy = (np.asarray(scores.column(name), dtype=np.float64) for name in ("nll", "entropy"))
    figures = {}
    for name, roles in {"all": SUPERVISED_ROLES, **{role.label: (role,) for role in SUPERVISED_ROLES}}.items():
        here = scored & np.isin(rows.roles, roles)
        if here.any():
            probability = np.exp(-nll[here])
            shares = (probability > SURE).mean(), (probability < UNSURE).mean()
            figures[name] = Figures(int(here.sum()), probability.mean(), entropy[here].mean(), *shares)
    sums = np.concatenate([[0.0], np.cumsum(np.where(scored, nll, 0.0))])[rows.row_start]
    counts = np.concatenate([[0], np.cumsum(scored)])[rows.row_start]
    number = np.diff(counts)
    mean = np.where(number >= FEWEST_TOKENS, -np.diff(sums) / np.maximum(number, 1), np.inf)
    worst = [int(i) for i in np.argsort(mean, kind="stable")[:most] if np.isfinite(mean[i])]
    return ModelView(figures, tuple((traces.place(i), float(mean[i])) for i in worst), studied(values))


def studied(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What the studies in experiments/README.md found about the config's loss; empty if none applies."""
    loss, notes = values.get("loss") or {}, []
    if str(loss.get("_component_")).rpartition(".")[2] == "dft" and not loss.get("floor"):
        notes.append(
            "dft weighs a token by its probability: in the study `targets` it ended between 23 points above and 22 "
            "below plain fine-tuning, by start, and halved the diversity of wordings; the study `dft` sets its gain "
            "against the mean probability above"
        )
        if values.get("curriculum"):
            notes.append(
                "with a curriculum, dft without a floor got no product right in any of three seeds (study "
                "`internalised_targets`); with loss.floor={answer: 0.5} most were"
            )
    return tuple(notes)
