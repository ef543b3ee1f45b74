"""Rows of typed tables (Parquet, the `datasets` library), which are not quite rows of JSON.

All objects of a typed column have the same keys: if one row's call has the argument `city` and the next row's has
`who`, both come back with both keys, the other's as null. When a key is read by name, such a null equals a missing key.
Calls and tools are written out in full, so these nulls are removed there, along with any null the data really held: the
two cannot be told apart.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cot_components.data.bad_rows import RowError, TraceError, one_line

if TYPE_CHECKING:
    import pyarrow as pa


class Struct(dict[str, Any]):
    """An object of a typed column; a null in it may only mean that another row's object has the key."""


def as_structs(value: Any) -> Any:
    """The value of a typed column with every object in it a `Struct`."""
    if isinstance(value, dict):
        return Struct((key, as_structs(inner)) for key, inner in value.items())
    return [as_structs(inner) for inner in value] if isinstance(value, list) else value


def without_nulls(value: Any) -> Any:
    """The value without the keys that are null in a `Struct`; plain JSON objects and their nulls stay."""
    if isinstance(value, Struct):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


class TableRow(Mapping[str, Any]):
    """One row of a table. A value is converted on access, so an unread column cannot fail."""

    def __init__(self, columns: Mapping[str, pa.Array], number: int) -> None:
        self._columns = columns
        self._number = number

    def __getitem__(self, name: str) -> Any:
        column = self._columns[name]
        try:
            return as_structs(column[self._number].as_py())
        except (ValueError, OverflowError, LookupError, TypeError, NotImplementedError) as error:  # such as bad UTF-8
            raise RowError(f"'{name}' cannot be read", one_line(error)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def check_columns(where: str, names: Iterable[str]) -> None:
    """Raises TraceError if two columns have the same name, which is ambiguous."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TraceError(where, "two columns have the same name", repr(twice[0]))


def parquet_rows(path: Path) -> Iterator[tuple[str, TableRow]]:
    """Rows of a Parquet file with their places, counted from 1. Raises TraceError if the file is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_columns(str(path), file.schema_arrow.names)
            places = (f"{path}:{number}" for number in itertools.count(1))
            for batch in file.iter_batches(batch_size=1024):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield from ((next(places), TableRow(columns, number)) for number in range(batch.num_rows))
    except TraceError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TraceError(str(path), "not a readable Parquet file", one_line(error)) from None


def data_set_rows(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Rows read by the `datasets` library, with their places. Raises TraceError for a row it cannot read."""
    try:
        for number, row in enumerate(rows, start=1):
            yield f"{name}:{number}", as_structs(row)
    except (OSError, ValueError, OverflowError) as error:  # bad UTF-8; a date beyond those of Python
        raise TraceError(name, "the data set cannot be read", one_line(error)) from None
