"""Blur: what is always supervised, what a draw depends on, and the released script as a vector."""

import numpy as np
import pytest
from rows import make_flat, random_rows, trace_roles

import cot_components.transforms.blur as blur_module
from cot_components.clock import Clock
from cot_components.roles import IGNORE, Role
from cot_components.transforms import Blur, Released

BIG = make_flat([trace_roles(10, 20_000, 10)])


def blurred(flat, **settings):
    clock = settings.pop("clock", Clock(0, 0))
    return (Blur(**settings)(flat, clock).labels == IGNORE) & (flat.labels != IGNORE)


def test_ratio_zero_returns_its_input():
    assert Blur(ratio=0.0)(BIG, Clock(3, 5)) is BIG


@pytest.mark.parametrize("granularity", ["token", "span"])
def test_tags_answer_and_first_tokens_stay_supervised(granularity):
    everything = blurred(BIG, ratio=1.0, granularity=granularity)
    eligible = (BIG.roles == Role.THOUGHT) & (BIG.counters >= 5)
    assert np.array_equal(everything, eligible)
    assert eligible.sum() == 20_000 - 5


@pytest.mark.parametrize(("granularity", "tolerance"), [("token", 0.01), ("span", 0.03)])
def test_rate(granularity, tolerance):
    assert abs(blurred(BIG, ratio=0.2, granularity=granularity).sum() / 20_000 - 0.2) < tolerance


def test_spans_are_whole():
    mask = blurred(BIG, ratio=0.3, granularity="span", span_length=8)[11 + 5 : 11 + 20_000]
    whole = mask[: len(mask) // 8 * 8].reshape(-1, 8)
    assert (whole.all(axis=1) == whole.any(axis=1)).all()
    assert 0 < whole.all(axis=1).sum() < len(whole)


def test_a_higher_ratio_blurs_a_superset():
    low, high = blurred(BIG, ratio=0.2), blurred(BIG, ratio=0.5)
    assert (high | ~low).all() and high.sum() > low.sum()


def test_redraw():
    first, second = blurred(BIG, clock=Clock(0, 0)), blurred(BIG, clock=Clock(1, 900))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, blurred(BIG, clock=Clock(0, 77)))
    assert np.array_equal(blurred(BIG, redraw="once", clock=Clock(9, 1)), first)
    assert not np.array_equal(blurred(BIG, seed=1), first)
    assert Blur().needs_epoch and not Blur(redraw="once").needs_epoch


def test_masks_do_not_depend_on_the_batch():
    rows = random_rows(40)
    transform = Blur(ratio=0.5)
    alone = {i: transform(rows.flat([i]), Clock(2, 0)).labels for i in range(40)}
    for size in (2, 7, 40):
        order = np.random.default_rng(size).permutation(40)
        for begin in range(0, 40, size):
            chosen = order[begin : begin + size].tolist()
            together = transform(rows.flat(chosen), Clock(2, 0))
            for position, row in enumerate(chosen):
                first, last = together.row_start[position : position + 2]
                assert np.array_equal(together.labels[first:last], alone[row])


def test_annealing_takes_a_function_of_the_clock():
    transform = Blur(ratio=lambda clock: min(1.0, clock.step / 10))
    assert transform(BIG, Clock(0, 0)) is BIG
    assert (transform(BIG, Clock(0, 10)).labels == IGNORE).sum() == 10 + 20_000 - 5
    assert transform.needs_epoch


def test_the_released_script(monkeypatch):
    """23 tokens: BOS U hi EOT H1..H4 <think> t1..t10 </think> a1 a2 EOT, and the draws the script would have made."""
    flat = make_flat([trace_roles(8, 10, 3)], first_token=100)
    draws = np.array([0.05, 0.50, 0.19, 0.20, 0.90])
    monkeypatch.setattr(
        blur_module, "draw_bits", lambda keys, counters: (draws * 2.0**64).astype(np.uint64)[counters - 5]
    )
    labels = Released()(flat, Clock(0, 0)).labels
    assert np.flatnonzero(labels == IGNORE).tolist() == [0, 1, 2, 14, 16]
    supervised = labels[1:] != IGNORE
    assert round(0.1 * np.arange(1, 23)[supervised].mean(), 6) == 1.222222


def test_the_released_script_leaves_rows_without_a_tag_alone():
    plain = [Role.PROMPT] * 6 + [Role.ANSWER] * 3
    flat = make_flat([trace_roles(8, 10, 3), plain])
    labels = Released()(flat, Clock(0, 0)).labels
    assert np.array_equal(labels[flat.row_start[1] :], flat.labels[flat.row_start[1] :])
