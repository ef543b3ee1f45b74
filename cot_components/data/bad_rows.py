"""Errors about rows of data, and the report of rows left out because of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cot_components.errors import UserError


def one_line(error: Exception) -> str:
    """The message of a lower-level error, on one readable line."""
    return shortened(" ".join(str(error).split()) or type(error).__name__)


def shortened(text: str) -> str:
    """At most 300 characters of the text."""
    return text if len(text) <= 300 else text[:297] + "..."


def check_max_dropped(share: float) -> None:
    """Raise UserError unless this is a share of the rows."""
    if not 0 <= share <= 1:
        raise UserError(f"dataset.max_dropped must be a share from 0 to 1, got {share:g}; 0.05 is 5 %")


class RowError(UserError):
    """A row whose meaning is not certain, before its place is known.

    reason: the same for every row with the same fault, so that rows can be counted by it
    detail: specific to this row
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason

    def at(self, where: str) -> TraceError:
        """The same error with its place."""
        return TraceError(where, self.reason, self.detail)


class TraceError(UserError):
    """A row that cannot be used; `where` is `file:line`. Reads "where: reason", then "(detail)" when there is one."""

    def __init__(self, where: str, reason: str, detail: str = "") -> None:
        super().__init__(where, reason, detail)
        self.where = where
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class DropReport:
    """How many rows were read, and which were left out and why. Everything that handles the same rows shares one
    report.

    read:    rows seen, good or bad
    dropped: reason -> places, in the order they were met
    """

    read: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_dropped(self) -> int:
        """Rows left out, for any reason."""
        return sum(map(len, self.dropped.values()))

    @property
    def kept(self) -> int:
        """Rows read and not dropped; derived, so that the three numbers always agree."""
        return self.read - self.num_dropped

    def add(self, where: str, reason: str) -> None:
        """Count one row that was already counted in `read` as dropped."""
        self.dropped.setdefault(reason, []).append(where)

    def merge(self, other: DropReport) -> None:
        """Add another report to this one."""
        self.read += other.read
        for reason, places in other.dropped.items():
            self.dropped.setdefault(reason, []).extend(places)

    def commonest(self) -> list[tuple[str, list[str]]]:
        """Reasons with their places, most frequent first; equally frequent ones in the order they were met."""
        return sorted(self.dropped.items(), key=lambda item: -len(item[1]))

    def summary(self) -> str:
        """One line of counts, then one line per reason with the first three places."""
        lines = [f"{self.read} rows read, {self.kept} kept, {self.num_dropped} dropped"]
        for reason, places in self.commonest():
            shown = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            lines.append(f"  {len(places)} x {reason}: {shown}")
        return "\n".join(lines)

    def check(self, max_dropped_share: float) -> None:
        """Raise UserError when nothing is left, or when more than this share (0 to 1) of the rows was dropped."""
        check_max_dropped(max_dropped_share)
        if self.kept > 0 and self.num_dropped <= max_dropped_share * self.read:
            return
        worst = "; ".join(f"{len(places)} x {reason} (first: {places[0]})" for reason, places in self.commonest()[:3])
        raise UserError(
            f"{self.num_dropped} of {self.read} rows were dropped and {self.kept} are left"
            f" (at most {max_dropped_share:g} of the rows may be dropped): {worst or 'there were no rows to read'}"
        )
