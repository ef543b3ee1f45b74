"""Classes of tokens for weight rules: made by the shuffle-aware discriminator, or by patterns of text.

A class is a number per token in the column `groups`: 0 boilerplate, 1 reasoning. Used by `losses.GroupSoftmax`, which
weighs the groups by their current loss, and `transforms.ByGroup`, which weighs them by fixed factors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.scores import open_scores, scored_tokens
from cot_components.data.text.pieces import decode_pieces
from cot_components.errors import UserError
from cot_components.transforms.discriminator import BOILERPLATE, REASONING, classify

FORMAT_PATTERNS = (
    r"</?\w+>",
    r"(?m)^[ \t]*(?:Thought|Action|Action Input|Observation|Final Answer):",
    r'"(?:name|arguments|parameters|args)"\s*:',
    r"[{}\[\]\",:]+\s*",
)
"""Tags, ReAct labels, the keys of a call and JSON punctuation: the format rules one would write down first."""


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """Classes by SHAD (arXiv 2412.14780): reasoning where `LD = l_shuffled - l_original` is above the threshold.

    Args:
        scores: folder that `cot score` or the recipe `shad` has filled.
        threshold: in nats; the paper's is 0.
        original, shuffled: names of the two columns.

    Raises:
        UserError: no such scores; when called, unfinished scores, or a row that was not scored, or was scored with
            other tokens.
    """

    scores: str
    threshold: float = 0.0
    original: str = "original"
    shuffled: str = "shuffled"

    needs_epoch = False
    needs_whole_rows = True
    makes_groups = True

    def __post_init__(self) -> None:
        for name in (self.original, self.shuffled):
            open_scores(self.scores).column(name)

    def fingerprint(self) -> str:
        """What must not change when a run is resumed: the scores."""
        return open_scores(self.scores).fingerprint(self.original, self.shuffled)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Set `groups`, uint8 `[N]`; labels and weights stay. Tokens without a score are boilerplate."""
        losses = open_scores(self.scores).gather(flat, self.original, self.shuffled)
        return replace(flat, groups=classify(*losses, threshold=self.threshold))


@dataclass(frozen=True, kw_only=True)
class ByPattern:
    """Classes by regular expressions: a token entirely inside matches is boilerplate, any other is reasoning.

    Args:
        tokenizer: an object with `decode(ids) -> text`, or such a function.
        patterns: searched in the text of each row's output; the default knows JSON calls, tags and ReAct.

    Raises:
        UserError: a tokenizer without `decode`, an invalid pattern, or no pattern.
    """

    tokenizer: Any
    patterns: Sequence[str] = FORMAT_PATTERNS

    needs_epoch = False
    makes_groups = True

    def __post_init__(self) -> None:
        if not callable(self._decode):
            raise UserError(f"tokenizer must have decode(ids) or be such a function, got {self.tokenizer!r}")
        if isinstance(self.patterns, str) or not all(isinstance(pattern, str) for pattern in self.patterns):
            raise UserError(f"patterns must be a list of texts, got {self.patterns!r}")
        if not self.patterns:
            raise UserError("patterns: name at least one")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"pattern {pattern!r}: {error}") from error

    @property
    def _decode(self) -> Callable[[list[int]], str]:
        return getattr(self.tokenizer, "decode", self.tokenizer)

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Set `groups`, uint8 `[N]`; labels and weights stay. Prompts and observations are boilerplate."""
        groups = np.full(len(flat.tokens), BOILERPLATE, dtype=np.uint8)
        scored = scored_tokens(flat)
        for start, stop in zip(flat.row_start, flat.row_start[1:], strict=False):
            output = start + np.flatnonzero(scored[start:stop])
            groups[output] = self._row(flat.tokens[output].tolist())
        return replace(flat, groups=groups)

    def _row(self, ids: list[int]) -> np.ndarray:
        """Classes of the tokens of one output, `[n]`."""
        pieces = decode_pieces(ids, self._decode)
        text = "".join(piece.text for piece in pieces)
        inside = np.zeros(len(text) + 1, dtype=np.int64)
        for pattern in self.patterns:
            for match in re.finditer(pattern, text):
                inside[match.start() : match.end()] = 1
        covered = np.concatenate([[0], np.cumsum(inside)])
        ends = np.cumsum([len(piece.text) for piece in pieces], dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
        groups = np.where(covered[ends] - covered[starts] == ends - starts, BOILERPLATE, REASONING)
        return np.repeat(groups, [piece.num_tokens for piece in pieces])
