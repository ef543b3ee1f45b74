"""A terminal console for untrusted text: the name of a folder must not be parsed as markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A rich console that prints text verbatim: no markup, no emoji, no highlighting. Takes rich's options."""
    return Console(markup=False, emoji=False, highlight=False, **options)
