"""Texts as a `Flat` whose tokens are their bytes: what a token view of readable rows needs, without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from rows import make_flat

from cot_components.data.rows.flat import Flat, initial_labels
from cot_components.roles import Role

Parts = Sequence[tuple[Role, str]]


def byte_flat(rows: Sequence[Parts], *, ids: Sequence[int] | None = None) -> Flat:
    """Rows of (role, text) with one token per byte."""
    encoded = [[(role, byte) for role, text in row for byte in text.encode()] for row in rows]
    flat = make_flat([[role for role, _ in row] for row in encoded], ids=ids)
    tokens = np.array([byte for row in encoded for _, byte in row], dtype=np.int64)
    return replace(flat, tokens=tokens, labels=initial_labels(tokens, flat.roles))


def decode_bytes(ids: Iterable[int]) -> str:
    return bytes(list(ids)).decode("utf-8", errors="replace")


def trace(prompt: str, thought: str, answer: str) -> list[tuple[Role, str]]:
    return [
        (Role.PROMPT, prompt),
        (Role.THINK_OPEN, "<think>"),
        (Role.THOUGHT, thought),
        (Role.THINK_CLOSE, "</think>"),
        (Role.ANSWER, answer),
    ]


def without(flat: Flat, gone: np.ndarray) -> Flat:
    """The tokens that are not `gone`, bool `[N]`."""
    kept = ~gone
    lengths = [int(kept[a:b].sum()) for a, b in zip(flat.row_start, flat.row_start[1:], strict=False)]
    names = ("tokens", "roles", "counters", "labels", "weights")
    columns = {name: getattr(flat, name)[kept] for name in names}
    return Flat(**columns, row_start=np.cumsum([0, *lengths]).astype(np.int64), ids=flat.ids)
