"""The places of encoded rows, and what the chat template did to their conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Trace
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.prepare import TURN_BITS, TURN_SHIFT
from cot_components.data.rows.store import SOURCE_SHIFT
from cot_components.data.sources import Source, read_sources
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.template_habits import adds, loses_earlier_thought
from cot_components.errors import UserError

_OF_SOURCE = ("split", "subset", "format", "columns", "max_rows")


class Traces:
    """The conversations behind a data set, read again on first access.

    Args:
        node: the node `dataset` of a config.
        data: the data set built from it.
    """

    def __init__(self, node: Mapping[str, Any], data: ReasoningDataset) -> None:
        self._node, self._data = node, data

    def place(self, index: int) -> str:
        """The place of a row, `file.jsonl:17`; `row 16` if its source has no places."""
        return self.place_of(int(self._data.rows.ids[index]))

    def place_of(self, row_id: int) -> str:
        """The same by row id, including rows that selectors left out."""
        where = self._places.get(row_id & ~TURN_BITS, f"row {row_id & ~TURN_BITS}")
        turn = (row_id & TURN_BITS) >> TURN_SHIFT
        return f"{where}, turn {turn}" if turn else where

    def habits(self) -> tuple[str, ...]:
        """What the template adds and leaves out, a sentence each; empty without a chat template."""
        chat = self._data.chat
        if not isinstance(chat, ChatFormat):
            return ()
        said, lost, with_system = [], [], 0
        for trace in self._read():
            with_system += trace.messages[0].role == "system"
            if loses_earlier_thought(chat, trace.messages):
                lost.append(trace.where)
        of_all = len(self._places)
        for system, number in ((True, with_system), (False, of_all - with_system)):
            if number and (words := adds(chat, system=system)):
                those = "with" if system else "without"
                said.append(f"adds text to the {number:,} rows {those} a system prompt: {words!r}")
        if "strftime_now" in chat.template.source:
            said.append(f"writes today's date, which is {chat.template.date} in every row (dataset.date)")
        if lost:
            said.append(f"removes thoughts of earlier turns from {len(lost):,} rows (first: {lost[0]})")
        return tuple(said)

    @cached_property
    def _places(self) -> dict[int, str]:
        return {trace.id + (number << SOURCE_SHIFT): trace.where for number, trace in self._numbered()}

    def _read(self) -> Iterator[Trace]:
        return (trace for _, trace in self._numbered())

    def _numbered(self) -> Iterator[tuple[int, Trace]]:
        for number, source in enumerate(self._sources):
            for trace in source.read(strict=False, report=DropReport()):
                yield number, trace

    @cached_property
    def _sources(self) -> list[Source]:
        options = {name: self._node[name] for name in _OF_SOURCE if name in self._node}
        if "source" not in self._node:
            return []
        try:
            return read_sources(self._node["source"], **options)
        except UserError:  # a data set with sources of its own
            return []
