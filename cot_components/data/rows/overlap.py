"""No question that a model is tested on may be one that it was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.roles import Role


def check_no_overlap(train: Rows, test: Iterable[tuple[str, Sequence[int]]]) -> None:
    """Make sure that no prompt of the test data is a prompt of the training data.

    Args:
        train: encoded training rows.
        test: where each test row stands, and the token ids of its prompt.

    Raises:
        UserError: names the first test row that is trained on, and the training row.
    """
    if (found := first_overlap(train, test)) is not None:
        where, row_id = found
        raise UserError(
            f"{where} of the test data asks what row {row_id} of the training data asks; leave it out of one of them"
        )


def first_overlap(train: Rows, test: Iterable[tuple[str, Sequence[int]]]) -> tuple[str, int] | None:
    """Where the first test row stands that is trained on, and the id of the training row; arguments as above."""
    asked = {np.asarray(ids, dtype=np.int32).tobytes(): where for where, ids in test}
    for prompt, row_id in zip(_prompts(train), train.ids.tolist(), strict=True):
        if (where := asked.get(prompt.tobytes())) is not None:
            return where, row_id
    return None


def prompts_of(rows: Rows) -> list[tuple[str, Sequence[int]]]:
    """Name and prompt of each row, as `check_no_overlap` takes them."""
    return [(f"row {row_id}", prompt.tolist()) for prompt, row_id in zip(_prompts(rows), rows.ids, strict=True)]


def _prompts(rows: Rows) -> Iterator[np.ndarray]:
    """The prompt tokens of each row, int32."""
    is_prompt = rows.roles == Role.PROMPT
    before = np.concatenate([[0], np.cumsum(is_prompt)])[rows.row_start]
    tokens = rows.tokens[is_prompt].astype(np.int32)
    return (tokens[start:stop] for start, stop in itertools.pairwise(before.tolist()))
