"""Removal against list slicing row by row and the published vectors; rows that are too long are emptied."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import make_flat

from cot_components.clock import Clock
from cot_components.data.rows.batches import pad
from cot_components.data.rows.flat import Flat, initial_labels
from cot_components.roles import IGNORE, Role
from cot_components.schedules import Schedule, smoothing_offsets
from cot_components.transforms.cap import Cap
from cot_components.transforms.remove import Remove, units_per_row

NO_SMOOTHING = float("inf")
STEP_END = 7


def at_stage(stage: int, **knobs) -> Remove:
    """A removal that is at `stage` all the time."""
    schedule = Schedule(ticks_per_epoch=1, per_epoch=0, start=stage)
    return Remove(schedule=schedule, **{"smoothing": NO_SMOOTHING, **knobs})


def flat_of(rows: list[list[tuple[int, Role]]], *, ids=None) -> Flat:
    """A batch from rows of (token, role); every token has a weight of its own, so that a misplaced one shows."""
    flat = make_flat([[role for _, role in row] for row in rows], ids=ids)
    tokens = np.array([token for row in rows for token, _ in row], dtype=np.int64)
    weights = np.arange(len(tokens), dtype=np.float32)
    return replace(flat, tokens=tokens, labels=initial_labels(tokens, flat.roles), weights=weights)


def icot_row(num_prompt: int, num_thought: int, num_answer: int) -> list[tuple[int, Role]]:
    roles = [Role.PROMPT] * (num_prompt + 1) + [Role.THOUGHT] * num_thought + [Role.THINK_CLOSE]
    roles += [Role.ANSWER] * (num_answer + 1)
    return [(100 + i, role) for i, role in enumerate(roles)]


# `x1 x2 _ S c1 c2 c3 c4 _ S # ### a1 a2 _ S`, toy loss 0.1 * (index before removal) per target
PUBLISHED_ROW = icot_row(3, 5, 5)


@pytest.mark.parametrize(
    ("stage", "side", "kept", "targets", "mean_loss", "positions"),
    [
        (2, "left", [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 10, 1.05, [0, 1, 2, 5, *range(6, 16)]),
        (7, "left", [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15], 7, 1.2, [0, 1, 2, 8, *range(9, 16)]),
        (2, "right", [*range(7), *range(9, 16)], 10, 0.99, [0, 1, 2, 3, 4, 5, 8, *range(9, 16)]),
    ],
)
def test_published_vectors(stage, side, kept, targets, mean_loss, positions) -> None:
    flat = at_stage(stage, side=side, keep_position=True)(flat_of([PUBLISHED_ROW]), Clock(0, 0))
    assert (flat.tokens - 100).tolist() == kept
    assert flat.positions.tolist() == positions
    toy_losses = 0.1 * (flat.tokens - 100)[flat.labels != IGNORE]
    assert len(toy_losses) == targets
    assert toy_losses.mean() == pytest.approx(mean_loss, abs=1e-6)
    assert at_stage(stage, side=side)(flat_of([PUBLISHED_ROW]), Clock(0, 0)).positions is None


def test_stage_0_is_the_input_itself() -> None:
    flat = flat_of([PUBLISHED_ROW])
    assert at_stage(0, keep_position=True)(flat, Clock(0, 0)) is flat
    toy_losses = 0.1 * np.arange(16)[flat.labels != IGNORE]
    assert len(toy_losses) == 12 and toy_losses.mean() == pytest.approx(0.95)


def sliced(row: list[tuple[int, Role]], units: list[int], amount: int, side: str) -> tuple[list[int], list[int]]:
    """Indices that remain of one row, and the released position ids: the slow way, for one stretch of thought."""
    last = max(units, default=-1) + 1
    gone = range(amount) if side == "left" else range(last - amount, last)
    thought = [i for i, (_, role) in enumerate(row) if role == Role.THOUGHT]
    removed = [i for i in thought if units[i] in gone]
    kept = [i for i in range(len(row)) if i not in removed]
    positions = list(range(len(kept)))
    if removed:
        for j in range(max(removed[0] - 1, 0), len(kept)):
            positions[j] += len(removed)
        if removed[0] == 0:  # no token before the stretch: nothing but the later tokens moves
            positions = list(kept)
    return kept, positions


def counted_steps(row: list[tuple[int, Role]]) -> list[int]:
    """Step of each thought token: a step ends behind the token that ends it."""
    steps, step = [], 0
    for token, role in row:
        steps.append(step if role == Role.THOUGHT else -1)
        step += token == STEP_END and role == Role.THOUGHT
    return steps


SHAPES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=6)
SIDES, UNITS, SMOOTHINGS = map(st.sampled_from, (["left", "right"], ["token", "step"], [NO_SMOOTHING, 0.3]))


@given(SHAPES, st.integers(0, 14), SIDES, UNITS, SMOOTHINGS, st.integers(0, 5), st.integers(0, 2), st.data())
def test_equals_slicing_row_by_row(shapes, stage, side, unit, smoothing, seed, epoch, data) -> None:
    rows = [icot_row(*shape) for shape in shapes]
    for row in rows:
        ends = data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
        row[:] = [(STEP_END if end else token, role) for end, (token, role) in zip(ends, row, strict=True)]
    ids = data.draw(st.lists(st.integers(0, 2**50), min_size=len(rows), max_size=len(rows), unique=True))
    flat = flat_of(rows, ids=ids)
    knobs = {"side": side, "unit": unit, "step_ends": (STEP_END, 8), "smoothing": smoothing, "seed": seed}
    remove = at_stage(stage, **knobs, keep_position=True)
    out = remove(flat, Clock(epoch, epoch))
    offsets = smoothing_offsets(flat.ids, epoch, smoothing=smoothing, seed=seed)
    assert (out.ids == flat.ids).all() and len(out.row_start) == len(flat.row_start)
    for b, row in enumerate(rows):
        counters = flat.counters[flat.row_start[b] : flat.row_start[b + 1]].tolist()
        units = counters if unit == "token" else counted_steps(row)
        kept, positions = sliced(row, units, stage + int(offsets[b]), side)
        before, after = slice(flat.row_start[b], flat.row_start[b + 1]), slice(out.row_start[b], out.row_start[b + 1])
        for name in ("tokens", "roles", "counters", "labels", "weights"):
            assert (getattr(out, name)[after] == getattr(flat, name)[before][kept]).all(), name
        if out.positions is not None:
            assert out.positions[after].tolist() == positions
        else:
            assert positions == list(range(len(row)))


def test_several_thoughts_of_a_row_count_as_one() -> None:
    roles = [Role.PROMPT, Role.THOUGHT, Role.THOUGHT, Role.ANSWER, Role.PROMPT, Role.THOUGHT, Role.ANSWER]
    flat = flat_of([list(enumerate(roles))])
    assert at_stage(1)(flat, Clock(0, 0)).tokens.tolist() == [0, 2, 3, 4, 5, 6]
    assert at_stage(1, side="right")(flat, Clock(0, 0)).tokens.tolist() == [0, 1, 2, 3, 4, 6]
    assert at_stage(3)(flat, Clock(0, 0)).tokens.tolist() == [0, 3, 4, 6]


def test_removing_again_from_the_left_removes_nothing_more() -> None:
    once = at_stage(2)(flat_of([PUBLISHED_ROW, icot_row(1, 1, 1)]), Clock(0, 0))
    twice = at_stage(2)(once, Clock(0, 0))
    assert len(once.tokens) == 14 + 5 and (twice.tokens == once.tokens).all()


def test_no_offsets_while_pretraining() -> None:
    schedule = Schedule(ticks_per_epoch=2, per_epoch=1, start=1, pretrain_epochs=1)
    remove, ids = Remove(schedule=schedule, smoothing=0.05), np.arange(50)
    assert set(remove.amounts(ids, Clock(0, 1))) == {1}
    later = remove.amounts(ids, Clock(1, 2))
    assert later.min() >= 1 and len(set(later)) > 5
    assert set(remove.without_offsets().amounts(ids, Clock(1, 2))) == {1}


def test_empty_batches_and_rows_that_become_empty() -> None:
    nothing = flat_of([])
    assert len(at_stage(3, keep_position=True)(nothing, Clock(0, 0)).ids) == 0
    only_thought = flat_of([[(1, Role.THOUGHT)], [(2, Role.PROMPT)], []])
    out = at_stage(3, keep_position=True)(only_thought, Clock(0, 0))
    assert out.lengths.tolist() == [0, 1, 0] and out.tokens.tolist() == [2]


def test_units_per_row_with_empty_rows() -> None:
    assert units_per_row(np.array([-1, 0, 1, -1, -1]), np.array([0, 0, 4, 4, 5, 5])).tolist() == [0, 2, 0, 0, 0]
    assert units_per_row(np.empty(0, int), np.array([0, 0])).tolist() == [0]


def answers_of(lengths: list[int]) -> Flat:
    return make_flat([[Role.ANSWER] * length for length in lengths], first_token=1)


def test_a_long_row_is_emptied_and_its_neighbours_stay() -> None:
    flat = answers_of([3, 5, 4, 0, 6])
    out = Cap(4)(flat, Clock(0, 0))
    assert out.lengths.tolist() == [3, 0, 4, 0, 0] and out.ids.tolist() == flat.ids.tolist()
    assert out.tokens.tolist() == [1, 2, 3, 9, 10, 11, 12]
    assert pad(out, pad_id=0).num_supervised == 2 + 3


def test_one_long_row_empties_its_whole_batch() -> None:
    out = Cap(4, scope="batch")(answers_of([3, 5, 4]), Clock(0, 0))
    assert out.lengths.tolist() == [0, 0, 0]
    assert pad(out, pad_id=0).num_supervised == 0


def test_what_fits_is_the_input_itself() -> None:
    flat = answers_of([3, 5])
    assert Cap(5)(flat, Clock(0, 0)) is flat and Cap(5, scope="batch")(flat, Clock(0, 0)) is flat
