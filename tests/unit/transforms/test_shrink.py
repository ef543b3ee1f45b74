"""Thoughts that shrink (`Prune`, `Truncate`) or are read with holes (`Corrupt`): each against its slow twin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import assert_same_flat, make, make_flat, random_rows, trace_roles

from cot_components.clock import Clock
from cot_components.data.rows.batches import pad
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.schedules import Anneal
from cot_components.transforms import Blur, Corrupt, Prune, Truncate
from cot_components.transforms.remove import keep_tokens

NOW = Clock(0, 0)
STEP_ENDS = (7, 8)
TOKENIZER = SimpleNamespace(decode=lambda ids: ".\n" if ids[0] in STEP_ENDS else "x", pad_id=3, vocab_size=50)
BIG = make_flat([trace_roles(10, 20_000, 10)])


def score_of(tokens: np.ndarray) -> np.ndarray:
    return (tokens * 37 % 11).astype(np.float32)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Flat]:
    """Random rows and their scores, with many ties."""
    rows, _ = make(60)
    folder = tmp_path_factory.mktemp("scores")
    entropy = {"entropy": Column("a model")}
    score_rows(rows, lambda flat: {"entropy": score_of(flat.tokens)}, folder, columns=entropy, tokenizer="t")
    return str(folder), rows.flat(range(60))


def thoughts(flat: Flat) -> list[list[int]]:
    """Indices of each row's thought tokens."""
    pairs = zip(flat.row_start, flat.row_start[1:], strict=False)
    return [[i for i in range(a, b) if flat.roles[i] == Role.THOUGHT] for a, b in pairs]


def slowly_pruned(flat: Flat, *, unit: str, order: str, ratio: float | None, budget: int | None) -> list[int]:
    """Indices that stay: sort each thought's units, drop from the front."""
    gone: set[int] = set()
    for thought in thoughts(flat):
        units: list[list[int]] = []
        for i in thought:
            begins = unit == "token" or not units or flat.tokens[units[-1][-1]] in STEP_ENDS
            units.append([i]) if begins else units[-1].append(i)
        sign = 1 if order == "lowest" else -1
        leaving = sorted(units, key=lambda one: sign * sum(score_of(flat.tokens[one])))
        if ratio is not None:
            gone |= {i for one in leaving[: round(ratio * len(units))] for i in one}
        while budget is not None and len(set(thought) - gone) > budget:
            gone |= set(leaving.pop(0))
    return [i for i in range(len(flat.tokens)) if i not in gone]


@pytest.mark.parametrize("unit", ["token", "step"])
@pytest.mark.parametrize("order", ["lowest", "highest"])
@pytest.mark.parametrize(
    "amount", [{"ratio": r} for r in (0.0, 0.3, 0.8, 1.0)] + [{"budget": b} for b in (0, 4, 17, 99)], ids=str
)
def test_prune_equals_sorting_row_by_row(scored, unit, order, amount) -> None:
    folder, flat = scored
    pruned = Prune(scores=folder, order=order, unit=unit, tokenizer=TOKENIZER, **amount)(flat, NOW)
    stays = slowly_pruned(flat, unit=unit, order=order, **{"ratio": None, "budget": None, **amount})
    assert_same_flat(pruned, keep_tokens(flat, np.isin(np.arange(len(flat.tokens)), stays)))
    assert (pruned is flat) == (len(stays) == len(flat.tokens))


def test_what_is_pruned_stays_gone_and_rows_do_not_see_each_other(scored) -> None:
    _, flat = scored
    prune = Prune(order="random", ratio=Anneal(first=0.0, last=1.0, num_steps=4))
    before, counts = None, []
    for step in range(5):
        after = prune(flat, Clock(step, step))
        here = set(zip(np.repeat(flat.ids, after.lengths), after.counters, after.roles, strict=True))
        assert before is None or here <= before
        before = here
        counts.append(len(after.tokens))
    assert counts[0] == len(flat.tokens) > counts[1] > counts[2] > counts[3] > counts[4]
    assert counts[4] == (flat.roles != Role.THOUGHT).sum()
    half, alone = Prune(order="random", ratio=0.5), random_rows(60)
    together = half(alone.flat(range(60)), NOW)
    for b in (0, 7, 31):
        span = slice(together.row_start[b], together.row_start[b + 1])
        assert half(alone.flat([b]), Clock(3, 9)).tokens.tolist() == together.tokens[span].tolist()
    others = Prune(order="random", ratio=0.5, seed=1)(flat, NOW)
    assert others.counters.tolist() != half(flat, NOW).counters.tolist()


def test_scores_of_other_tokens_and_missing_columns_are_refused_whatever_the_strength(scored) -> None:
    folder, flat = scored
    other = Flat(**{**vars(flat), "tokens": flat.tokens + 1})
    with pytest.raises(UserError, match="scored with other tokens"):
        Prune(scores=folder, ratio=Anneal(first=0.0, last=0.5, num_steps=9))(other, NOW)
    with pytest.raises(UserError, match="no scores 'entrpy'; did you mean 'entropy'"):
        Prune(scores=folder, column="entrpy", ratio=0.5)
    prune = Prune(scores=folder, ratio=0.5)
    assert prune.fingerprint() and prune.needs_whole_rows and not prune.needs_epoch
    assert not Prune(order="random", ratio=0.5).needs_whole_rows


@given(a=st.integers(0, 12), more=st.integers(0, 12), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_truncate_equals_slicing_row_by_row(a, more, seed, epoch) -> None:
    flat, clock = random_rows(25).flat(range(25)), Clock(epoch, 4)
    truncate = Truncate(at_least=a, at_most=a + more, seed=seed)
    budgets = truncate.budgets(flat, clock)
    assert budgets.min() >= a and budgets.max() <= a + more
    keep, labels = np.ones(len(flat.tokens), dtype=bool), flat.labels.copy()
    for thought, budget in zip(thoughts(flat), budgets, strict=True):
        keep[thought[budget:]] = False
        if thought[budget:]:
            labels[thought[-1] + 1] = IGNORE
    assert_same_flat(truncate(flat, clock), keep_tokens(flat.with_labels(labels), keep))
    cut = truncate(flat, clock)
    answers = cut.roles == Role.ANSWER
    assert (cut.labels[answers] == cut.tokens[answers]).all()


def test_truncate_draws_every_budget_and_draws_anew() -> None:
    flat = make_flat([trace_roles(1, 20, 1)] * 900)
    truncate = Truncate(at_least=3, at_most=5)
    lengths = [truncate(flat, Clock(epoch, 0)).lengths - 4 for epoch in (0, 1)]
    assert set(lengths[0]) == {3, 4, 5} and np.bincount(lengths[0])[3:].min() > 240
    assert (lengths[0] != lengths[1]).any()
    assert Truncate(at_least=3, at_most=5, ratio=0.0)(flat, NOW) is flat
    assert Truncate(at_least=20, at_most=30)(flat, NOW) is flat
    share = (Truncate(at_least=3, at_most=5, ratio=0.3)(flat, NOW).lengths < 24).mean()
    assert 0.25 < share < 0.35


def test_a_thought_that_ends_before_the_cut_keeps_its_tag() -> None:
    flat = make_flat([trace_roles(1, 3, 1) + trace_roles(1, 9, 1)])
    cut = Truncate(at_least=5, at_most=5)(flat, NOW)
    tags = cut.roles == Role.THINK_CLOSE
    assert (cut.labels[tags] == IGNORE).tolist() == [False, True]
    assert np.flatnonzero(cut.counters >= 0).tolist() == [2, 3, 4, 9, 10]


@pytest.mark.parametrize(("by", "expected"), [("pad", 3), (41, 41), ("random", None)])
def test_corrupt_changes_what_is_read_and_no_label(by, expected) -> None:
    flat = random_rows(40).flat(range(40))
    corrupt = Corrupt(ratio=0.5, by=by, tokenizer=TOKENIZER)
    out = corrupt(flat, Clock(2, 0))
    assert_same_flat(Flat(**{**vars(out), "inputs": None}), flat)
    masked = out.inputs != flat.tokens
    assert masked.any() and (flat.roles[masked] == Role.THOUGHT).all()
    assert expected is None or (out.inputs[masked] == expected).all()
    assert out.inputs.max() <= max(corrupt.largest_id, flat.tokens.max()) and out.inputs.min() >= 0
    clean, batch = pad(flat, pad_id=0), pad(out, pad_id=0)
    assert batch.labels.equal(clean.labels) and batch.next_tokens.equal(clean.next_tokens)
    assert int((batch.tokens != clean.tokens).sum()) == masked.sum()
    for b in (0, 11):  # no draw depends on the batch
        span = slice(out.row_start[b], out.row_start[b + 1])
        assert corrupt(random_rows(40).flat([b]), Clock(2, 0)).read.tolist() == out.inputs[span].tolist()
    assert keep_tokens(out, masked).inputs.tolist() == out.inputs[masked].tolist()


def test_corrupt_draws() -> None:
    read = lambda **how: Corrupt(by=5, **{"ratio": 0.4, **how})(BIG, NOW).inputs == 5  # noqa: E731
    low, high = read(ratio=0.2), read(ratio=0.4)
    assert (high | ~low).all() and abs(high.sum() / 20_000 - 0.4) < 0.01
    assert Corrupt(ratio=0.0, by=5)(BIG, NOW) is BIG
    assert (read(seed=1) != high).any() and (
        Corrupt(by=5)(BIG, Clock(1, 0)).inputs != Corrupt(by=5)(BIG, NOW).inputs
    ).any()
    ids = Corrupt(ratio=1.0, by="random", tokenizer=TOKENIZER)(BIG, NOW).inputs[BIG.roles == Role.THOUGHT]
    counts = np.bincount(ids, minlength=50)
    assert len(counts) == 50 and counts.min() > 300
    blurred = (Blur(ratio=0.4, keep_first=0)(BIG, NOW).labels == IGNORE) & (BIG.roles == Role.THOUGHT)
    assert abs((high & blurred).sum() / 20_000 - 0.16) < 0.01, "drawn apart from what Blur draws with the same seed"
    both = Blur(ratio=0.4)(Corrupt(by=5)(BIG, NOW), NOW), Corrupt(by=5)(Blur(ratio=0.4)(BIG, NOW), NOW)
    assert_same_flat(*both)


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: Prune(order="random"), "one of ratio and budget"),
        (lambda: Prune(order="random", ratio=0.5, budget=3), "one of ratio and budget"),
        (lambda: Prune(order="random", ratio=1.5), "prune: ratio"),
        (lambda: Prune(order="random", budget=-1), "prune: budget"),
        (lambda: Prune(order="random", ratio=Anneal(first=0.0, last=2.0, num_steps=3)), "prune: ratio"),
        (lambda: Prune(order="random", ratio=lambda clock: 3.0)(BIG, NOW), "at step 0 it is 3"),
        (lambda: Prune(order="first", ratio=0.5), "prune: order"),
        (lambda: Prune(order="random", unit="word", ratio=0.5), "prune: unit"),
        (lambda: Prune(order="random", unit="step", ratio=0.5), "tokenizer"),
        (lambda: Prune(order="random", ratio=0.5, seed=-1), "prune: seed"),
        (lambda: Prune(ratio=0.5), "needs scores"),
        (lambda: Prune(scores="/nowhere", ratio=0.5), "/nowhere: no scores"),
        (lambda: Truncate(at_least=5, at_most=4), "truncate: at_least"),
        (lambda: Truncate(at_least=-1, at_most=4), "truncate: at_least"),
        (lambda: Truncate(at_least=1, at_most=4, ratio=2.0), "truncate: ratio"),
        (lambda: Truncate(at_least=1, at_most=4, seed=-1), "truncate: seed"),
        (lambda: Corrupt(ratio=-0.1, by=3), "corrupt: ratio"),
        (lambda: Corrupt(by=-1), "corrupt: by"),
        (lambda: Corrupt(by="mask"), "corrupt: by"),
        (lambda: Corrupt(by="pad"), "tokenizer"),
        (lambda: Corrupt(by="random", tokenizer=object()), "vocab_size"),
        (lambda: Corrupt(by=1, seed=-1), "corrupt: seed"),
    ],
)
def test_impossible_settings_are_refused(make_one, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_one()
