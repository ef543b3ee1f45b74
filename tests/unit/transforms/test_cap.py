"""Rows and batches that are too long are emptied, and count nothing."""

from rows import make_flat

from cot_components.clock import Clock
from cot_components.data.rows.batches import pad
from cot_components.data.rows.flat import Flat
from cot_components.roles import Role
from cot_components.transforms.cap import Cap


def flat_of(lengths: list[int]) -> Flat:
    return make_flat([[Role.ANSWER] * length for length in lengths], first_token=1)


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
