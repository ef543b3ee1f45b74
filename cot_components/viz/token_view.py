"""The token view: what a config really trains on, token by token, in a page, a notebook or a terminal."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from cot_components.data.rows.flat import Flat
from cot_components.data.text.pieces import Decode
from cot_components.viz.token_html import token_html
from cot_components.viz.token_samples import Flats, Sample, Totals, count_tokens, make_samples, name_draws
from cot_components.viz.token_terminal import TokenTerminal
from cot_components.viz.visible import visible


class TokenView:
    """Rows after the transforms, in one draw or several side by side.

    Displayed by a notebook (`_repr_html_`) and by `rich.print`. Tokens are coloured by role; those in the loss are
    tinted, more deeply for a higher weight; those that a transform took out of the loss are blurred until hovered over.

    Args:
        flats: one batch of `B` rows; or several draws of the same rows, by name or as a sequence (then named
            `epoch 0`, `epoch 1` ...).
        decode: token ids to text.
        before: the same rows before any transform; with it, removed tokens are shown in their old place.
        max_rows: how many rows to show, from the first; default all. The totals always count all.
        title: heading of the page.

    Raises:
        UserError: no draw, or draws that are not of the same rows in the same order.
    """

    def __init__(
        self,
        flats: Flats,
        decode: Decode,
        *,
        before: Flat | None = None,
        max_rows: int | None = None,
        title: str = "Token view",
    ) -> None:
        self.draws = {visible(name): flat for name, flat in name_draws(flats).items()}
        self.before = before
        self.title = visible(title)
        self._decode, self._max_rows = decode, max_rows

    @cached_property
    def samples(self) -> list[Sample]:
        """The rows shown."""
        return make_samples(self.draws, self._decode, before=self.before, max_rows=self._max_rows)

    @property
    def totals(self) -> Totals:
        """Counts of each draw over all rows: `("epoch 0", "thought 412, blurred 83 (20.1 %), answer 9, ...")`."""
        lines = [(name, count_tokens(flat, before=self.before).line()) for name, flat in self.draws.items()]
        return Totals(lines, len(next(iter(self.draws.values())).ids))

    def html(self) -> str:
        """One self-contained page."""
        return token_html(self.samples, self.totals, title=self.title)

    def terminal(self) -> TokenTerminal:
        """A rich renderable."""
        return TokenTerminal(self.samples, self.totals, title=self.title)

    def save(self, path: str | Path) -> Path:
        """Write the page; returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return token_html(self.samples, self.totals, title=self.title, whole_page=False)

    def __rich__(self) -> TokenTerminal:
        return self.terminal()
