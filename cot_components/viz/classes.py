"""Classes of tokens in the terminal: what was found to be reasoning stands out of the boilerplate around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.text import Text

from cot_components.data.text.pieces import Decode, decode_pieces
from cot_components.viz.visible import visible

STYLES = ("bright_black", "bold cyan")
"""Of boilerplate and reasoning."""
WRONG = "bold white on red"


def classes_text(
    ids: Sequence[int], found: np.ndarray, decode: Decode, *, truth: np.ndarray | None = None, coloured: bool = True
) -> Text:
    """One output: boilerplate dim, reasoning bright, and on red what the truth says otherwise of.

    Args:
        ids: the output's tokens, `[n]`.
        found, truth: classes `[n]`, 0 boilerplate, 1 reasoning; a character of several tokens is reasoning if one is.
        coloured: otherwise brackets stand for the styles: `[reasoning]`, `{wrong}`.
    """
    text, at = Text(), 0
    runs: list[tuple[str, tuple[bool, bool]]] = []
    for piece in decode_pieces(ids, decode):
        here = slice(at, at + piece.num_tokens)
        reasoning = bool(found[here].any())
        kind = reasoning, truth is not None and bool(truth[here].any()) != reasoning
        shown = visible(piece.text)
        if runs and runs[-1][1] == kind:
            runs[-1] = (runs[-1][0] + shown, kind)
        else:
            runs.append((shown, kind))
        at = here.stop
    for shown, (reasoning, wrong) in runs:
        if coloured:
            text.append(shown, WRONG if wrong else STYLES[reasoning])
        else:
            text.append(f"{{{shown}}}" if wrong else f"[{shown}]" if reasoning else shown)
    return text
