"""Tokens as groups that are whole characters."""

from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.text.pieces import REPLACEMENT, Piece, decode_pieces


def decode_bytes(ids):
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(st.characters(exclude_characters=REPLACEMENT)))
def test_pieces_of_bytes_are_the_characters(text):
    pieces = decode_pieces(list(text.encode("utf-8", errors="replace")), decode_bytes)
    shown = "".join(piece.text for piece in pieces)
    assert shown == text.encode("utf-8", errors="replace").decode()
    assert sum(piece.num_tokens for piece in pieces) == len(text.encode("utf-8", errors="replace"))


@given(st.binary(max_size=40))
def test_any_bytes_give_pieces_that_cover_every_token(data):
    pieces = decode_pieces(list(data), decode_bytes)
    assert sum(piece.num_tokens for piece in pieces) == len(data)
    assert all(piece.text for piece in pieces)


def test_a_whole_character_after_a_broken_one_is_not_swallowed():
    broken = "\u4e2d".encode()[:2]
    pieces = decode_pieces([*broken, *b"ab"], decode_bytes)
    assert [piece.text for piece in pieces] == [REPLACEMENT, REPLACEMENT, "a", "b"]


def test_text_in_front_of_an_unfinished_character_is_kept():
    table = {0: b"sum \xe4", 1: b"\xb8\xad", 2: b"!"}

    def decode(ids):
        return b"".join(table[i] for i in ids).decode("utf-8", errors="replace")

    assert decode_pieces([0, 1, 2], decode) == [Piece("sum \u4e2d", 2), Piece("!", 1)]
    assert decode_pieces([0, 2], decode) == [Piece("sum " + REPLACEMENT, 1), Piece("!", 1)]


def test_a_decoder_that_drops_the_first_blank_loses_only_the_first():
    words = ["\u2581Let", "\u2581me", "\u2581see"]

    def decode(ids):
        return "".join(words[i] for i in ids).replace("\u2581", " ").removeprefix(" ")

    assert [piece.text for piece in decode_pieces([0, 1, 2], decode)] == ["Let", " me", " see"]


def test_a_token_without_text_shows_its_id():
    def decode(ids):
        return "".join("" if i == 128009 else chr(i) for i in ids)

    assert decode_pieces([104, 105, 128009, 33], decode) == [
        Piece("h", 1),
        Piece("i", 1),
        Piece("\u27e8128009\u27e9", 1),
        Piece("!", 1),
    ]
