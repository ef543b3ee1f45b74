"""What the tests inject and compare, counted: `count` in a test, one line at the end of pytest, a table by `--counts`.

`tests/conftest.py` carries the counts of each test to its report, also from the workers of xdist.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

COUNTED = ("faults injected", "inputs generated", "rows compared", "rows lost", "combinations")
_now: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Add to one of `COUNTED`, for the test that runs."""
    assert what in COUNTED
    _now[what] += number


def take() -> dict[str, int]:
    """What was counted since the last call."""
    taken = dict(_now)
    _now.clear()
    return taken


class Table:
    """Tests and counts by file."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, nodeid: str, *, passed: bool, counts: dict[str, int]) -> None:
        row = self.rows[nodeid.partition("::")[0].removeprefix("tests/")]
        row["passed" if passed else "failed"] += 1
        row.update(counts)

    def total(self) -> str:
        """One line; empty if nothing was counted."""
        sums = sum(self.rows.values(), Counter())
        return ", ".join(f"{sums[what]:,} {what}" for what in COUNTED) if any(sums[what] for what in COUNTED) else ""

    def write(self, path: Path) -> None:
        """The table as text."""
        columns = ("passed", "failed", *COUNTED)
        lines = [" ".join([f"{'':<40}", *(f"{name:>16}" for name in columns)])]
        sums = sum(self.rows.values(), Counter())
        for name, row in [*sorted(self.rows.items()), ("all", sums)]:
            lines.append(" ".join([f"{name:<40}", *(f"{row[column]:>16,}" for column in columns)]))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
