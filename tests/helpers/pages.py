"""What README and the pages say can be typed."""

from __future__ import annotations

import re
from pathlib import Path

from commands import ROOT

GUIDE = ROOT / "CONTRIBUTING.md"
PAGES = [
    ROOT / "README.md",
    GUIDE,
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(page: Path, kind: str = "") -> list[str]:
    """Fenced blocks of one kind; "" are commands and what they print."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for of_kind, text in found if of_kind == kind]
