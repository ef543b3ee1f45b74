"""A source of traces: a file, a folder in hub layout, a hub data set, or generated data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cot_components.config import build, check
from cot_components.data.bad_rows import DropReport
from cot_components.data.generated.dialogues import agent_dialogues, as_traces
from cot_components.data.generated.multiplication import draw_operands, multiplication_traces
from cot_components.data.generated.task_families import STYLES
from cot_components.data.generated.tasks import make_traces
from cot_components.data.read.formats import RowReader
from cot_components.data.read.places import check_source
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.rows.prepare import source_key
from cot_components.errors import UserError

GENERATED, MULTIPLICATION, AGENTS = "generated", "generated_multiplication", "generated_agents"
GENERATED_ROWS = 4000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where traces come from, and how many rows of it an epoch takes.

    Args:
        source: path, hub name, `generated` for the embedded tasks (`split`: `train` or `held_out`, `subset`: one family
            of them, or a style: `mistaken` ends one too high in most rows, `slips` has wrong steps in some, `verbose`
            is a wordier teacher), `generated_multiplication` (`subset`: the number of digits), or `generated_agents`
            for tool-use dialogues (`subset`: see `agent_dialogues`).
        split, subset, format, columns: see `read_traces`; generated data have no format and no columns.
        max_rows: read at most this many rows; generated data default to 4,000.
        weight: rows of this source in an epoch, as a multiple of its size: 0.5 takes a new random half every epoch, 2
            takes each row twice.

    Raises:
        UserError: a weight that is not positive, less than one row, format or columns of generated data.
    """

    source: str
    split: str = "train"
    subset: str | None = None
    format: str | RowReader = "auto"
    columns: Mapping[str, str] | None = None
    max_rows: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UserError(f"source {self.source}: weight must be positive, got {self.weight}")
        if self.max_rows is not None and self.max_rows < 1:
            raise UserError(f"source {self.source}: max_rows must be at least 1, got {self.max_rows}")
        for name, given in {"format": self.format != "auto", "columns": bool(self.columns)}.items():
            if given and self.source in MAKERS:
                raise UserError(f"source {self.source}: {name} has no effect on generated rows; leave it out")

    def check(self) -> None:
        """Refuse a path that does not exist; nothing is read."""
        if self.source not in MAKERS:
            check_source(self.source)

    def read(self, *, strict: bool = True, report: DropReport | None = None) -> Iterable[Trace]:
        """The traces; see `read_traces` for errors."""
        if self.source not in MAKERS:
            options = {name: getattr(self, name) for name in ("format", "columns", "split", "subset", "max_rows")}
            return read_traces(self.source, strict=strict, report=report, **options)
        count = GENERATED_ROWS if self.max_rows is None else self.max_rows
        traces = MAKERS[self.source](self.split, count, self.subset)
        if report is not None:
            report.read += len(traces)
        return traces

    def key(self) -> str | None:
        """The data's part of a cache key; None if it must be hashed from the traces: generated rows, or a user-defined
        format.
        """
        if self.source in MAKERS or callable(self.format):
            return None
        options = {name: value for name, value in asdict(self).items() if name not in ("source", "weight")}
        return source_key(self.source, **options)


def _tasks(split: str, count: int, subset: str | None) -> list[Trace]:
    chosen = {"style": subset} if subset in STYLES else {"families": [subset] if subset else None}
    return make_traces(split=split, count=count, **chosen)  # type: ignore[arg-type]


def _multiplication(split: str, count: int, subset: str | None) -> list[Trace]:
    if subset is None or not subset.isdecimal():
        raise UserError(f"source {MULTIPLICATION}: subset must be the number of digits, got {subset!r}")
    return multiplication_traces(*draw_operands(int(subset), count, split=split))  # type: ignore[arg-type]


def _agents(split: str, count: int, subset: str | None) -> list[Trace]:
    return as_traces(agent_dialogues(split, count, subset))


MAKERS: dict[str, Callable[[str, int, str | None], list[Trace]]] = {
    GENERATED: _tasks,
    MULTIPLICATION: _multiplication,
    AGENTS: _agents,
}
"""Generated sources: functions from split, number of rows and subset to traces."""


def read_sources(source: str | Mapping[str, Any], **options: Any) -> list[Source]:
    """The sources of a config: one, or several by name.

    Args:
        source: `Source.source`, or a mapping `{name: {source: ..., weight: ..., ...}}` of several.
        options: further fields of `Source`; a named source's own settings take precedence, and a generated one takes no
            format or columns from here.

    Raises:
        UserError: unknown or missing keys of a named source.
    """
    if isinstance(source, str):
        return [Source(source=source, **options)]
    if not source:
        raise UserError("dataset.source names no source")
    found = []
    for name, node in source.items():
        if not isinstance(node, (str, Mapping)):
            raise UserError(f"dataset.source.{name} must be a path, a name or a mapping, got {node!r}")
        own = {"source": node} if isinstance(node, str) else node
        made = str(own.get("source")) in MAKERS
        shared = {name: value for name, value in options.items() if not (made and name in ("format", "columns"))}
        given = {**shared, **own}
        check(Source, given, f"dataset.source.{name}")
        given["format"] = build(given.get("format", "auto"), where=f"dataset.source.{name}.format")
        found.append(Source(**given))
    return found
