"""From a file, a folder or a hub data set to traces, with a place for every row and a stated outcome for every fault.

| what is met                                         | outcome                                                     |
|-----------------------------------------------------|-------------------------------------------------------------|
| blank line; UTF-8 mark at the start of a file; CRLF | skipped; not a row                                          |
| U+2028, U+0085 and the like inside a string         | text: only a line feed ends a line                          |
| half last line, bad UTF-8, NaN, a list, broken JSON | fault of that row                                           |
| lone surrogate in a text that would be used         | fault of that row                                           |
| missing column, null, wrong type, empty prompt or   | fault of that row; nothing ever becomes the word "None"     |
| response, turns in an order that makes no sense     |                                                             |
| broken JSON inside one big list; a broken Parquet   | error, also when lenient: nobody knows how much is lost     |
| a file without permission to read it                | error, also when lenient                                    |
| columns that the format does not use                | ignored                                                     |
| null in a tool or a call of a typed table (`arrow`) | the key is not there                                        |
| no rows at all                                      | error                                                       |

Strict: a fault is a TraceError "file:line: reason". Lenient: the row is dropped, and counted in the report by reason.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_components.data.arrow import data_set_rows, parquet_rows
from cot_components.data.errors import DropReport, RowError, TraceError, one_line
from cot_components.data.formats import FORMATS, Message, check_format, detect, read_row
from cot_components.data.strict_json import strict_decoder
from cot_components.errors import UserError

__all__ = ["DropReport", "Message", "RowError", "Trace", "TraceError", "read_traces"]

PlacedRow = tuple[str, Any]
"""Where a row stands, and the row: a mapping, or the RowError that says why there is none."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Trace:
    """A conversation to learn from.

    id:       row number in the source from 0, before anything is dropped; part of every random draw made for the row
    messages: turns; the first that is not a system prompt is the user's, the last is the assistant's
    where:    place for people: `file.jsonl:17`, counted from 1 (lines; rows in Parquet and hub data sets)
    answer:   reference answer, when the data has one
    """

    id: int
    messages: tuple[Message, ...]
    where: str
    answer: str | None = None


def read_traces(
    source: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    subset: str | None = None,
    strict: bool = True,
    report: DropReport | None = None,
    max_rows: int | None = None,
) -> Iterator[Trace]:
    """Traces of a `.json`, `.jsonl`, `.parquet` or `.txt` file, of a local folder in hub layout, or of a hub data set.

    Args:
        source: path, or name of a hub data set (fetched by `datasets`, so its cache and HF_DATASETS_OFFLINE apply)
        format: a name of `formats.FORMATS`, or "auto": found from the columns of the first usable row
        columns: field of the format -> column that holds it, such as {"instruction": "problem", "response": "solution"}
        split: split of a folder or hub data set
        subset: configuration of a folder or hub data set, when it has several
        strict: whether the first bad row is an error; otherwise bad rows are dropped
        report: filled with what was read and dropped
        max_rows: stop after so many rows of the source, good or bad

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
    source: str, rows: Iterable[PlacedRow], format: str, columns: dict[str, str], strict: bool, report: DropReport
) -> Iterator[Trace]:
    row_id = -1
    for row_id, (where, row) in enumerate(rows):
        report.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, Mapping):
                raise RowError("a row is not an object", f"it is {type(row).__name__}")
            if format == "auto":
                format = detect(row, columns)
            content = read_row(row, FORMATS[format], columns)
        except RowError as fault:
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
        return _hub_rows(source, split, subset)
    if path.is_dir():
        return itertools.chain.from_iterable([_file_rows(file) for file in _folder_files(path, split, subset)])
    if split != "train" or subset is not None:
        asked = f"split '{split}'" if split != "train" else f"subset '{subset}'"
        raise UserError(f"{source}: a file has no {asked}; name another file, or a share of this one: dataset_val=0.05")
    return _file_rows(path)


def find_source(source: str | Path) -> Path | None:
    """The path of what is there under that name; None where nothing is.

    Raises:
        UserError: a name that cannot be looked up: too long, or in a folder without permission.
    """
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder of an unknown user
        raise UserError(f"{source}: {getattr(error, 'strerror', None) or error}") from None


def check_source(source: str) -> None:
    """Refuse what is no path that exists and no name that a hub could know.

    Raises:
        UserError: no such file or folder.
    """
    if find_source(source) is None and (Path(source).suffix in READERS or not _HUB_NAME.fullmatch(source)):
        raise UserError(f"{source}: no such file or folder")


def unreadable(path: Path, error: OSError) -> TraceError:
    """What is wrong with a file that is there and cannot be read."""
    return TraceError(str(path), "cannot be read", error.strerror or str(error))


def _folder_files(folder: Path, split: str, subset: str | None) -> list[Path]:
    """Data files of a folder in hub layout: `datasets` knows the layout, but not on which line a row stands."""
    import datasets
    from yaml import YAMLError

    try:
        found = datasets.load_dataset_builder(str(folder), subset).config.data_files or {}
    except YAMLError as error:
        raise UserError(f"{folder}/README.md: the YAML at its top cannot be read: {one_line(error)}") from error
    except (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{folder}: not a data set in hub layout: {one_line(error)}") from error
    if split not in found:
        raise UserError(f"{folder}: no split {split!r}; there are: {', '.join(map(str, found)) or 'none'}")
    return [Path(file) for file in found[split]]


def _hub_rows(name: str, split: str, subset: str | None) -> Iterator[PlacedRow]:
    import datasets
    from yaml import YAMLError

    try:
        rows = datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError, RuntimeError, ImportError, YAMLError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name}: neither here nor to be had from the hub: {one_line(error)}") from error
    return data_set_rows(f"{name}/{split}", rows)


def _file_rows(path: Path) -> Iterator[PlacedRow]:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}; known: {', '.join(READERS)}")
    return reader(path)


_DECODER = strict_decoder(RowError)


def _lines(path: Path) -> Iterator[tuple[str, str | RowError]]:
    """Lines that hold something, decoded one by one so that a bad byte costs one line. Only a line feed ends a line."""
    for number, raw in enumerate(_raw_lines(path), start=1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not raw.strip():
            continue
        try:
            line: str | RowError = raw.decode()
        except UnicodeDecodeError as error:
            line = RowError("not UTF-8", f"byte {error.start + 1} of the line")
        yield f"{path}:{number}", line


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise unreadable(path, error) from None


def _parse_line(line: str) -> Any:
    """The JSON value of a line, or the RowError that says why it is none."""
    try:
        return _DECODER.decode(line)
    except RowError as fault:
        return fault
    except json.JSONDecodeError as error:
        reason = "not JSON" if line.endswith("\n") else "not JSON: the file ends within the line"
        return RowError(reason, f"{error.msg}, column {error.colno}")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; lists nested thousands deep
        return RowError("JSON beyond what can be read", one_line(error))


def _jsonl_rows(path: Path) -> Iterator[PlacedRow]:
    for where, line in _lines(path):
        yield where, line if isinstance(line, RowError) else _parse_line(line)


def _text_rows(path: Path) -> Iterator[PlacedRow]:
    for where, line in _lines(path):
        yield where, line if isinstance(line, RowError) else {"text": line.rstrip("\r\n")}


def _json_rows(path: Path) -> Iterator[PlacedRow]:
    """Rows of one big list, or one object per line: both are published under `.json`."""
    first = next((line for _, line in _lines(path)), "")
    is_list = isinstance(first, str) and first.lstrip().startswith("[")
    return _list_rows(path) if is_list else _jsonl_rows(path)


_SEPARATOR = re.compile(r"[ \t\r\n]*([,\]]?)[ \t\r\n]*")


def _list_rows(path: Path) -> Iterator[PlacedRow]:
    """Rows of a JSON list, with the line each one starts on."""
    try:
        text = b"".join(_raw_lines(path)).decode()
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}:{error.object.count(10, 0, error.start) + 1}", "not UTF-8") from None
    after = text.index("[") + 1
    line = 1 + text.count("\n", 0, after)
    separator = _separator(text, after)
    while separator[1] != "]":
        start = separator.end()
        line += text.count("\n", after, start)
        row, after = _decode_at(text, start, where=f"{path}:{line}")
        yield f"{path}:{line}", row
        line += text.count("\n", start, after)
        separator = _separator(text, after)
        if not separator[1]:
            raise TraceError(f"{path}:{line}", "the list is broken after this row")
    if separator.end() < len(text):
        raise TraceError(f"{path}:{line}", "text after the end of the list")


def _separator(text: str, start: int) -> re.Match[str]:
    found = _SEPARATOR.match(text, start)
    assert found is not None, "every part of the pattern may be empty"
    return found


def _decode_at(text: str, start: int, *, where: str) -> tuple[Any, int]:
    """The JSON value at `start` (a RowError if it holds NaN) and where it ends; one without an end breaks the list."""
    constants: list[str] = []
    try:
        row, after = json.JSONDecoder(parse_constant=constants.append).raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise TraceError(where, "the list is broken here", one_line(error)) from None
    return (RowError(f"{constants[0]} is not JSON") if constants else row), after


READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": parquet_rows, ".txt": _text_rows}
