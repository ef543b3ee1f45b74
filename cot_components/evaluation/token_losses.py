"""What a model makes of a few held-out rows, token by token: saved with every evaluation, so that two compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cot_components.data.rows.flat import Flat, is_supervised
from cot_components.data.text.pieces import Decode, decode_pieces
from cot_components.roles import Role

MAX_ROWS, MAX_TOKENS, LONG_ROW = 8, 4096, 1024


class PieceLoss(NamedTuple):
    """The smallest group of tokens that is whole characters, or a stretch of context.

    role: its label, such as `thought`
    loss: negative log-likelihood in nats, summed over its tokens; None for context, and for what the model did not see
    """

    text: str
    role: str
    loss: float | None


@dataclass(frozen=True)
class TokenLosses:
    """A row as encoded, with the losses of its tokens.

    row_id: its number in its source
    pieces: their texts are those of every evaluation of a run
    """

    row_id: int
    pieces: tuple[PieceLoss, ...]


def rows_to_show(lengths: Sequence[int] | np.ndarray) -> list[int]:
    """Indices of the first rows that are not long, or of the shortest where all are: few, and no more than `MAX_TOKENS`
    in all, but for a first row that alone has more.
    """
    order = sorted(range(len(lengths)), key=lambda i: max(0, int(lengths[i]) - LONG_ROW))
    totals = np.cumsum([int(lengths[i]) for i in order])
    return [i for place, i in enumerate(order[:MAX_ROWS]) if place == 0 or totals[place] <= MAX_TOKENS]


def token_losses(encoded: Flat, seen: Flat, losses: np.ndarray, decode: Decode) -> tuple[TokenLosses, ...]:
    """Losses laid over the rows as encoded; a row of which the model saw more than a part is left out.

    Args:
        encoded: `B` rows before any transform.
        seen: the same rows as the model saw them.
        losses: of the tokens of `seen`, in nats, `[N]`; NaN where nothing predicts them.
        decode: token ids to text.
    """
    rows = []
    for b, row_id in enumerate(encoded.ids):
        whole, part = (slice(flat.row_start[b], flat.row_start[b + 1]) for flat in (encoded, seen))
        places = _places(_keys(encoded, whole), _keys(seen, part))
        if places is None:
            continue
        by_token = np.full(encoded.lengths[b], np.nan)
        by_token[places] = losses[part]
        pieces = _pieces(encoded.tokens[whole].tolist(), encoded.roles[whole], by_token, decode)
        rows.append(TokenLosses(int(row_id), tuple(pieces)))
    return tuple(rows)


def _keys(flat: Flat, span: slice) -> list[tuple[int, ...]]:
    """What makes a token the same in both: itself, its role, its place in the thought."""
    return list(zip(*(x[span].tolist() for x in (flat.tokens, flat.roles, flat.counters)), strict=True))


def _places(whole: list[tuple[int, ...]], part: list[tuple[int, ...]]) -> list[int] | None:
    """Where the tokens of `part` are in `whole`; None unless it is `whole` with some of it left out."""
    places: list[int] = []
    for at, key in enumerate(whole):
        if len(places) < len(part) and part[len(places)] == key:
            places.append(at)
    return places if len(places) == len(part) else None


def _pieces(ids: list[int], roles: np.ndarray, losses: np.ndarray, decode: Decode) -> list[PieceLoss]:
    pieces: list[PieceLoss] = []
    at = 0
    for text, num_tokens in decode_pieces(ids, decode):
        role, loss = Role(int(roles[at])), float(losses[at : at + num_tokens].sum())
        learns = bool(is_supervised(roles[at : at + 1])[0])
        at += num_tokens
        if not learns and pieces and pieces[-1].role == role.label:
            pieces[-1] = pieces[-1]._replace(text=pieces[-1].text + text)
        else:
            pieces.append(PieceLoss(text, role.label, round(loss, 4) if learns and np.isfinite(loss) else None))
    return pieces
