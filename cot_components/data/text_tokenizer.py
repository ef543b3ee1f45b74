"""A tokenizer as this package sees it: plain text in, ids out, and control tokens that no text can ever produce."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cot_components.data.errors import RowError


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first, in one group; matches nothing where there are none."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")" if ordered else "((?!))")


@dataclass(frozen=True)
class TextTokenizer:
    """Two functions of a tokenizer library and the facts around them; `models.tokenizers.as_text_tokenizer` makes one.

    encode_plain:  texts -> ids, one list per text, nothing added before or after
    decode_plain:  ids of ordinary vocabulary -> text
    control:       text -> id of every control token: what a template may write and a person may not
    added_tokens:  text -> id of every token beside the base vocabulary: `control`, and ordinary ones (`<tool_call>`)
    stop_ids:      ids that end a generation
    vocab_size:    one more than the largest id
    content_hash:  sha256 of vocabulary, merges and rules
    chat_template: jinja source that came with the tokenizer
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

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token's text; its one group makes `split` keep the matches."""
        return any_of(self.control)

    @cached_property
    def _forbidden_pattern(self) -> re.Pattern[str]:
        """Matches every text that the library may turn into a control id: also the old text of a reserved one."""
        ids = set(self.control.values())
        return any_of([*self.control, *(text for text, i in self.added_tokens.items() if i in ids)])

    @cached_property
    def control_texts(self) -> dict[int, str]:
        """Id -> text of every control token."""
        return {i: text for text, i in self.control.items()}

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as plain text, in one batch: a control token's text inside it becomes ordinary tokens.

        Such a text is broken behind its first character, so that the library never sees it whole.
        Raises RowError for half a surrogate pair, and where a control id comes out all the same (a library that
        normalises another text into one).
        """
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise RowError("a text holds half of a surrogate pair", ascii(text[:60])) from None
        broken = [self._break_control(text) for text in texts]
        encoded = iter(self.encode_plain([part for parts in broken for part in parts]))
        result = [[i for _ in parts for i in next(encoded)] for parts in broken]
        for text, ids in zip(texts, result, strict=True):
            if not self.control_texts.keys().isdisjoint(ids):
                raise RowError("plain text becomes a control token", repr(text[:60]))
        return result

    def encode_text(self, text: str) -> list[int]:
        """Ids of one text; see `encode_texts`."""
        return self.encode_texts([text])[0]

    def _break_control(self, text: str) -> list[str]:
        starts = [match.start() + 1 for match in self._forbidden_pattern.finditer(text)]
        return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)] if starts else [text]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The exact text of ids, control tokens spelled out."""
        ids = np.asarray(ids, dtype=np.int64)
        parts, start = [], 0
        for position in np.flatnonzero(self._is_control[np.minimum(ids, self.vocab_size)]).tolist():
            parts += [self._decode_run(ids[start:position]), self.control_texts[int(ids[position])]]
            start = position + 1
        return "".join([*parts, self._decode_run(ids[start:])])

    def _decode_run(self, ids: np.ndarray) -> str:
        return self.decode_plain(ids.tolist()) if len(ids) else ""

    @cached_property
    def _is_control(self) -> np.ndarray:
        """bool `[vocab_size + 1]`, by id; the last entry stands for all larger ids."""
        table = np.zeros(self.vocab_size + 1, dtype=bool)
        table[list(self.control.values())] = True
        return table

    def with_control(self, extra: Mapping[str, int]) -> TextTokenizer:
        """The same tokenizer with further control tokens; ids may be beyond the vocabulary or have had another text."""
        taken = set(extra.values())
        kept = {text: i for text, i in self.control.items() if i not in taken}
        size = max(self.vocab_size, *(i + 1 for i in taken)) if taken else self.vocab_size
        return replace(self, control={**kept, **extra}, added_tokens={**self.added_tokens, **extra}, vocab_size=size)

    def fingerprint(self) -> str:
        """sha256 over everything that decides how a text is encoded; part of the key of cached rows."""
        facts = [self.content_hash, sorted(self.control.items()), self.bos_id, self.eos_id, self.chat_template]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
