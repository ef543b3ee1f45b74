"""Parts to token ids: tokens and roles are appended together, here and nowhere else.

A conversation is encoded in one go, as inference encodes it, so a token may hold text of two parts. It has the role of
the part it begins in, except that a token with any text of a tag has the tag's role. Only between the prompt and the
model's output is there always a token boundary: the prompt's ids equal those of the prompt encoded alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cot_components.data.bad_rows import RowError
from cot_components.data.rows.flat import is_supervised
from cot_components.data.text.chat import Part, Turn
from cot_components.data.text.read_back import TAG_ROLES
from cot_components.data.text.text_tokenizer import Encoded, TextTokenizer
from cot_components.roles import SUPERVISED_ROLES, Role

ENCODER_VERSION = 5
"""Part of the key of cached rows: raise it whenever the same trace would encode differently."""


class EncodedRow(NamedTuple):
    """One row of `T` tokens, columns as in `Flat`: tokens int32, roles uint8, counters int32, weights float32."""

    tokens: np.ndarray
    roles: np.ndarray
    counters: np.ndarray
    weights: np.ndarray


def encode_segments(parts: Sequence[Part], ids_of: Mapping[str, Sequence[int]]) -> EncodedRow:
    """The row of these parts, each text encoded separately (so a prompt alone encodes to the beginning of its row).

    ids_of: token ids of every text that occurs. Counters continue across the thoughts of a row. Weights are 1.
    """
    pieces, roles = [], []
    for role, content in parts:
        ids = [content] if isinstance(content, int) else ids_of[content]
        pieces.append(np.asarray(ids, dtype=np.int32))
        roles.append(np.full(len(ids), role, dtype=np.uint8))
    return _row(np.concatenate(pieces), np.concatenate(roles))


def _row(tokens: np.ndarray, roles: np.ndarray) -> EncodedRow:
    thought = roles == Role.THOUGHT
    counters = np.where(thought, np.cumsum(thought) - 1, -1).astype(np.int32)
    return EncodedRow(tokens, roles, counters, np.ones(len(roles), dtype=np.float32))


def encode_turns(turns: Sequence[Sequence[Part]], tokenizer: TextTokenizer) -> list[EncodedRow]:
    """Rows of many turns in one batch of the tokenizer library; a text that occurs twice is encoded once.

    Raises RowError if a text has no plain encoding.
    """
    texts = list({part.content: None for parts in turns for part in parts if isinstance(part.content, str)})
    ids_of = dict(zip(texts, tokenizer.encode_texts(texts), strict=True))
    return [encode_segments(parts, ids_of) for parts in turns]


def encode_by_parts(turns: Sequence[Turn], tokenizer: TextTokenizer) -> list[EncodedRow | RowError]:
    """Rows whose texts are encoded separately, or the error for a row that does not decode to its supervised text.

    Raises RowError as `encode_turns` does.
    """
    rows = [[*turn.prompt, *turn.completion] for turn in turns]
    results: list[EncodedRow | RowError] = []
    for row, parts in zip(encode_turns(rows, tokenizer), rows, strict=True):
        try:
            check_exact(row, parts, tokenizer)
            results.append(row)
        except RowError as fault:
            results.append(fault)
    return results


def encode_in_one_go(turns: Sequence[Turn], tokenizer: TextTokenizer) -> list[EncodedRow | RowError]:
    """Rows encoded as inference encodes them, or the error for a row that does not decode to its supervised text.

    Raises RowError if a text has no plain encoding.
    """
    results: list[EncodedRow | RowError] = []
    for turn, encoded in zip(turns, _encode(turns, tokenizer), strict=True):
        try:
            results.append(_placed_row(turn, encoded, tokenizer))
        except RowError as fault:
            results.append(fault)
    return results


def _encode(turns: Sequence[Turn], tokenizer: TextTokenizer) -> list[Encoded]:
    """Whole rows, each beginning with the ids of its prompt alone."""
    given = [[part.content for part in turn.prompt] for turn in turns]
    written = [[part.content for part in turn.completion] for turn in turns]
    count = len(turns)
    encoded = tokenizer.encode_contents([*(a + b for a, b in zip(given, written, strict=True)), *given])
    rows, prompts = encoded[:count], encoded[count:]
    for n, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        size, length = len(prompt.ids), len(tokenizer.joined(given[n]))
        if row.ids[:size] != prompt.ids or any(start < length for start in row.starts[size:]):
            (rest,) = tokenizer.encode_contents([written[n]], continued=True)
            rows[n] = prompt.then(rest, length)
    return rows


def _placed_row(turn: Turn, encoded: Encoded, tokenizer: TextTokenizer) -> EncodedRow:
    """The row of these tokens, with roles from their places in the text. Raises RowError as `_check_placed` does."""
    parts = [*turn.prompt, *turn.completion]
    ends = np.cumsum([len(tokenizer.joined([part.content])) for part in parts])
    starts = np.asarray(encoded.starts, dtype=np.int64)
    first = np.minimum(np.searchsorted(ends, starts, side="right"), len(parts) - 1)
    last = np.searchsorted(ends, np.maximum(np.asarray(encoded.ends), starts + 1), side="left")
    roles = np.array([part.role for part in parts], dtype=np.uint8)[first]
    for token in np.flatnonzero(last > first):
        held = (part.role for part in parts[first[token] : last[token] + 1])
        roles[token] = next((role for role in held if role in TAG_ROLES), roles[token])
    row = _row(np.asarray(encoded.ids, dtype=np.int32), roles)
    _check_placed(row, encoded, tokenizer.joined([part.content for part in parts]), tokenizer)
    return row


def _check_placed(row: EncodedRow, encoded: Encoded, text: str, tokenizer: TextTokenizer) -> None:
    """Raise RowError unless each run of supervised tokens decodes to its text, possibly after a blank.

    Some libraries put a blank before every run between control tokens.
    """
    supervised = is_supervised(row.roles)
    if not supervised.any():
        raise RowError("nothing in the row is supervised")
    plain = supervised & ~tokenizer.is_control(row.tokens)
    for start, stop in _runs(plain):
        wanted = text[encoded.starts[start] : max(encoded.ends[start:stop])]
        if tokenizer.decode(row.tokens[start:stop]) not in (wanted, f" {wanted}"):
            raise RowError("the tokenizer does not decode the supervised text back exactly")


def check_exact(row: EncodedRow, parts: Sequence[Part], tokenizer: TextTokenizer) -> None:
    """Raise RowError unless the supervised tokens decode to the supervised text, character by character."""
    supervised = is_supervised(row.roles)
    written = "".join(tokenizer.joined([part.content]) for part in parts if part.role in SUPERVISED_ROLES)
    if not supervised.any():
        raise RowError("nothing in the row is supervised")
    if tokenizer.decode(row.tokens[supervised]) != written:
        raise RowError("the tokenizer does not decode the supervised text back exactly")


def fit(row: EncodedRow, *, max_seq_len: int | None, too_long: str, tokenizer: TextTokenizer) -> EncodedRow:
    """The row, shortened to `max_seq_len` tokens if necessary, by policy `too_long`.

    `drop`: raise RowError. `cut_thought`: take tokens out of the middle of the longest thought; counters keep their
    values, and the first token after the cut gets weight 0, because the jump should not be learnt. A row that would
    lose anything but thought, or all of its thought, is dropped as well: RowError.
    """
    excess = 0 if max_seq_len is None else len(row.tokens) - max_seq_len
    if excess <= 0:
        return row
    if too_long == "drop":
        raise RowError(f"longer than {max_seq_len} tokens", f"{len(row.tokens)} tokens")
    start, stop = _longest_run(row.roles == Role.THOUGHT)
    kept = stop - start - excess
    if kept < 2:
        raise RowError(f"longer than {max_seq_len} tokens even without its thought")
    head, tail = start + (kept + 1) // 2, stop - kept // 2
    head, tail = _whole_characters(row.tokens, (start, head), (tail, stop), tokenizer)
    if head == start and tail == stop:
        raise RowError(f"longer than {max_seq_len} tokens even without its thought")
    keep = np.r_[0:head, tail : len(row.tokens)]
    cut = EncodedRow(*(column[keep] for column in row))
    cut.weights[head] = 0.0
    return cut


def _longest_run(mask: np.ndarray) -> tuple[int, int]:
    """First and one past the last index of the longest run of True; (0, 0) if there is none."""
    return max(_runs(mask), key=lambda run: run[1] - run[0], default=(0, 0))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(np.int8))).tolist()
    return list(zip(edges[0::2], edges[1::2], strict=True))


def _whole_characters(
    tokens: np.ndarray, head: tuple[int, int], tail: tuple[int, int], tokenizer: TextTokenizer
) -> tuple[int, int]:
    """End of the head and start of the tail, moved by at most 3 tokens to avoid a broken character; if no whole
    character is left, head or tail is empty."""
    thought = tokenizer.decode(tokens[head[0] : tail[1]])
    ends = range(head[1], max(head[1] - 4, head[0]), -1)
    starts = range(tail[0], min(tail[0] + 4, tail[1]))
    end = next((e for e in ends if thought.startswith(tokenizer.decode(tokens[head[0] : e]))), head[0])
    start = next((s for s in starts if thought.endswith(tokenizer.decode(tokens[s : tail[1]]))), tail[1])
    return end, start
