"""The multiplication generator: against arithmetic, against the published files, and against a row-by-row encoding."""

import os
from pathlib import Path

import numpy as np
import pytest
from degenerate import refuse_to_open
from hypothesis import given
from hypothesis import strategies as st
from reading import reader
from tokenizers import Tokenizer, models

from cot_components.data.generated.multiplication import (
    draw_operands,
    line_digits,
    multiplication_line,
    multiplication_lines,
    multiplication_rows,
    multiplication_traces,
    read_operands,
)
from cot_components.data.read.traces import read_traces
from cot_components.data.rows.prepare import prepare_rows
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.errors import UserError
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.models.tokenizers import hf_tokenizer

SHARED = os.environ.get("COT_SHARED_DATA")
GOOD = multiplication_line(12, 34, 2)


def digits_of(numbers, num_digits):
    return np.array([[int(d) for d in str(n).zfill(num_digits)[::-1]] for n in numbers], dtype=np.uint8)


def numbers_of(digits):
    return [int("".join(map(str, row[::-1]))) for row in digits.tolist()]


def unordered(a, b):
    return {frozenset(pair) for pair in zip(numbers_of(a), numbers_of(b), strict=True)}


def test_published_example():
    assert multiplication_line(3719, 3349, 4) == (
        "9 1 7 3 * 9 4 3 3||1 7 4 3 3 + 0 6 7 8 4 1 ( 1 3 2 2 8 1 ) + 0 0 7 5 1 1 1 ( 1 3 9 7 9 2 1 ) + "
        "0 0 0 7 5 1 1 1 #### 1 3 9 4 5 4 2 1"
    )


def test_every_published_row_is_rebuilt_from_its_operands(tmp_path):
    """The paper's 4 x 4 files, or a file made the obvious way with their odd cases (zeros, equal operands)."""
    files = [tmp_path / "4_by_4.txt"]
    pairs = [(3719, 3349), (1000, 1000), (9999, 9999), (1001, 9000), (7070, 7070), (2967, 6361)]
    files[0].write_text("".join(multiplication_line(*pair, 4) + "\n" for pair in pairs))
    if SHARED:
        files = sorted((Path(SHARED) / "icot_mult/4_by_4").glob("*.txt"))
    compared = 0
    for path in files:
        lines, (a, b) = path.read_text().splitlines(), read_operands(path)
        assert multiplication_lines(a, b) == lines
        assert [multiplication_line(x, y, 4) for x, y in zip(numbers_of(a), numbers_of(b), strict=True)] == lines
        compared += len(lines)
    assert compared >= (2000 if SHARED else 6)


@given(num_digits=st.integers(1, 23), data=st.data())
def test_lines_of_any_width_equal_the_obvious_way(num_digits, data):
    least, most = 10 ** (num_digits - 1), 10**num_digits - 1
    number = st.integers(least, most) | st.sampled_from([least, most])
    pairs = data.draw(st.lists(st.tuples(number, number), min_size=1, max_size=5))
    a, b = (digits_of(numbers, num_digits) for numbers in zip(*pairs, strict=True))
    lines, digits = multiplication_lines(a, b), line_digits(a, b)
    assert lines == [multiplication_line(*pair, num_digits) for pair in pairs]
    for (x, y), line in zip(pairs, lines, strict=True):
        assert int(line.split(" #### ")[1].replace(" ", "")[::-1]) == x * y
    assert digits.dtype == np.uint8 and digits.max() <= 9
    assert digits.shape[1] == sum(c.isdigit() for c in lines[0])


@pytest.mark.parametrize(
    ("num_digits", "counts"), [(4, (46, 8)), (5, (74, 10)), (7, (148, 14)), (9, (246, 18)), (11, (368, 22))]
)
def test_symbols_per_thought_are_the_published_ones(num_digits, counts):
    thought, answer = multiplication_lines(*draw_operands(num_digits, 1))[0].split("||")[1].split(" #### ")
    assert (len(thought.split()), len(answer.split())) == counts


@pytest.mark.parametrize("num_digits", [1, 2, 4, 20])
def test_operands_are_uniform_over_numbers_of_that_width(num_digits):
    for digits in draw_operands(num_digits, 20_000, seed=3):
        assert digits.shape == (20_000, num_digits)
        for column in range(num_digits):
            counts, is_top = np.bincount(digits[:, column], minlength=10), column == num_digits - 1
            assert counts[0] == 0 or not is_top, "the top digit is never 0"
            shares = counts[is_top:] / 20_000
            assert (np.abs(shares - 1 / len(shares)) < (0.15 if num_digits == 1 else 0.015)).all()


def test_the_same_seed_draws_the_same_pairs():
    first, same, other = (np.concatenate(draw_operands(4, 100, seed=seed), axis=1) for seed in (0, 0, 1))
    assert (first == same).all() and not (first == other).all()


@pytest.mark.parametrize("num_digits", [1, 2, 3])
def test_held_out_pairs_are_never_trained_on_with_any_seed(num_digits):
    held_out = unordered(*draw_operands(num_digits, 20_000, split="held_out"))
    trained = set().union(*(unordered(*draw_operands(num_digits, 60_000, seed=seed)) for seed in (0, 1)))
    assert held_out and not held_out & trained
    if num_digits == 2:  # every pair was met: 90 numbers
        assert len(held_out | trained) == 90 * 91 // 2 and 0.05 < len(held_out) / (90 * 91 // 2) < 0.15


def test_validation_pairs_are_neither_held_out_nor_trained_on_where_they_are_excluded():
    of = {split: unordered(*draw_operands(2, 60_000, split=split)) for split in ("train", "validation", "held_out")}
    rest = unordered(*draw_operands(2, 60_000, exclude_validation=True))
    assert of["validation"] and of["train"] - rest == of["validation"] and not of["validation"] & of["held_out"]


def test_excluded_pairs_are_left_out_in_either_order(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(GOOD + "\n\n" + multiplication_line(56, 56, 2) + "\n")
    drawn, everything = (unordered(*draw_operands(2, 60_000, exclude=e)) for e in ([read_operands(path)], []))
    assert everything - drawn == {frozenset({12, 34}), frozenset({56})} & everything != set()
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    with pytest.raises(ValueError, match="no pair of 1-digit numbers is left"):
        draw_operands(1, 5, exclude=[tuple(digits_of(numbers, 1) for numbers in zip(*pairs, strict=True))])


@pytest.mark.parametrize("knobs", [{"num_digits": 0}, {"split": "test"}])
def test_impossible_draws_are_refused(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        draw_operands(**{"num_digits": 2, "count": 1, **knobs})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 * 3 4 | 1 #### 1 2 3 4", r"'\|\|' does not occur exactly once"),
        ("1 2 * 3 4||1 2 3 4", "'####' does not occur exactly once"),
        ("1 2 * 3 x||1 #### 1 2 3 4", "not a multiplication of digits"),
        ("1 2 * 3 4||1 + y #### 1 2 3 4", "not a multiplication of digits"),
        ("1 2 * 3 4||1 #### 12 34", "not a multiplication of digits"),
        ("1 2 3 * 3 4 5||1 #### 1 2 3 4", "the numbers do not have as many digits"),
        ("1 2 * 3||1 #### 1 2 3 4", "the numbers do not have as many digits"),
        (b"1 2 * \xff", "not UTF-8$"),
    ],
)
def test_lines_that_are_no_multiplication_are_named(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "bad.txt").write_bytes(GOOD.encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=rf"bad\.txt:2: {message}"):
        read_operands(tmp_path / "bad.txt")


def test_files_that_hold_nothing_or_cannot_be_read_are_named(tmp_path, monkeypatch):
    path = tmp_path / "empty.txt"
    path.write_text("\n \n")
    named = [(path, r"empty\.txt: there are no rows"), (tmp_path / "absent.txt", "no such file")]
    for source, message in (*named, ("x" * 300, "File name too long")):
        with pytest.raises(UserError, match=message):
            read_operands(source)
    monkeypatch.setattr(Path, "open", refuse_to_open)
    with pytest.raises(UserError, match=r"empty\.txt: cannot be read \(Permission denied\)$"):
        read_operands(path)


def test_traces_are_what_the_shared_reader_reads(tmp_path):
    a, b = draw_operands(3, 20)
    (tmp_path / "rows.txt").write_text("\n".join(multiplication_lines(a, b)) + "\n")
    read, made = read_traces(tmp_path / "rows.txt"), multiplication_traces(a, b)
    assert [(t.id, t.messages, t.answer) for t in read] == [(t.id, t.messages, t.answer) for t in made]


@pytest.mark.parametrize(("num_digits", "count"), [(1, 60), (2, 60), (4, 60), (11, 60), (2, 0)])
def test_rows_equal_the_encoded_traces(num_digits, count):
    chat, (a, b) = ICoTFormat(compact_tokenizer().text), draw_operands(num_digits, count, seed=5)
    fast = multiplication_rows(a, b, chat)
    assert len(fast) == count
    if count:
        slow = prepare_rows(reader(multiplication_traces(a, b)), chat).rows
        for name in ("tokens", "roles", "counters", "weights", "row_start", "ids"):
            assert np.array_equal(getattr(fast, name), getattr(slow, name)), name
            assert getattr(fast, name).dtype == getattr(slow, name).dtype, name
        thought = multiplication_lines(a, b)[0].split("||")[1].split(" #### ")[0]
        assert fast.counters.max() == len(thought.split())


def test_a_tokenizer_that_merges_digits_is_refused(tmp_path):
    merges = [(d, " ") for d in "0123456789"] + [(f"{x} ", f"{y} ") for x in "0123456789" for y in "01234"]
    vocabulary = [*"0123456789 +*()#", *(x + y for x, y in merges)]
    library = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges))
    library.add_special_tokens(["<end>"])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(ValueError, match="every digit a token of its own"):
        multiplication_rows(*draw_operands(3, 30), ICoTFormat(hf_tokenizer(str(tmp_path)).text))
