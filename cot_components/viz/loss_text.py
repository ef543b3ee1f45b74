"""What a model finds hard in a text: every token is tinted by how unlikely the model finds it."""

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
    """One text under one or more models, one paragraph each; a notebook displays it (`_repr_html_`).

    A token's tint is `1 - p`, where `p` is the probability that the model gives it: none if the model is certain of the
    token, full if it does not expect it at all. Hover over a token to see its loss.

    Args:
        ids: token ids of the text, `[n]`.
        losses: model name -> loss of each token in nats, `[n]`; NaN for a token without one.
        decode: token ids to text.

    Raises:
        UserError: the number of losses is not the number of tokens.
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
        """A piece of several tokens is tinted by the sum of their losses, which is that of the whole character."""
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
