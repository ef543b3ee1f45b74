"""The multiplication generator: against arithmetic, against the published files, and against a row-by-row encoding."""

import os
from pathlib import Path

import numpy as np
import pytest
from degenerate import refuse_to_open
from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.bad_rows import DropReport
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


def digits_of(numbers: list[int], num_digits: int) -> np.ndarray:
    return np.array([[int(d) for d in str(n).zfill(num_digits)[::-1]] for n in numbers], dtype=np.uint8)


def numbers_of(digits: np.ndarray) -> list[int]:
    return [int("".join(map(str, row[::-1]))) for row in digits.tolist()]


def published_files(tmp_path: Path) -> list[Path]:
    """The paper's 4 x 4 files, or a file made the obvious way with their odd cases (zeros, equal operands)."""
    if "COT_SHARED_DATA" in os.environ:
        return sorted((Path(os.environ["COT_SHARED_DATA"]) / "icot_mult" / "4_by_4").glob("*.txt"))
    pairs = [(3719, 3349), (1000, 1000), (9999, 9999), (1001, 9000), (7070, 7070), (2967, 6361)]
    path = tmp_path / "4_by_4.txt"
    path.write_text("".join(multiplication_line(a, b, 4) + "\n" for a, b in pairs))
    return [path]


def test_published_example():
    assert multiplication_line(3719, 3349, 4) == (
        "9 1 7 3 * 9 4 3 3||1 7 4 3 3 + 0 6 7 8 4 1 ( 1 3 2 2 8 1 ) + 0 0 7 5 1 1 1 ( 1 3 9 7 9 2 1 ) + "
        "0 0 0 7 5 1 1 1 #### 1 3 9 4 5 4 2 1"
    )


def test_every_published_row_is_rebuilt_from_its_operands(tmp_path):
    compared = 0
    for path in published_files(tmp_path):
        lines = path.read_text().splitlines()
        a, b = read_operands(path)
        assert multiplication_lines(a, b) == lines
        assert [multiplication_line(x, y, 4) for x, y in zip(numbers_of(a), numbers_of(b), strict=True)] == lines
        compared += len(lines)
    assert compared >= (2000 if "COT_SHARED_DATA" in os.environ else 6)


@given(num_digits=st.integers(1, 23), data=st.data())
def test_lines_of_any_width_equal_the_obvious_way(num_digits, data):
    number = st.integers(10 ** (num_digits - 1), 10**num_digits - 1) | st.sampled_from(
        [10 ** (num_digits - 1), 10**num_digits - 1]
    )
    pairs = data.draw(st.lists(st.tuples(number, number), min_size=1, max_size=5))
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    lines = multiplication_lines(digits_of(first, num_digits), digits_of(second, num_digits))
    assert lines == [multiplication_line(a, b, num_digits) for a, b in pairs]
    for (a, b), line in zip(pairs, lines, strict=True):
        product = int(line.split(" #### ")[1].replace(" ", "")[::-1])
        assert product == a * b


def test_symbols_per_thought_are_the_published_ones():
    counts = {}
    for num_digits in (4, 5, 7, 9, 11):
        a, b = draw_operands(num_digits, 1)
        line = multiplication_lines(a, b)[0]
        thought, answer = line.split("||")[1].split(" #### ")
        counts[num_digits] = (len(thought.split()), len(answer.split()))
    assert counts == {4: (46, 8), 5: (74, 10), 7: (148, 14), 9: (246, 18), 11: (368, 22)}


@pytest.mark.parametrize("num_digits", [1, 2, 4, 20])
def test_operands_are_uniform_over_numbers_of_that_width(num_digits):
    a, b = draw_operands(num_digits, 20_000, seed=3)
    for digits in (a, b):
        assert digits.shape == (20_000, num_digits)
        assert digits[:, -1].min() == 1, "the top digit is never 0"
        for column in range(num_digits):
            counts = np.bincount(digits[:, column], minlength=10)[1 if column == num_digits - 1 else 0 :]
            assert (np.abs(counts / 20_000 - 1 / len(counts)) < (0.15 if num_digits == 1 else 0.015)).all()


def test_the_same_seed_draws_the_same_pairs():
    draws = [np.concatenate(draw_operands(4, 100, seed=seed), axis=1) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and not (draws[0] == draws[2]).all()
    longer = np.concatenate(draw_operands(4, 150, seed=0), axis=1)
    assert longer.shape == (150, 8)


def unordered(a: np.ndarray, b: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in zip(numbers_of(a), numbers_of(b), strict=True)}


@pytest.mark.parametrize("num_digits", [1, 2, 3])
def test_held_out_pairs_are_never_trained_on_with_any_seed(num_digits):
    held_out = unordered(*draw_operands(num_digits, 20_000, split="held_out"))
    trained = set().union(*(unordered(*draw_operands(num_digits, 60_000, seed=seed)) for seed in (0, 1)))
    assert held_out and not held_out & trained
    if num_digits == 2:  # every pair was met: 90 numbers
        assert len(held_out | trained) == 90 * 91 // 2 and 0.05 < len(held_out) / (90 * 91 // 2) < 0.15


def test_excluded_pairs_are_left_out_in_either_order(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(multiplication_line(12, 34, 2) + "\n\n" + multiplication_line(56, 56, 2) + "\n")
    excluded = read_operands(path)
    drawn = unordered(*draw_operands(2, 60_000, exclude=[excluded]))
    everything = unordered(*draw_operands(2, 60_000))
    assert everything - drawn == {frozenset({12, 34}), frozenset({56})} & everything
    assert len(everything - drawn) > 0


def test_no_pair_left_is_an_error():
    everything = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    excluded = tuple(digits_of([pair[i] for pair in everything], 1) for i in (0, 1))
    with pytest.raises(ValueError, match="no pair of 1-digit numbers is left"):
        draw_operands(1, 5, exclude=[excluded])


@pytest.mark.parametrize(
    ("knobs", "message"), [({"num_digits": 0}, "num_digits"), ({"split": "test"}, "split must be")]
)
def test_impossible_draws_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        draw_operands(**{"num_digits": 2, "count": 1, **knobs})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 * 3 4 | 1 #### 1 2 3 4", r"bad\.txt:2: '\|\|' does not stand there exactly once"),
        ("1 2 * 3 4||1 2 3 4", r"bad\.txt:2: '####' does not stand there exactly once"),
        ("1 2 * 3 x||1 #### 1 2 3 4", r"bad\.txt:2: not a multiplication of digits"),
        ("1 2 * 3 4||1 + y #### 1 2 3 4", r"bad\.txt:2: not a multiplication of digits"),
        ("1 2 * 3 4||1 #### 12 34", r"bad\.txt:2: not a multiplication of digits"),
        ("1 2 3 * 3 4 5||1 #### 1 2 3 4", r"bad\.txt:2: the numbers do not have as many digits"),
        ("1 2 * 3||1 #### 1 2 3 4", r"bad\.txt:2: the numbers do not have as many digits"),
    ],
)
def test_lines_that_are_no_multiplication_are_named(tmp_path, line, message):
    (tmp_path / "bad.txt").write_text(multiplication_line(12, 34, 2) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_operands(tmp_path / "bad.txt")


def test_files_without_rows_are_named(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt: there are no rows"):
        read_operands(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="no such file"):
        read_operands(tmp_path / "absent.txt")


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    path = tmp_path / "bad.txt"
    path.write_bytes(multiplication_line(12, 34, 2).encode() + b"\n1 2 * \xff\n")
    with pytest.raises(UserError, match=r"bad\.txt:2: not UTF-8$"):
        read_operands(path)
    with pytest.raises(UserError, match="File name too long"):
        read_operands("x" * 300)
    monkeypatch.setattr(Path, "open", refuse_to_open)
    with pytest.raises(UserError, match=r"bad\.txt: cannot be read \(Permission denied\)$"):
        read_operands(path)


def read_all(traces):
    def read(report: DropReport):
        report.read += len(traces)
        return traces

    return read


def test_traces_are_what_the_shared_reader_reads(tmp_path):
    a, b = draw_operands(3, 20)
    (tmp_path / "rows.txt").write_text("\n".join(multiplication_lines(a, b)) + "\n")
    read = list(read_traces(tmp_path / "rows.txt"))
    made = multiplication_traces(a, b)
    assert [(t.id, t.messages, t.answer) for t in read] == [(t.id, t.messages, t.answer) for t in made]


@pytest.mark.parametrize("num_digits", [1, 2, 4, 11])
def test_rows_equal_the_encoded_traces(num_digits):
    chat = ICoTFormat(compact_tokenizer().text)
    a, b = draw_operands(num_digits, 60, seed=5)
    fast = multiplication_rows(a, b, chat)
    slow = prepare_rows(read_all(multiplication_traces(a, b)), chat).rows
    for name in ("tokens", "roles", "counters", "weights", "row_start", "ids"):
        assert np.array_equal(getattr(fast, name), getattr(slow, name)), name
        assert getattr(fast, name).dtype == getattr(slow, name).dtype, name
    assert fast.counters.max() + 1 == len(multiplication_lines(a, b)[0].split("||")[1].split(" #### ")[0].split()) + 1


def test_no_rows_is_no_error():
    rows = multiplication_rows(*draw_operands(2, 0), ICoTFormat(compact_tokenizer().text))
    assert len(rows) == 0 and len(rows.tokens) == 0


def test_a_tokenizer_that_merges_digits_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    from cot_components.models.tokenizers import hf_tokenizer

    text = "0123456789 +*()#"
    merges = [(d, " ") for d in "0123456789"] + [(f"{x} ", f"{y} ") for x in "0123456789" for y in "01234"]
    vocabulary = [*text, *(x + y for x, y in merges)]
    library = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges))
    library.add_special_tokens(["<end>"])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    merging = hf_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="every digit a token of its own"):
        multiplication_rows(*draw_operands(3, 30), ICoTFormat(merging.text))


def test_line_digits_fill_the_layout():
    for num_digits in (1, 2, 7):
        a, b = draw_operands(num_digits, 3)
        digits = line_digits(a, b)
        assert digits.dtype == np.uint8 and digits.max() <= 9
        assert digits.shape[1] == sum(c.isdigit() for c in multiplication_lines(a, b)[0])
