"""Runs a run's rows through its transforms before a model is built, so that errors there come at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.roles import IGNORE
from cot_components.transforms.discriminator import REASONING

ROWS_AT_ONCE = 512


def check_learns(data: ReasoningDataset, plans: Plans) -> None:
    """Check that some step has something to learn; in most runs the first one does.

    Args:
        data: the data with all transforms.
        plans: the steps of the run.

    Raises:
        UserError: no step of any process has a supervised token.
    """
    batches = data.batches(packed_tokens=plans.packed_tokens)
    processes = [replace(plans, rank=rank) for rank in range(plans.world_size)]
    for step in range(plans.total_steps):
        for process in processes:
            if any(batch.num_supervised for batch in batches[process.plan(step)].micro_batches):
                return
    raise UserError(
        "dataset.transforms: no token of any step has both a label and a weight above 0, so there is nothing to learn; "
        "`cot view` shows what the transforms leave"
    )


def check_scored(data: ReasoningDataset, held_out: ReasoningDataset | None) -> None:
    """Run every row through the transforms that look things up by row, so that scores of other data are refused.

    Raises:
        UserError: as these transforms.
    """
    for where, rows in (
        ("", data),
        ("dataset_val, whose transforms are those of dataset unless it has its own: ", held_out),
    ):
        if rows is not None and any(getattr(t, "needs_whole_rows", False) for t in rows.transforms.values()):
            try:
                for _ in _transformed(rows):
                    pass
            except UserError as error:
                raise UserError(f"{where}{error}") from error


def share_of_reasoning(data: ReasoningDataset) -> str:
    """The share of supervised tokens that are reasoning at the start, for the log; "" if no transform makes classes."""
    if not any(getattr(transform, "makes_groups", False) for transform in data.transforms.values()):
        return ""
    counted = reasoning = 0
    for flat in _transformed(data):
        assert flat.groups is not None
        here = (flat.labels != IGNORE) & (flat.weights != 0)
        counted += int(here.sum())
        reasoning += int(np.sum(flat.groups[here] == REASONING))
    return f"{reasoning / max(counted, 1):.1%} of {counted:,} supervised tokens are reasoning"


def _transformed(data: ReasoningDataset) -> Iterator[Flat]:
    for begin in range(0, len(data.rows), ROWS_AT_ONCE):
        flat = data.rows.flat(range(begin, min(begin + ROWS_AT_ONCE, len(data.rows))))
        for transform in data.transforms.values():
            flat = transform(flat, Clock(0, 0))
        yield flat
