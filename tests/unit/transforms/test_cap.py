"""Rows and batches that are too long are emptied, and count nothing."""

import numpy as np
import pytest

from cot_components.clock import Clock
from cot_components.data.rows.batches import pad
from cot_components.data.rows.flat import Flat, initial_labels
from cot_components.roles import Role
from cot_components.transforms.cap import Cap


def flat_of(lengths: list[int]) -> Flat:
    num_tokens = sum(lengths)
    tokens, roles = np.arange(1, num_tokens + 1), np.full(num_tokens, Role.ANSWER, dtype=np.uint8)
    return Flat(
        tokens=tokens,
        roles=roles,
        counters=np.full(num_tokens, -1, dtype=np.int32),
        labels=initial_labels(tokens, roles),
        weights=np.ones(num_tokens, dtype=np.float32),
        row_start=np.cumsum([0, *lengths]),
        ids=np.arange(len(lengths)),
    )


def test_a_long_row_is_emptied_and_its_neighbours_stay() -> None:
    flat = flat_of([3, 5, 4, 0, 6])
    out = Cap(4)(flat, Clock(0, 0))
    assert out.lengths.tolist() == [3, 0, 4, 0, 0] and out.ids.tolist() == flat.ids.tolist()
    assert out.tokens.tolist() == [1, 2, 3, 9, 10, 11, 12]
    assert pad(out, pad_id=0).num_supervised == 2 + 3


def test_one_long_row_empties_its_whole_batch() -> None:
    out = Cap(4, scope="batch")(flat_of([3, 5, 4]), Clock(0, 0))
    assert out.lengths.tolist() == [0, 0, 0]
    assert pad(out, pad_id=0).num_supervised == 0


def test_what_fits_is_the_input_itself() -> None:
    flat = flat_of([3, 5])
    assert Cap(5)(flat, Clock(0, 0)) is flat and Cap(5, scope="batch")(flat, Clock(0, 0)) is flat


@pytest.mark.parametrize(("knobs", "message"), [({"max_tokens": 0}, "max_tokens"), ({"scope": "all"}, "scope must be")])
def test_impossible_settings_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cap(**{"max_tokens": 3, **knobs})
