"""What a token view shows of a row: runs, states and counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import byte_flat, decode_bytes, trace, without

from cot_components.clock import Clock
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.transforms.blur import Blur
from cot_components.viz.samples import PARTIAL, State, count_tokens, make_samples

FLAT = byte_flat([trace("2+2?", "Two and two is four.", "4"), trace("3+3?", "Six, I think: \u516d.", "6")], ids=[7, 9])


def states_of(draw):
    return [run.state for run in draw.runs for _ in run.ids]


def test_runs_hold_every_token_in_order():
    blurred = Blur(ratio=0.4, keep_first=2)(FLAT, Clock(0, 0))
    samples = make_samples(blurred, decode_bytes)
    assert [sample.row_id for sample in samples] == [7, 9]
    for b, sample in enumerate(samples):
        span = slice(FLAT.row_start[b], FLAT.row_start[b + 1])
        runs = sample.draws[0].runs
        assert [i for run in runs for i in run.ids] == FLAT.tokens[span].tolist()
        assert [i for run in runs for i in run.labels] == blurred.labels[span].tolist()
        assert [i for run in runs for i in run.counters] == FLAT.counters[span].tolist()
        assert sum(piece.num_tokens for run in runs for piece in run.pieces) == len(FLAT.tokens[span])
        assert "".join(run.text for run in runs).replace(PARTIAL, "") == decode_bytes(FLAT.tokens[span])
    assert len(samples) == 2


def test_states_say_what_a_token_is_to_the_loss():
    weights = FLAT.weights.copy()
    weights[(FLAT.counters == 1)] = 0
    labels = np.where(FLAT.counters == 0, IGNORE, FLAT.labels)
    draw = make_samples(replace(FLAT, labels=labels, weights=weights), decode_bytes)[0].draws[0]
    assert states_of(draw)[:4] == [State.CONTEXT] * 4
    assert states_of(draw)[4:11] == [State.SUPERVISED] * 7
    assert states_of(draw)[11:14] == [State.IGNORED, State.WEIGHTLESS, State.SUPERVISED]


def test_a_prompt_that_is_supervised_shows_as_supervised():
    flat = FLAT.with_labels(FLAT.tokens.copy())
    assert set(states_of(make_samples(flat, decode_bytes)[0].draws[0])) == {State.SUPERVISED}


def test_the_count_line_is_as_promised():
    flat = byte_flat([trace("?" * 20, "t" * 412, "a" * 9)])
    blurred = flat.with_labels(np.where((flat.counters >= 100) & (flat.counters < 183), IGNORE, flat.labels))
    counts = count_tokens(blurred)
    assert counts.line().startswith("thought 412, blurred 83 (20.1 %), answer 9")
    assert counts.supervised == 412 - 83 + 9 + len("<think></think>")
    assert counts.total == len(flat.tokens)
    assert "blurred" not in count_tokens(flat).line()


def test_counts_of_rows_add_up_to_the_counts_of_the_batch():
    blurred = Blur(ratio=0.5)(FLAT, Clock(3, 0))
    rows = [sample.draws[0].counts for sample in make_samples(blurred, decode_bytes)]
    total = count_tokens(blurred)
    for name in ("total", "supervised", "blurred", "weightless", "removed"):
        assert sum(getattr(row, name) for row in rows) == getattr(total, name), name
    assert total.blurred > 0


def test_removed_tokens_are_shown_where_they_stood():
    left = without(FLAT, (FLAT.counters >= 0) & (FLAT.counters < 4))
    draw = make_samples(left, decode_bytes, before=FLAT)[0].draws[0]
    removed = [run for run in draw.runs if run.state is State.REMOVED]
    assert [run.text for run in removed] == ["Two "]
    assert draw.runs[1].text == "<think>" and draw.runs[2] is removed[0]
    assert draw.counts.line() == "thought 16, removed 4 of 20, answer 1, supervised 32 of 36"
    assert (draw.strength == -1).sum() == 4


def test_all_thought_removed_and_a_row_left_alone():
    gone = (FLAT.roles == Role.THOUGHT) & (FLAT.row_of_token == 0)
    first, second = make_samples(without(FLAT, gone), decode_bytes, before=FLAT)
    assert [run.text for run in first.draws[0].runs if run.state is State.REMOVED] == ["Two and two is four."]
    assert not [run for run in second.draws[0].runs if run.state is State.REMOVED]


def test_a_change_that_is_no_removal_shows_the_row_as_it_is():
    """A shorter prompt is not a removed thought: nothing is put back, and nothing fails."""
    shorter = without(FLAT, FLAT.roles == Role.PROMPT)
    draw = make_samples(shorter, decode_bytes, before=FLAT)[0].draws[0]
    assert State.REMOVED not in states_of(draw)
    assert len(states_of(draw)) == shorter.lengths[0]


def test_a_character_whose_tokens_differ_is_shown_once():
    six = np.flatnonzero(FLAT.tokens == "\u516d".encode()[0])[0]
    labels = FLAT.labels.copy()
    labels[six + 1] = IGNORE
    runs = make_samples(FLAT.with_labels(labels), decode_bytes)[1].draws[0].runs
    text = "".join(run.text for run in runs)
    assert text.count("\u516d") == 1 and text.count(PARTIAL) == 2
    assert [run.text for run in runs if run.state is State.IGNORED] == [PARTIAL]


def test_a_character_whose_tokens_agree_is_one_piece():
    runs = make_samples(FLAT, decode_bytes)[1].draws[0].runs
    assert not any(PARTIAL in run.text for run in runs)
    assert any(piece.num_tokens == 3 for run in runs for piece in run.pieces)


def test_a_label_that_is_another_token_stands_alone():
    labels = FLAT.labels.copy()
    labels[12] = 65
    runs = make_samples(FLAT.with_labels(labels), decode_bytes)[0].draws[0].runs
    assert [run.labels for run in runs if run.labels == (65,)] == [(65,)]


def test_runs_end_at_line_breaks():
    flat = byte_flat([trace("?", "A line of text here.\n" * 100, "4")])
    runs = [run for run in make_samples(flat, decode_bytes)[0].draws[0].runs if run.role is Role.THOUGHT]
    assert len(runs) == 100
    assert all(run.text.endswith("\n") for run in runs)


def test_draws_must_be_of_the_same_rows():
    other = byte_flat([trace("1?", "One.", "1"), trace("2?", "Two.", "2")], ids=[7, 8])
    with pytest.raises(UserError, match="draws of the same rows, but 'epoch 1' has ids"):
        make_samples([FLAT, other], decode_bytes)
    with pytest.raises(UserError, match="no draw"):
        make_samples([], decode_bytes)
    with pytest.raises(UserError, match="'before' has ids"):
        make_samples(FLAT, decode_bytes, before=other)


def test_max_rows_and_no_rows():
    assert len(make_samples(FLAT, decode_bytes, max_rows=1)) == 1
    assert make_samples(byte_flat([]), decode_bytes) == []


@given(
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=30), st.text(max_size=5)), min_size=1, max_size=3),
    st.floats(0, 1),
)
def test_any_rows_and_any_ratio(texts, ratio):
    flat = byte_flat([trace(*(t.encode("utf-8", "replace").decode() for t in row)) for row in texts])
    blurred = Blur(ratio=ratio, keep_first=0)(flat, Clock(0, 0))
    samples = make_samples([blurred, flat], decode_bytes)
    for b, sample in enumerate(samples):
        for draw in sample.draws:
            assert len(states_of(draw)) == flat.lengths[b]
    assert sum(sample.draws[0].counts.blurred for sample in samples) == int((blurred.labels != flat.labels).sum())
