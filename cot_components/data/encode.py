"""Parts to token ids: tokens and roles are appended together, here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cot_components.data.chat import Part
from cot_components.data.errors import RowError
from cot_components.data.flat import is_supervised
from cot_components.data.text_tokenizer import TextTokenizer
from cot_components.roles import SUPERVISED_ROLES, Role

ENCODER_VERSION = 3
"""Part of the key of cached rows: raise it whenever the same trace would encode differently."""


class EncodedRow(NamedTuple):
    """One row of `T` tokens, columns as in `Flat`: tokens int32, roles uint8, counters int32, weights float32."""

    tokens: np.ndarray
    roles: np.ndarray
    counters: np.ndarray
    weights: np.ndarray


def encode_segments(parts: Sequence[Part], ids_of: Mapping[str, Sequence[int]]) -> EncodedRow:
    """The row of these parts, each text encoded by itself (so a prompt alone encodes to the beginning of its row).

    ids_of: token ids of every text that occurs. Counters run on over all thoughts of the row. Weights are 1.
    """
    pieces, roles = [], []
    for role, content in parts:
        ids = [content] if isinstance(content, int) else ids_of[content]
        pieces.append(np.asarray(ids, dtype=np.int32))
        roles.append(np.full(len(ids), role, dtype=np.uint8))
    row_roles = np.concatenate(roles)
    thought = row_roles == Role.THOUGHT
    counters = np.where(thought, np.cumsum(thought) - 1, -1).astype(np.int32)
    return EncodedRow(np.concatenate(pieces), row_roles, counters, np.ones(len(row_roles), dtype=np.float32))


def encode_turns(turns: Sequence[Sequence[Part]], tokenizer: TextTokenizer) -> list[EncodedRow]:
    """Rows of many turns in one batch of the tokenizer library; a text that occurs twice is encoded once.

    Raises RowError where a text has no plain encoding.
    """
    texts = list({part.content: None for parts in turns for part in parts if isinstance(part.content, str)})
    ids_of = dict(zip(texts, tokenizer.encode_texts(texts), strict=True))
    return [encode_segments(parts, ids_of) for parts in turns]


def check_exact(row: EncodedRow, parts: Sequence[Part], tokenizer: TextTokenizer) -> None:
    """Raise RowError unless the supervised tokens decode to the supervised text, character by character."""
    supervised = is_supervised(row.roles)
    written = "".join(
        part.content if isinstance(part.content, str) else tokenizer.control_texts[part.content]
        for part in parts
        if part.role in SUPERVISED_ROLES
    )
    if not supervised.any():
        raise RowError("nothing in the row is supervised")
    if tokenizer.decode(row.tokens[supervised]) != written:
        raise RowError("the tokenizer does not give the supervised text back exactly")


def fit(row: EncodedRow, *, max_seq_len: int | None, too_long: str, tokenizer: TextTokenizer) -> EncodedRow:
    """The row, if need be shortened to `max_seq_len` tokens by policy `too_long`.

    `drop`: raise RowError. `cut_thought`: take tokens out of the middle of the longest thought; counters keep their
    values, and the first token behind the cut weighs 0, because nobody should learn the jump. A row that would lose
    anything but thought, or all of its thought, is dropped too: RowError.
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
    """First and one past the last index of the longest run of True; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[0::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])


def _whole_characters(
    tokens: np.ndarray, head: tuple[int, int], tail: tuple[int, int], tokenizer: TextTokenizer
) -> tuple[int, int]:
    """End of the head and start of the tail, moved by the at most 3 tokens that would leave a broken character; where
    that leaves no whole one, there is no head, or no tail."""
    thought = tokenizer.decode(tokens[head[0] : tail[1]])
    ends = range(head[1], max(head[1] - 4, head[0]), -1)
    starts = range(tail[0], min(tail[0] + 4, tail[1]))
    end = next((e for e in ends if thought.startswith(tokenizer.decode(tokens[head[0] : e]))), head[0])
    start = next((s for s in starts if thought.endswith(tokenizer.decode(tokens[s : tail[1]]))), tail[1])
    return end, start
