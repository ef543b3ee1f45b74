"""The terminal, for text that anybody may have written: names of folders are not markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A rich console that prints text as it is: no markup, no emoji, no highlighting. Takes rich's options."""
    return Console(markup=False, emoji=False, highlight=False, **options)
