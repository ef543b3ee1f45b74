"""What a model finds hard in a text: every token is tinted by how unlikely the model finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Self

import numpy as np

from cot_components.data.text.pieces import Decode, decode_pieces
from cot_components.errors import UserError
from cot_components.roles import Role
from cot_components.viz.theme import ROLE_COLOURS
from cot_components.viz.visible import visible


class LossText:
    """One text under one or more models, one paragraph each; a notebook displays it (`_repr_html_`).

    A token's tint is `1 - p`, where `p` is the probability that the model gives it: none if the model is certain of the
    token, full if it does not expect it at all. Hover over a token to see its loss.

    Args:
        texts: the pieces of the text, `[n]`: whole characters, see `of_tokens`.
        losses: model name -> loss of each piece in nats, `[n]`; None or NaN where it has none.

    Raises:
        UserError: not one loss per piece.
    """

    def __init__(self, texts: Sequence[str], losses: Mapping[str, Sequence[float | None]]) -> None:
        for name, values in losses.items():
            if len(values) != len(texts):
                raise UserError(f"{name} has {len(values)} losses for {len(texts)} pieces of text")
        self._texts = texts
        self._losses = {name: np.nan_to_num(np.asarray(values, dtype=float)) for name, values in losses.items()}

    @classmethod
    def of_tokens(cls, ids: Sequence[int], losses: Mapping[str, Sequence[float]], decode: Decode) -> Self:
        """The text of token ids, `[n]`, with the loss of each token, `[n]`. Tokens that make one character only
        together are one piece, with the sum of their losses: that is the loss of the character.

        Raises:
            UserError: not one loss per token.
        """
        for name, values in losses.items():
            if len(values) != len(ids):
                raise UserError(f"{name} has {len(values)} losses for {len(ids)} tokens")
        pieces = decode_pieces(ids, decode)
        starts = np.cumsum([0, *(piece.num_tokens for piece in pieces)])[:-1]
        summed = {
            name: np.add.reduceat(np.nan_to_num(np.asarray(values, dtype=float)), starts).tolist() if pieces else []
            for name, values in losses.items()
        }
        return cls([piece.text for piece in pieces], summed)

    def _repr_html_(self) -> str:
        blocks = "".join(
            f"<p><b>{escape(visible(name))}</b>: {values.sum():.1f} nats</p>"
            f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{self._spans(values)}</div>'
            for name, values in self._losses.items()
        )
        return f'<div class="loss-text" style="max-width:46em">{blocks}</div>'

    def _spans(self, losses: np.ndarray) -> str:
        shown = []
        for text, loss in zip(self._texts, losses.tolist(), strict=True):
            tint = f"{ROLE_COLOURS[Role.ANSWER].light}{round(165 * (1 - np.exp(-loss))):02x}"
            shown.append(
                f'<span style="background:{tint}" title="{loss:.2f} nats, probability {np.exp(-loss):.1%}">'
                f"{escape(visible(text))}</span>"
            )
        return "".join(shown)
