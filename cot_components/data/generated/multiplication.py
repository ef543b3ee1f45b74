"""K x K digit multiplication with its partial products as thought: the task of stepwise internalisation, for any K.

A line is `<a> * <b>||<thought> #### <product>`, every number least significant digit first with blanks between digits.
For each digit of `b` from the lowest, the thought holds the shifted partial product; after each but the first and the
last, the running sum in brackets follows. Numbers are padded with zeros, so all lines of one K have the same layout and
a million of them fit in an array of digits. Format of https://github.com/da03/Internalize_CoT_Step_by_Step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cot_components.clock import draw_bits, row_keys
from cot_components.data.bad_rows import TraceError
from cot_components.data.generated.split import HELD_OUT_ONE_IN
from cot_components.data.read.files import unreadable
from cot_components.data.read.places import find_source
from cot_components.data.read.traces import Message, Trace
from cot_components.data.rows.encode import EncodedRow, encode_turns
from cot_components.data.rows.store import Rows
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.errors import UserError

Split = Literal["train", "validation", "held_out"]
SPLIT_SEED = 2405_14838

_LINE = re.compile(r"(?P<a>\d(?: \d)*) \* (?P<b>\d(?: \d)*)\|\|(?P<thought>[\d +()]*?) ?#### (?P<product>\d(?: \d)*)")


def multiplication_line(a: int, b: int, num_digits: int) -> str:
    """One line, the slow and obvious way."""

    def spell(number: int, width: int) -> str:
        return " ".join(str(number).zfill(width)[::-1])

    thought, total = "", 0
    for place, digit in enumerate(str(b).zfill(num_digits)[::-1]):
        partial = a * int(digit) * 10**place
        total += partial
        thought += (" + " if place else "") + spell(partial, num_digits + 1 + place)
        if 0 < place < num_digits - 1:
            thought += f" ( {spell(total, num_digits + 1 + place)} )"
    question = f"{spell(a, num_digits)} * {spell(b, num_digits)}"
    return f"{question}||{thought} #### {spell(a * b, 2 * num_digits)}"


def draw_operands(
    num_digits: int,
    count: int,
    *,
    seed: int = 0,
    split: Split = "train",
    exclude: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    exclude_validation: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Uniform pairs of numbers with exactly `num_digits` digits, drawn with repetition.

    Args:
        split: `held_out` pairs occur in no training set of any seed; `validation` is as many other pairs. `a * b` and
            `b * a` are one pair.
        exclude: operands (as `read_operands` returns them) whose pairs are also left out, in either order.
        exclude_validation: leave `validation` pairs out of `train`.

    Returns:
        Digits of a and of b, least significant first, uint8 `[count, num_digits]` each.

    Raises:
        UserError: fewer than 1 digit, or no pair is left.
    """
    if num_digits < 1:
        raise UserError(f"num_digits must be at least 1, got {num_digits}")
    if split not in get_args(Split):
        raise UserError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    tenths = {"held_out": [0], "validation": [1]}.get(split, range(1 + exclude_validation, HELD_OUT_ONE_IN))
    excluded = np.concatenate([np.empty(0, dtype="S1"), *(_pair_text(a, b) for a, b in exclude)])
    random = np.random.default_rng([seed, num_digits])
    drawn, missing, draws_left = [np.empty((0, 2 * num_digits), dtype=np.uint8)], count, 100 + count
    while missing > 0:
        size = min(2 * missing + 100, 1 << 20)
        digits = random.integers(0, 10, size=(size, 2 * num_digits), dtype=np.uint8)
        digits[:, [num_digits - 1, -1]] = random.integers(1, 10, size=(size, 2), dtype=np.uint8)
        a, b = digits[:, :num_digits], digits[:, num_digits:]
        wanted = np.isin(_tenth(a, b), tenths)
        wanted &= ~np.isin(_pair_text(a, b), excluded)
        drawn.append(digits[wanted][:missing])
        missing -= len(drawn[-1])
        draws_left -= 1
        if draws_left == 0:
            raise UserError(
                f"no pair of {num_digits}-digit numbers is left for split '{split}' outside the excluded files"
            )
    digits = np.concatenate(drawn)
    return digits[:, :num_digits], digits[:, num_digits:]


def _pair_text(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A byte string per pair that does not depend on the order of its numbers, `[R]`."""
    width = a.shape[1]
    first, second = (np.ascontiguousarray(x + ord("0"), dtype=np.uint8).view(f"S{width}").ravel() for x in (a, b))
    return np.char.add(np.where(first < second, first, second), np.where(first < second, second, first))


def _tenth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which tenth of all pairs each is in, uint64 `[R]`: a hash of the unordered pair."""
    places = np.uint64(10) ** np.arange(a.shape[1], dtype=np.uint64)  # wraps beyond 19 digits, where any hash does
    first, second = ((x.astype(np.uint64) * places).sum(axis=1, dtype=np.uint64).view(np.int64) for x in (a, b))
    keys = row_keys(SPLIT_SEED, a.shape[1], np.minimum(first, second))
    return draw_bits(keys, np.maximum(first, second)) % np.uint64(HELD_OUT_ONE_IN)


def layout(num_digits: int) -> str:
    """A line of this K with every digit 0: digits have the same positions in all lines."""
    return multiplication_line(0, 0, num_digits)


def line_digits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """All digits of the lines of these operands from left to right, uint8 `[R, D]`. `a`, `b`: uint8 `[R, K]`.

    Schoolbook arithmetic on columns of digits, so numbers can have any length.
    """
    num_rows, num_digits = a.shape
    blocks = [a, b]
    total = np.zeros((num_rows, 2 * num_digits), dtype=np.uint8)
    for place in range(num_digits):
        partial = np.zeros_like(total)
        carry = np.zeros(num_rows, dtype=np.uint8)
        for column in range(num_digits):
            value = a[:, column] * b[:, place] + carry  # at most 9 * 9 + 8
            partial[:, place + column], carry = value % 10, value // 10
        partial[:, place + num_digits] = carry
        _add_in_place(total, partial)
        width = num_digits + 1 + place
        blocks.append(partial[:, :width])
        if 0 < place < num_digits - 1:
            blocks.append(total[:, :width].copy())
    return np.concatenate([*blocks, total], axis=1)


def _add_in_place(total: np.ndarray, addend: np.ndarray) -> None:
    carry = np.zeros(len(total), dtype=np.uint8)
    for column in range(total.shape[1]):
        value = total[:, column] + addend[:, column] + carry
        total[:, column], carry = value % 10, value // 10


def multiplication_lines(a: np.ndarray, b: np.ndarray) -> list[str]:
    """The lines of these operands; `multiplication_line` for all of them at once."""
    template = np.frombuffer(layout(a.shape[1]).encode(), dtype=np.uint8)
    text = np.tile(template, (len(a), 1))
    text[:, template == ord("0")] = line_digits(a, b) + ord("0")
    whole, width = text.tobytes().decode(), len(template)
    return [whole[start : start + width] for start in range(0, len(whole), width)]


def multiplication_traces(a: np.ndarray, b: np.ndarray) -> list[Trace]:
    """The lines as traces, numbered from 0."""
    return [_trace(number, line) for number, line in enumerate(multiplication_lines(a, b))]


def _trace(number: int, line: str) -> Trace:
    question, solution = line.split("||")
    thought, product = solution.split(" #### ")
    turns = (Message("user", question), Message("assistant", f"#### {product}", thought=thought))
    return Trace(number, turns, f"multiplication:{number + 1}", product)


def multiplication_rows(a: np.ndarray, b: np.ndarray, chat: ICoTFormat) -> Rows:
    """`multiplication_traces` encoded, without calling the tokenizer for each of them: a million rows in seconds.

    All lines of one K have the same tokens at the same places, except digits. So the ten lines made of a single
    repeated digit give the token of every digit at every place; some real lines are encoded as a check.

    Raises:
        UserError: a tokenizer that does not give every digit a token of its own.
    """
    template = layout(a.shape[1])
    ones = _encode([template.replace("0", str(digit)) for digit in range(10)], chat)
    width = len(ones[0].tokens)
    digits = line_digits(a, b)
    same_width = all(len(row.tokens) == width for row in ones)
    table = np.stack([row.tokens for row in ones]) if same_width else np.empty((10, 0), dtype=np.int32)
    places = np.flatnonzero((table != table[0]).any(axis=0))
    tokens = np.tile(table[0], (len(a), 1))
    if len(places) == digits.shape[1]:
        tokens[:, places] = table[digits, places]
    checked = np.linspace(0, len(a) - 1, num=min(len(a), 16)).astype(int)
    expected = _encode(multiplication_lines(a[checked], b[checked]), chat)
    if not all(np.array_equal(tokens[i], row.tokens) for i, row in zip(checked, expected, strict=True)):
        raise UserError("multiplication needs a tokenizer that gives every digit a token of its own")
    return Rows(
        tokens=tokens.ravel(),
        roles=np.tile(ones[0].roles, len(a)),
        counters=np.tile(ones[0].counters, len(a)),
        weights=np.tile(ones[0].weights, len(a)),
        row_start=np.arange(len(a) + 1) * width,
        ids=np.arange(len(a)),
    )


def _encode(lines: Sequence[str], chat: ICoTFormat) -> list[EncodedRow]:
    turns = [chat.turn(_trace(0, line).messages) for line in lines]
    return encode_turns([turn.prompt + turn.completion for turn in turns], chat.tokenizer)


def read_operands(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Operands of a file of lines, as digits least significant first, uint8 `[R, K]` each.

    Raises:
        UserError: no such file, or one that cannot be read.
        TraceError: a line that is not a multiplication, or has another number of digits than the first; names
            file:line.
    """
    found_path = find_source(path)
    if found_path is None or not found_path.is_file():
        raise UserError(f"{path}: no such file")
    path = found_path
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise TraceError(f"{path}:{number}", _fault(line))
        pairs.append((found["a"], found["b"]))
        if {len(found["a"]), len(found["b"])} != {len(pairs[0][0])}:
            raise TraceError(f"{path}:{number}", "the numbers do not have as many digits as those of the first line")
    if not pairs:
        raise TraceError(str(path), "there are no rows")
    first, second = (_digits(texts) for texts in zip(*pairs, strict=True))
    return first, second


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}:{error.object.count(10, 0, error.start) + 1}", "not UTF-8") from None


def _fault(line: str) -> str:
    for separator in ("||", "####"):
        if line.count(separator) != 1:
            return f"'{separator}' does not occur exactly once"
    return "not a multiplication of digits with blanks between them"


def _digits(numbers: Iterable[str]) -> np.ndarray:
    return np.array([[int(digit) for digit in number.split()] for number in numbers], dtype=np.uint8)
