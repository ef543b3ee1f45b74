"""What a model finds hard about a text: every token tinted by how unlikely it was to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from cot_components.data.text.pieces import Decode, decode_pieces
from cot_components.errors import UserError
from cot_components.roles import Role
from cot_components.viz.theme import ROLE_COLOURS
from cot_components.viz.visible import visible


class LossText:
    """One text under one model or several, a line each; shows itself in a notebook (`_repr_html_`).

    A token's tint is `1 - p`, with `p` the probability that the model gave it: none where it was sure of this token,
    full where it was not expected at all. Point at a token for its loss.

    Args:
        ids: token ids of the text, `[n]`.
        losses: model name -> loss of each token in nats, `[n]`; NaN where a token has none.
        decode: token ids to text.

    Raises:
        UserError: not one loss per token.
    """

    def __init__(self, ids: Sequence[int], losses: Mapping[str, Sequence[float]], decode: Decode) -> None:
        for name, values in losses.items():
            if len(values) != len(ids):
                raise UserError(f"{name} has {len(values)} losses for {len(ids)} tokens")
        self._pieces = decode_pieces(ids, decode)
        self._losses = {name: np.nan_to_num(np.asarray(values, dtype=float)) for name, values in losses.items()}

    def _repr_html_(self) -> str:
        blocks = "".join(
            f"<p><b>{escape(visible(name))}</b>: {values.sum():.1f} nats</p>"
            f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{self._spans(values)}</div>'
            for name, values in self._losses.items()
        )
        return f'<div class="loss-text" style="max-width:46em">{blocks}</div>'

    def _spans(self, losses: np.ndarray) -> str:
        """Pieces of several tokens are tinted by their sum: that is the loss of the whole character."""
        shown, at = [], 0
        for piece in self._pieces:
            loss = float(losses[at : at + piece.num_tokens].sum())
            at += piece.num_tokens
            tint = f"{ROLE_COLOURS[Role.ANSWER].light}{round(165 * (1 - np.exp(-loss))):02x}"
            shown.append(
                f'<span style="background:{tint}" title="{loss:.2f} nats, probability {np.exp(-loss):.1%}">'
                f"{escape(visible(piece.text))}</span>"
            )
        return "".join(shown)
