"""Read a file, folder or hub data set into traces, with a place for every row and a defined outcome for every fault.

| what is met                                         | outcome                                                     |
|-----------------------------------------------------|-------------------------------------------------------------|
| blank line; UTF-8 mark at the start of a file; CRLF | skipped; not a row                                          |
| U+2028, U+0085 and the like inside a string         | text: only a line feed ends a line                          |
| half last line, bad UTF-8, NaN, a list, broken JSON,| fault of that row                                           |
| a key twice in an object, nesting beyond reason     |                                                             |
| a line of CSV with too few or too many cells        | fault of that row                                           |
| an empty cell of CSV                                | null                                                        |
| lone surrogate in a text that would be used         | fault of that row                                           |
| missing column, null, wrong type, empty prompt or   | fault of that row; nothing ever becomes the word "None"     |
| response, turns in an order that makes no sense     |                                                             |
| broken JSON inside one big list or object; a broken | error, also when lenient: nobody knows how much is lost     |
| Parquet, CSV or packed file                         |                                                             |
| two columns of one name in a Parquet file or CSV    | error, also when lenient                                    |
| a file without permission to read it                | error, also when lenient                                    |
| columns that the format does not use                | ignored                                                     |
| null in a tool or a call of a typed table (`arrow`) | the key is not there                                        |
| no rows at all                                      | error                                                       |

Strict: a fault raises TraceError "file:line: reason". Lenient: the row is dropped and counted in the report by reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.arrow import data_set_rows
from cot_components.data.read.bfcl import bfcl_rows, is_bfcl
from cot_components.data.read.files import PlacedRow, file_rows
from cot_components.data.read.formats import FORMATS, Message, RowReader, check_format, detect, read_row, translated
from cot_components.data.read.places import (
    check_source,
    find_source,
    hub_data_set,
    is_saved,
    saved_data_set,
    source_files,
)
from cot_components.errors import UserError

__all__ = ["DropReport", "Message", "RowError", "Trace", "TraceError", "read_traces"]


@dataclass(frozen=True)
class Trace:
    """A conversation to learn from.

    id:       row number in the source from 0, before any row is dropped; part of every random draw for the row
    messages: turns; the first that is not a system prompt is the user's, the last is the assistant's
    where:    its place, for errors: `file.jsonl:17`, counted from 1 (lines; rows in Parquet and hub data sets)
    answer:   reference answer, if the data has one
    """

    id: int
    messages: tuple[Message, ...]
    where: str
    answer: str | None = None


def read_traces(
    source: str | Path,
    *,
    format: str | RowReader = "auto",
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    subset: str | None = None,
    strict: bool = True,
    report: DropReport | None = None,
    max_rows: int | None = None,
) -> Iterator[Trace]:
    """Traces of a file (`files.READERS`), of a local folder (hub layout, `save_to_disk` or BFCL), or of a hub data set.

    Args:
        source: path, or name of a hub data set (fetched by `datasets`, so its cache and HF_DATASETS_OFFLINE apply)
        format: a name in `formats.FORMATS`; "auto", detected from the columns of the first usable row; or a
            `RowReader`, whose rows may be of any of these
        columns: field of the format -> column that holds it, such as {"instruction": "problem", "response": "solution"}
        split: split of a folder or hub data set
        subset: configuration of a folder or hub data set, when it has several
        strict: raise on the first bad row; otherwise drop bad rows
        report: receives the rows read and dropped
        max_rows: stop after this many rows of the source, good or bad

    Raises:
        UserError: at once, for arguments that cannot work: no such file, unknown format or field
        TraceError: while reading, for a bad row when strict, and for a source that is unreadable or holds no rows
    """
    columns = dict(columns or {})
    check_format(format, columns)
    if max_rows is not None and max_rows < 1:
        raise UserError(f"max_rows must be at least 1, got {max_rows}")
    rows = itertools.islice(_placed_rows(str(source), split, subset), max_rows)
    return _traces(str(source), rows, format, columns, strict, DropReport() if report is None else report)


def _traces(
    source: str,
    rows: Iterable[PlacedRow],
    format: str | RowReader,
    columns: dict[str, str],
    strict: bool,
    report: DropReport,
) -> Iterator[Trace]:
    row_id = -1
    for row_id, (where, row) in enumerate(rows):
        report.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, Mapping):
                raise RowError("a row is not an object", f"it is {type(row).__name__}")
            if callable(format):
                row = translated(format, row)
                shape = detect(row, columns)
            elif format == "auto":
                shape = format = detect(row, columns)
            else:
                shape = format
            content = read_row(row, FORMATS[shape], columns)
        except (RowError, RecursionError) as error:
            fault = error if isinstance(error, RowError) else RowError("nested too deeply to be read")
            if strict:
                raise fault.at(where) from None
            report.add(where, fault.reason)
        else:
            yield Trace(row_id, content.messages, where, content.answer)
    if row_id < 0:
        raise TraceError(source, "there are no rows")


def _placed_rows(source: str, split: str, subset: str | None) -> Iterator[PlacedRow]:
    check_source(source)
    path = find_source(source)
    if path is None:
        return data_set_rows(f"{source}/{split}", hub_data_set(source, split, subset))
    if is_saved(path):
        return data_set_rows(str(path), saved_data_set(path, split, subset))
    files = source_files(path, split, subset)
    return bfcl_rows(files) if is_bfcl(path) else itertools.chain.from_iterable([file_rows(file) for file in files])
