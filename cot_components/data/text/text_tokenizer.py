"""The package's tokenizer interface: plain text in, ids out, and control tokens that plain text can never produce."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cot_components.data.bad_rows import RowError


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first, in one group; matches nothing if there are no texts."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")" if ordered else "((?!))")


class Encoded(NamedTuple):
    """Ids of a text, and for each where it begins and ends in that text, counted in characters."""

    ids: list[int]
    starts: list[int]
    ends: list[int]

    def then(self, other: Encoded, at: int) -> Encoded:
        """This text's tokens followed by those of another that begins at character `at`."""
        starts, ends = ([place + at for place in places] for places in other[1:])
        return Encoded(self.ids + other.ids, self.starts + starts, self.ends + ends)


EncodeTexts = Callable[[Sequence[str]], list[Encoded]]


@dataclass(frozen=True)
class TextTokenizer:
    """Two functions of a tokenizer library plus metadata; `models.tokenizers.as_text_tokenizer` makes one.

    encode_plain:  texts -> ids, one list per text, nothing added before or after
    decode_plain:  ids of ordinary vocabulary -> text
    control:       text -> id of every control token: templates may write them, messages may not
    added_tokens:  text -> id of every token outside the base vocabulary: `control`, and ordinary ones (`<tool_call>`)
    stop_ids:      ids that end a generation
    vocab_size:    one more than the largest id
    content_hash:  sha256 of vocabulary, merges and rules
    chat_template: jinja source that came with the tokenizer
    places:        (control tokens, inside) -> encoder that tells places. `inside` False: of a whole conversation, in
                   which it finds control tokens as the library does; True: as `encode_plain`. None: by the bytes of
                   tokens
    token_bytes:   id -> bytes of its text, where `places` is None
    id_of:         text -> id of the base vocabulary's token with exactly this text, if there is one
    """

    encode_plain: Callable[[Sequence[str]], list[list[int]]]
    decode_plain: Callable[[Sequence[int]], str]
    control: Mapping[str, int]
    added_tokens: Mapping[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    stop_ids: tuple[int, ...]
    vocab_size: int
    content_hash: str
    chat_template: str | None = None
    places: Callable[[Mapping[str, int], bool], EncodeTexts] | None = None
    token_bytes: Callable[[int], bytes] | None = None
    id_of: Callable[[str], int | None] = lambda text: None

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token's text; its one group makes `split` keep the matches."""
        return any_of(self.control)

    @cached_property
    def _forbidden_pattern(self) -> re.Pattern[str]:
        """Matches every text that the library may turn into a control id, including the old text of a reserved one."""
        ids = set(self.control.values())
        return any_of([*self.control, *(text for text, i in self.added_tokens.items() if i in ids)])

    @cached_property
    def control_texts(self) -> dict[int, str]:
        """Id -> text of every control token."""
        return {i: text for text, i in self.control.items()}

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as plain text, in one batch: a control token's text inside it becomes ordinary tokens.

        Such a text is split after its first character, so that the library never sees all of it. Raises RowError for
        half a surrogate pair, and if a control id results anyway (because the library normalises some other text to
        it).
        """
        broken = [self._break_control(_without_surrogates(text)) for text in texts]
        encoded = iter(self.encode_plain([part for parts in broken for part in parts]))
        result = [[i for _ in parts for i in next(encoded)] for parts in broken]
        for text, ids in zip(texts, result, strict=True):
            if not self.control_texts.keys().isdisjoint(ids):
                raise RowError("plain text becomes a control token", repr(text[:60]))
        return result

    def encode_text(self, text: str) -> list[int]:
        """Ids of one text; see `encode_texts`."""
        return self.encode_texts([text])[0]

    def encode_rendered(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of whole conversations as inference encodes them: each in one go, control tokens found in the text."""
        return self._whole(texts)

    def encode_contents(self, rows: Sequence[Sequence[str | int]], *, continued: bool = False) -> list[Encoded]:
        """Ids of rows of texts and of control tokens by id, each row in one go; places are those in its joined text.

        Equals `encode_rendered` of the joined text unless a text spells a control token: that is split after its first
        character and stays text. `continued`: the rows begin in the middle of a text, so nothing is put before them.
        Raises RowError as `encode_texts` does.
        """
        plans = [self._stretches(row, continued) for row in rows]
        by_kind: dict[str, list[str]] = {"whole": [], "inside": []}
        for plan in plans:
            for kind, text in plan:
                by_kind[kind].append(text)
        found = {"whole": iter(self._whole(by_kind["whole"])), "inside": iter(self._inside(by_kind["inside"]))}
        results = []
        for row, plan in zip(rows, plans, strict=True):
            encoded, at = Encoded([], [], []), 0
            for kind, text in plan:
                encoded, at = encoded.then(next(found[kind]), at), at + len(text)
            given = Counter(content for content in row if isinstance(content, int))
            if Counter(i for i in encoded.ids if i in self.control_texts) - given:
                raise RowError("plain text becomes a control token", repr(self.joined(row)[:60]))
            results.append(encoded)
        return results

    def joined(self, row: Sequence[str | int]) -> str:
        """The text of a row, control tokens spelled out."""
        return "".join(content if isinstance(content, str) else self.control_texts[content] for content in row)

    def _stretches(self, row: Sequence[str | int], continued: bool) -> list[tuple[str, str]]:
        """The row's text in stretches to encode one by one: `whole` ones, and `inside` ones, which follow a split."""
        stretches, plain, inside = [("inside" if continued else "whole", "")], "", continued

        def add(text: str) -> None:
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + text)

        for content in [*row, -1]:
            if isinstance(content, str):
                plain += content
                continue
            first, *others = self._break_control(_without_surrogates(plain))
            add(first)
            stretches += [("inside", text) for text in others]
            inside, plain = inside or bool(others), ""
            if content != -1:
                stretches += [("whole", "")] if inside else []
                inside = False
                add(self.control_texts[content])
        return [stretch for stretch in stretches if stretch[1]]

    @cached_property
    def _whole(self) -> EncodeTexts:
        return self.places(self.control, False) if self.places else self._whole_by_bytes

    @cached_property
    def _inside(self) -> EncodeTexts:
        return self.places(self.control, True) if self.places else self._plain_by_bytes

    def _whole_by_bytes(self, texts: Sequence[str]) -> list[Encoded]:
        """Encodes each run between control tokens separately, for libraries that treat all runs the same."""
        split = [self.control_pattern.split(text) for text in texts]
        runs = iter(self._plain_by_bytes([run for pieces in split for run in pieces[0::2]]))
        results = []
        for pieces in split:
            encoded, at = Encoded([], [], []), 0
            for number, piece in enumerate(pieces):
                other = Encoded([self.control[piece]], [0], [len(piece)]) if number % 2 else next(runs)
                encoded, at = encoded.then(other, at), at + len(piece)
            results.append(encoded)
        return results

    def _plain_by_bytes(self, texts: Sequence[str]) -> list[Encoded]:
        """`encode_plain` with places from the lengths of the tokens' bytes."""
        bytes_of = self.token_bytes or (lambda i: self.decode_plain([i]).encode())
        return [
            places_by_bytes(text, ids, [bytes_of(i) for i in ids])
            for text, ids in zip(texts, self.encode_plain(texts), strict=True)
        ]

    def _break_control(self, text: str) -> list[str]:
        starts = [match.start() + 1 for match in self._forbidden_pattern.finditer(text)]
        return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)] if starts else [text]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The exact text of ids, with control tokens spelled out."""
        ids = np.asarray(ids, dtype=np.int64)
        parts, start = [], 0
        for position in np.flatnonzero(self.is_control(ids)).tolist():
            parts += [self._decode_run(ids[start:position]), self.control_texts[int(ids[position])]]
            start = position + 1
        return "".join([*parts, self._decode_run(ids[start:])])

    def _decode_run(self, ids: np.ndarray) -> str:
        return self.decode_plain(ids.tolist()) if len(ids) else ""

    def is_control(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are control tokens, bool of the same shape."""
        return self._control_table[np.minimum(ids, self.vocab_size)]

    @cached_property
    def _control_table(self) -> np.ndarray:
        """bool `[vocab_size + 1]`, by id; the last entry covers all larger ids."""
        table = np.zeros(self.vocab_size + 1, dtype=bool)
        table[list(self.control.values())] = True
        return table

    def with_control(self, extra: Mapping[str, int]) -> TextTokenizer:
        """The same tokenizer with additional control tokens; ids may be beyond the vocabulary or replace another
        text."""
        taken = set(extra.values())
        kept = {text: i for text, i in self.control.items() if i not in taken}
        size = max(self.vocab_size, *(i + 1 for i in taken)) if taken else self.vocab_size
        return replace(self, control={**kept, **extra}, added_tokens={**self.added_tokens, **extra}, vocab_size=size)

    def fingerprint(self) -> str:
        """sha256 over everything that decides how a text is encoded; part of the key of cached rows."""
        facts = [self.content_hash, sorted(self.control.items()), self.bos_id, self.eos_id, self.chat_template]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def places_by_bytes(text: str, ids: list[int], pieces: Sequence[bytes]) -> Encoded:
    """Places of tokens from the bytes that each spells.

    If they spell a normalised form of the text, tokens between the first and the last difference begin at the first.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = np.select([characters < 0x80, characters < 0x800, characters < 0x10000], [1, 2, 3], 4)
    borders = np.concatenate([[0], np.cumsum(widths)])
    edges = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    given, spelled = text.encode(), b"".join(pieces)
    if given != spelled:
        same, same_end = _num_equal(given, spelled), _num_equal(given[::-1], spelled[::-1])
        moved = edges + len(given) - len(spelled)
        edges = np.where(edges <= same, edges, np.where(edges >= len(spelled) - same_end, moved, same))
    starts = np.searchsorted(borders, edges[:-1], side="right") - 1
    ends = np.searchsorted(borders, edges[1:], side="left")
    return Encoded(ids, starts.tolist(), ends.tolist())


def _num_equal(one: bytes, other: bytes) -> int:
    """How many bytes the two have in common at their start."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _without_surrogates(text: str) -> str:
    """The text unchanged. Raises RowError if it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("a text holds half of a surrogate pair", ascii(text[:60])) from None
    return text
