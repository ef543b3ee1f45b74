"""Refuse test questions that also occur in the training data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.roles import Role


def check_no_overlap(train: Rows, test: Iterable[tuple[str, Sequence[int]]], *, of: str = "training") -> None:
    """Check that no test prompt is also a training prompt.

    Args:
        train: encoded training rows.
        test: the place of each test row, and the token ids of its prompt.
        of: what the error calls the rows of `train`.

    Raises:
        UserError: names the first test row that is trained on, and the training row.
    """
    for where, row_id in overlaps(train, test).items():
        raise UserError(
            f"{where} of the test data has the same question as row {row_id} of the {of} data; remove one of them"
        )


def overlaps(train: Rows, test: Iterable[tuple[str, Sequence[int]]]) -> dict[str, int]:
    """Place of each test row that is trained on -> id of the first training row with the same question; arguments as
    above; several prompts may have the same place.
    """
    asked: dict[bytes, int] = {}
    for prompt, row_id in zip(_prompts(train), train.ids.tolist(), strict=True):
        asked.setdefault(prompt.tobytes(), row_id)
    found: dict[str, int] = {}
    for where, ids in test:
        if (row := asked.get(np.asarray(ids, dtype=np.int32).tobytes())) is not None:
            found.setdefault(where, row)
    return found


def prompts_of(rows: Rows) -> list[tuple[str, Sequence[int]]]:
    """Name and prompt of each row, as `check_no_overlap` takes them."""
    return [(f"row {row_id}", prompt.tolist()) for prompt, row_id in zip(_prompts(rows), rows.ids, strict=True)]


def _prompts(rows: Rows) -> Iterator[np.ndarray]:
    """The prompt tokens of each row, int32."""
    is_prompt = rows.roles == Role.PROMPT
    before = np.concatenate([[0], np.cumsum(is_prompt)])[rows.row_start]
    tokens = rows.tokens[is_prompt].astype(np.int32)
    return (tokens[start:stop] for start, stop in itertools.pairwise(before.tolist()))
