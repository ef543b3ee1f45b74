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
from cot_components.viz.token_samples import PARTIAL, State, count_tokens, make_samples

FLAT = byte_flat([trace("2+2?", "Two and two is four.", "4"), trace("3+3?", "Six, I think: \u516d.", "6")], ids=[7, 9])
SIX = np.flatnonzero(FLAT.tokens == "\u516d".encode()[0])[0]


def draw_of(flat, row=0, **options):
    return make_samples(flat, decode_bytes, **options)[row].draws[0]


def states_of(draw):
    return [run.state for run in draw.runs for _ in run.ids]


def texts_in(draw, state):
    return [run.text for run in draw.runs if run.state is state]


def with_label(place, label):
    return FLAT.with_labels(np.where(np.arange(len(FLAT.tokens)) == place, label, FLAT.labels))


def test_runs_hold_every_token_in_order_and_rows_add_up_to_the_batch():
    blurred = Blur(ratio=0.4, keep_first=2)(FLAT, Clock(0, 0))
    samples, total = make_samples(blurred, decode_bytes), count_tokens(blurred)
    assert [sample.row_id for sample in samples] == [7, 9] and total.blurred > 0
    for b, sample in enumerate(samples):
        span, runs = slice(FLAT.row_start[b], FLAT.row_start[b + 1]), sample.draws[0].runs
        for name, values in (("ids", FLAT.tokens), ("labels", blurred.labels), ("counters", FLAT.counters)):
            assert [i for run in runs for i in getattr(run, name)] == values[span].tolist()
        assert sum(piece.num_tokens for run in runs for piece in run.pieces) == len(FLAT.tokens[span])
        assert "".join(run.text for run in runs).replace(PARTIAL, "") == decode_bytes(FLAT.tokens[span])
    for name in ("total", "supervised", "blurred", "weightless", "removed"):
        assert sum(getattr(sample.draws[0].counts, name) for sample in samples) == getattr(total, name), name


def test_states_say_what_a_token_is_to_the_loss():
    weights = np.where(FLAT.counters == 1, 0, FLAT.weights)
    labels = np.where(FLAT.counters == 0, IGNORE, FLAT.labels)
    states = states_of(draw_of(replace(FLAT, labels=labels, weights=weights)))
    assert states[:11] == [State.CONTEXT] * 4 + [State.SUPERVISED] * 7
    assert states[11:14] == [State.IGNORED, State.WEIGHTLESS, State.SUPERVISED]
    assert set(states_of(draw_of(FLAT.with_labels(FLAT.tokens.copy())))) == {State.SUPERVISED}, "prompts too"


def test_the_count_line():
    flat = byte_flat([trace("?" * 20, "t" * 412, "a" * 9)])
    counts = count_tokens(
        flat.with_labels(np.where((flat.counters >= 100) & (flat.counters < 183), IGNORE, flat.labels))
    )
    assert counts.line().startswith("thought 412, blurred 83 (20.1 %), answer 9")
    assert (counts.supervised, counts.total) == (412 - 83 + 9 + len("<think></think>"), len(flat.tokens))
    assert "blurred" not in count_tokens(flat).line()


def test_a_replaced_token_is_shown_as_it_is_read():
    draw = draw_of(replace(FLAT, inputs=np.where(FLAT.counters % 4 == 1, ord("#"), FLAT.tokens)))
    assert texts_in(draw, State.REPLACED) == ["#"] * 5
    assert "T#o a#d t#o i# fo#r." in "".join(run.text for run in draw.runs)
    assert draw.counts.line() == "thought 20, replaced 5 (25.0 %), answer 1, supervised 36 of 40"
    assert (draw.strength >= 0).all() and draw.counts.supervised == (draw.strength > 0).sum()


def test_removed_tokens_are_shown_where_they_stood():
    draw = draw_of(without(FLAT, (FLAT.counters >= 0) & (FLAT.counters < 4)), before=FLAT)
    assert [run.text for run in draw.runs[1:3]] == ["<think>", "Two "] and texts_in(draw, State.REMOVED) == ["Two "]
    assert draw.counts.line() == "thought 16, removed 4 of 20, answer 1, supervised 32 of 36"
    assert (draw.strength == -1).sum() == 4
    gone = without(FLAT, (FLAT.roles == Role.THOUGHT) & (FLAT.row_of_token == 0))
    removed = [texts_in(draw_of(gone, row, before=FLAT), State.REMOVED) for row in (0, 1)]
    assert removed == [["Two and two is four."], []], "all of one row, nothing of the other"
    shorter = without(FLAT, FLAT.roles == Role.PROMPT)  # not a removal of thought tokens: the row as it is
    states = states_of(draw_of(shorter, before=FLAT))
    assert State.REMOVED not in states and len(states) == shorter.lengths[0]


def test_a_character_is_shown_once_whatever_its_tokens_are():
    draw = draw_of(with_label(SIX + 1, IGNORE), 1)
    text = "".join(run.text for run in draw.runs)
    assert text.count("\u516d") == 1 and text.count(PARTIAL) == 2 and texts_in(draw, State.IGNORED) == [PARTIAL]
    agreeing = draw_of(FLAT, 1).runs
    assert not any(PARTIAL in run.text for run in agreeing)
    assert any(piece.num_tokens == 3 for run in agreeing for piece in run.pieces)


def test_what_ends_a_run():
    """A label that is another token, and a line break."""
    assert [run.labels for run in draw_of(with_label(12, 65)).runs if 65 in run.labels] == [(65,)]
    flat = byte_flat([trace("?", "A line of text here.\n" * 100, "4")])
    runs = [run for run in draw_of(flat).runs if run.role is Role.THOUGHT]
    assert len(runs) == 100 and all(run.text.endswith("\n") for run in runs)


def test_draws_must_be_of_the_same_rows():
    other = byte_flat([trace("1?", "One.", "1"), trace("2?", "Two.", "2")], ids=[7, 8])
    for draws, options, said in (
        ([FLAT, other], {}, "'epoch 1'"),
        ([], {}, "at least one draw"),
        (FLAT, {"before": other}, "'before'"),
    ):
        with pytest.raises(UserError, match=said):
            make_samples(draws, decode_bytes, **options)


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
    assert [len(states_of(d)) for s in samples for d in s.draws] == np.repeat(flat.lengths, 2).tolist()
    assert sum(sample.draws[0].counts.blurred for sample in samples) == int((blurred.labels != flat.labels).sum())
