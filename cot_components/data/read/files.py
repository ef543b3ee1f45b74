"""Rows of one file with their places: JSON, JSON Lines, CSV, Parquet and lines of text, compressed or not."""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cot_components.data.bad_rows import RowError, TraceError, one_line
from cot_components.data.read.arrow import check_columns, parquet_rows
from cot_components.data.read.strict_json import decode_text, decode_value
from cot_components.errors import UserError

PlacedRow = tuple[str, Any]
"""A row's place, and the row: a mapping, or the RowError that says why it cannot be read."""

PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN_PACK = (EOFError, zlib.error, lzma.LZMAError)


def kind_of(path: Path) -> str:
    """The suffix that decides how a file is read: `.jsonl` for `rows.jsonl` and `rows.jsonl.gz`."""
    unpacked = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return unpacked.suffix.lower()


def file_rows(path: Path) -> Iterator[PlacedRow]:
    """Rows of a file with their places, `file:line`.

    Raises:
        UserError: at once, for an unknown kind of file.
        TraceError: while reading, if it is unknown how much is lost: see the table in `traces`.
    """
    reader = READERS.get(kind_of(path))
    if reader is None or (reader is parquet_rows and path.suffix.lower() in PACKED):
        known = f"{', '.join(READERS)}; all but .parquet may be compressed: {', '.join(PACKED)}"
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}; known: {known}")
    return reader(path)


def unreadable(path: Path, error: OSError) -> TraceError:
    """The error for an existing file that cannot be read."""
    return TraceError(str(path), "cannot be read", error.strerror or str(error))


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Raw lines, without a byte order mark at the start of the file."""
    unpack = PACKED.get(path.suffix.lower())
    try:
        with path.open("rb") if unpack is None else unpack(path) as file:
            yield file.readline().removeprefix(b"\xef\xbb\xbf")
            yield from file
    except _BROKEN_PACK as error:
        raise TraceError(str(path), f"not a complete {path.suffix} file", one_line(error)) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _whole_text(path: Path) -> str:
    try:
        return b"".join(_raw_lines(path)).decode()
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}:{error.object.count(10, 0, error.start) + 1}", "not UTF-8") from None


def _lines(path: Path) -> Iterator[tuple[str, str | RowError]]:
    """Non-blank lines, decoded one by one so that a bad byte costs one line. Only a line feed ends a line."""
    for number, raw in enumerate(_raw_lines(path), start=1):
        if not raw.strip():
            continue
        try:
            line: str | RowError = raw.decode()
        except UnicodeDecodeError as error:
            line = RowError("not UTF-8", f"byte {error.start + 1} of the line")
        yield f"{path}:{number}", line


def _parse_line(line: str) -> Any:
    """The JSON value of a line, or the RowError that says why it is not JSON."""
    try:
        return decode_text(line)
    except json.JSONDecodeError as error:
        reason = "not JSON" if line.endswith("\n") else "not JSON: the file ends within the line"
        return RowError(reason, f"{error.msg}, column {error.colno}")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; lists nested thousands deep
        return RowError("JSON too large or too deeply nested", one_line(error))


def _jsonl_rows(path: Path) -> Iterator[PlacedRow]:
    for where, line in _lines(path):
        yield where, line if isinstance(line, RowError) else _parse_line(line)


def _text_rows(path: Path) -> Iterator[PlacedRow]:
    for where, line in _lines(path):
        yield where, line if isinstance(line, RowError) else {"text": line.rstrip("\r\n")}


def _json_rows(path: Path) -> Iterator[PlacedRow]:
    """Rows of a list, of a list under a single key, of objects over many lines, or one object per line: all of these
    are published as `.json`.
    """
    first, *more = [line for _, line in itertools.islice(_lines(path), 2)] or [""]
    if isinstance(first, str) and first.lstrip().startswith("["):
        text = _whole_text(path)
        return _list_rows(path, text, text.index("[") + 1)
    if _is_value(first) == bool(more):
        return _jsonl_rows(path)
    try:
        text = _whole_text(path)
        return _document_rows(path, text, *_decode_at(text, 0, path, 1))
    except TraceError:
        if any(map(_is_value, more)):  # an object per line, the first of them broken
            return _jsonl_rows(path)
        raise


def _is_value(line: str | RowError) -> bool:
    try:
        return isinstance(line, str) and bool(line) and decode_text(line) is not None
    except (ValueError, RecursionError):
        return False


_BLANKS = re.compile(r"\s*")
_UNDER_A_KEY = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[')


def _document_rows(path: Path, text: str, value: Any, end: int) -> Iterator[PlacedRow]:
    """The objects of a file one after the other, or, if its only object wraps a list, the rows of that list.

    value, end: the file's first value, and where it ends.
    """
    opening, start = _UNDER_A_KEY.match(text), _after_blanks(text, end)
    if start == len(text) and opening is not None and _is_around_rows(value):
        yield from _list_rows(path, text, opening.end(), ending="}")
        return
    before = _after_blanks(text, 0)
    line = 1 + text.count("\n", 0, before)
    yield f"{path}:{line}", value
    while start < len(text):
        line += text.count("\n", before, start)
        before = start
        value, end = _decode_at(text, start, path, line)
        yield f"{path}:{line}", value
        start = _after_blanks(text, end)


def _is_around_rows(value: Any) -> bool:
    """Whether an object only wraps a list of rows; a list of turns does not count, it is part of a row."""
    inner = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
    row = inner[0] if isinstance(inner, list) and inner else None
    return isinstance(row, dict) and not {"role", "from"} & set(row)


def _after_blanks(text: str, start: int) -> int:
    found = _BLANKS.match(text, start)
    assert found is not None, "there may be no blanks"
    return found.end()


_SEPARATOR = re.compile(r"[ \t\r\n]*([,\]]?)[ \t\r\n]*")


def _list_rows(path: Path, text: str, after: int, *, ending: str = "") -> Iterator[PlacedRow]:
    """Rows of the JSON list that opens before `after`, with the line each one starts on; `ending` follows the list."""
    line = 1 + text.count("\n", 0, after)
    separator = _separator(text, after)
    while separator[1] != "]":
        start = separator.end()
        line += text.count("\n", after, start)
        row, after = _decode_at(text, start, path, line)
        yield f"{path}:{line}", row
        line += text.count("\n", start, after)
        separator = _separator(text, after)
        if not separator[1]:
            raise TraceError(f"{path}:{line}", "the list is broken after this row")
    if text[separator.end() :].rstrip() != ending:
        raise TraceError(f"{path}:{line}", "text after the end of the list")


def _separator(text: str, start: int) -> re.Match[str]:
    found = _SEPARATOR.match(text, start)
    assert found is not None, "every part of the pattern may be empty"
    return found


def _decode_at(text: str, start: int, path: Path, line: int) -> tuple[Any, int]:
    """The JSON value at `start` (a RowError for NaN and the like) and where it ends; if the end cannot be found, the
    whole file is refused."""
    try:
        return decode_value(text, start)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}:{line}", "the JSON is broken here", one_line(error)) from None


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def _csv_rows(path: Path, *, delimiter: str = ",") -> Iterator[PlacedRow]:
    """Rows of a table with a header line. All cells are text; an empty one is null."""
    csv.field_size_limit(sys.maxsize)  # a thought may be longer than Python's 131,072 characters
    lines = (raw.decode(errors="surrogateescape") for raw in _raw_lines(path))
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = f"{path}:{table.line_num + 1}"
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise TraceError(where, "the table is broken here", one_line(error)) from None
        if cells is None:
            return
        if not "".join(cells).strip():
            continue
        if names:
            yield where, _csv_row(names, cells)
        else:
            names = cells
            if _ESCAPED_BYTE.search("".join(names)):
                raise TraceError(where, "not UTF-8")
            check_columns(where, names)


def _csv_row(names: list[str], cells: list[str]) -> Any:
    if len(cells) != len(names):
        return RowError("not as many cells as the table has columns", f"{len(cells)}, not {len(names)}")
    if any(_ESCAPED_BYTE.search(cell) for cell in cells):
        return RowError("not UTF-8")
    return {name: cell or None for name, cell in zip(names, cells, strict=True)}


READERS: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": partial(_csv_rows, delimiter="\t"),
    ".parquet": parquet_rows,
    ".txt": _text_rows,
}
