"""Token ids as readable text: the smallest groups of tokens that decode to whole characters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

Decode = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"
LONGEST_GROUP = 8
"""A character has at most 4 bytes, but byte-pair tokens may end in the middle of one character after another."""


class Piece(NamedTuple):
    """Some text and the number of consecutive tokens it comes from."""

    text: str
    num_tokens: int


def decode_pieces(ids: Sequence[int], decode: Decode) -> list[Piece]:
    """Split `decode(ids)` into the smallest runs of tokens that are whole characters.

    Each piece is decoded after the one before it, because many tokenizers drop the blank of a text's first word. Bytes
    that belong to no character become one U+FFFD per token; a token without any text (a control token that `decode`
    leaves out) is shown by its id.

    Args:
        ids: token ids `[N]`.
        decode: ids to text.

    Returns:
        pieces whose `num_tokens` add up to `N`.
    """
    ids = [int(i) for i in ids]
    pieces: list[Piece] = []
    context, start = 0, 0
    while start < len(ids):
        piece = _next_piece(ids, context, start, decode)
        pieces.append(piece)
        stop = start + piece.num_tokens
        # a broken character would swallow the bytes that follow it
        context, start = (stop if piece.text.endswith(REPLACEMENT) else start), stop
    return pieces


def _next_piece(ids: list[int], context: int, start: int, decode: Decode) -> Piece:
    skip = len(decode(ids[context:start])) if context < start else 0
    texts = (decode(ids[context:stop])[skip:] for stop in range(start + 1, min(start + LONGEST_GROUP, len(ids)) + 1))
    first = next(texts)
    if not first:
        return Piece(f"\u27e8{ids[start]}\u27e9", 1)
    for num_tokens, text in enumerate(itertools.chain([first], texts), start=1):
        if REPLACEMENT not in text:
            return Piece(text, num_tokens)
    return Piece(first, 1)
