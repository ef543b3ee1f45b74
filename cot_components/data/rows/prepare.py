"""From traces to rows ready for training: rendered, encoded, checked, cached."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cot_components.data.bad_rows import DropReport, RowError, check_max_dropped
from cot_components.data.read.files import kind_of, unreadable
from cot_components.data.read.places import find_source, source_files
from cot_components.data.read.traces import Message, Trace
from cot_components.data.rows.encode import ENCODER_VERSION, EncodedRow, encode_by_parts, encode_in_one_go, fit
from cot_components.data.rows.flat import is_supervised
from cot_components.data.rows.row_cache import read_rows, write_rows
from cot_components.data.rows.store import SOURCE_SHIFT, Rows
from cot_components.data.text.chat import ChatFormat, Turn
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.errors import UserError

TURN_SHIFT = 40
TURN_BITS = (1 << SOURCE_SHIFT) - (1 << TURN_SHIFT)
"""The bits of a row id that hold the supervised turn's number."""
CHUNK = 256
TOO_LONG = ("drop", "cut_thought")
TURNS = ("last", "each")


class Prepared(NamedTuple):
    """Rows, and the report of what was read and left out. `from_cache`: nothing had to be encoded."""

    rows: Rows
    report: DropReport
    from_cache: bool


@dataclass(frozen=True)
class RowSettings:
    """Settings, besides the chat format, that decide how a trace becomes rows.

    turns:       `last`: one row, the last assistant turn is supervised. `each`: one row per assistant turn, with id
                 `trace.id + (turn << 40)`, turns counted from 0. Either way the template decides which earlier
                 thoughts the prompt holds.
    max_seq_len: tokens per row; None for no limit
    too_long:    `drop` the row, or `cut_thought`: leave out the middle of its thought
    """

    turns: str = "last"
    max_seq_len: int | None = None
    too_long: str = "drop"

    def __post_init__(self) -> None:
        for name, known in (("turns", TURNS), ("too_long", TOO_LONG)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.max_seq_len is not None and self.max_seq_len < 2:
            raise UserError(f"max_seq_len must be at least 2, got {self.max_seq_len}")


def row_limit(max_seq_len: int | None, tokenizer: Any) -> int | None:
    """Tokens per row: `max_seq_len` if given, else the tokenizer's own, if it has one."""
    return getattr(tokenizer, "max_seq_len", None) if max_seq_len is None else max_seq_len


def prepare_rows(
    read: Callable[[DropReport], Iterable[Trace]],
    chat: ChatFormat,
    settings: RowSettings | None = None,
    *,
    strict: bool = True,
    max_dropped: float = 0.05,
    cache_dir: str | Path | None = None,
    data_key: str | None = None,
) -> Prepared:
    """Rows of all traces that `read(report)` yields.

    read:        reads the source and fills in the report: `lambda report: read_traces(source, report=report)`
    strict:      whether the first row that cannot be used is an error; otherwise it is dropped with its reason
    max_dropped: share of dropped rows (0 to 1) above which it is an error anyway
    cache_dir:   folder for encoded rows, keyed by data, chat format, settings and ENCODER_VERSION; None: in memory
    data_key:    the data's part of that key (`source_key`); None: the traces are read and hashed

    Raises UserError for a bad row when strict, if too many or all rows are dropped, or for a share outside 0 to 1.
    """
    check_max_dropped(max_dropped)
    settings = settings or RowSettings()
    report = DropReport()
    if cache_dir is None:
        rows = Rows.concatenate(list(encode_traces(read(report), chat, settings, strict=strict, report=report)))
        report.check(max_dropped)
        return Prepared(rows, report, from_cache=False)
    if Path(cache_dir).expanduser().exists() and not Path(cache_dir).expanduser().is_dir():
        raise UserError(f"dataset.cache_dir: {cache_dir} is not a folder")
    key = cache_key(data_key or hash_traces(read(DropReport())), chat, settings)
    folder = Path(cache_dir).expanduser() / key
    found = read_rows(folder)
    from_cache = found is not None
    if found is None:
        parts = encode_traces(read(report), chat, settings, strict=strict, report=report)
        write_rows(folder, parts, lambda: dataclasses.asdict(report))
        found = read_rows(folder)
    if found is None:
        raise UserError(f"encoded rows could not be stored in {folder}")
    report = DropReport(**found[1])
    if strict and report.dropped:
        reason, places = report.commonest()[0]
        raise UserError(f"{places[0]}: {reason}")
    report.check(max_dropped)
    return Prepared(found[0], report, from_cache)


def encode_traces(
    traces: Iterable[Trace], chat: ChatFormat, settings: RowSettings, *, strict: bool, report: DropReport
) -> Iterator[Rows]:
    """Rows of the traces, a few hundred at a time. For every kept row, the supervised tokens decode to exactly its
    text."""

    def drop(where: str, fault: RowError) -> None:
        if strict:
            raise fault.at(where) from None
        report.add(where, fault.reason)

    for chunk in _chunks(tqdm(traces, desc="encoding", unit=" traces", disable=None)):
        jobs = []
        for row_id, where, messages in (row for t in chunk for row in conversations(t, settings.turns, report)):
            try:
                jobs.append(_render(row_id, where, messages, chat))
            except RowError as fault:
                drop(where, fault)
        rows, ids = [], []
        for job, row in zip(jobs, _encode(jobs, chat), strict=True):
            try:
                rows.append(_finish(row, job, chat.tokenizer, settings))
                ids.append(job.row_id)
            except RowError as fault:
                drop(job.where, fault)
        yield Rows.of(rows, ids)


def cache_key(data_key: str, chat: ChatFormat, settings: RowSettings) -> str:
    """Name of the cache folder, from everything that determines the rows."""
    facts = [ENCODER_VERSION, data_key, chat.fingerprint(), dataclasses.asdict(settings)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def hash_traces(traces: Iterable[Trace]) -> str:
    """sha256 over the traces themselves, for sources that are not files."""
    digest = hashlib.sha256()
    for trace in traces:
        digest.update(json.dumps([trace.id, [dataclasses.astuple(m) for m in trace.messages]]).encode() + b"\n")
    return digest.hexdigest()


def source_key(source: str | Path, *, split: str = "train", subset: str | None = None, **options: object) -> str | None:
    """sha256 over the files that rows of `source` are read from, their kinds, in a folder their names, and the options.

    None if the source is not on this machine. Raises UserError for a file that cannot be read, and as `source_files`
    does.
    """
    path = find_source(source)
    if path is None:
        return None
    facts = {"split": split, "subset": subset, **options}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for file in source_files(path, split, subset):
        name = kind_of(path) if file == path else os.path.relpath(file, path)
        digest.update(f"\n{name}\n".encode())
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise unreadable(file, error) from None
    return digest.hexdigest()


def conversations(trace: Trace, turns: str, report: DropReport) -> list[tuple[int, str, tuple[Message, ...]]]:
    """Row id, place and messages up to the supervised turn, for each row of the trace; the report counts extra ones.

    With `each`, a turn of weight 0 makes no row; at least one turn must count.
    """
    ends = [i + 1 for i, message in enumerate(trace.messages) if message.role == "assistant"] or [0]
    if turns == "last":
        return [(trace.id, trace.where, trace.messages[: ends[-1]])]
    turns_of = list(enumerate(ends))
    counted = [(turn, end) for turn, end in turns_of if not end or trace.messages[end - 1].weight] or turns_of[-1:]
    report.read += len(counted) - 1
    return [
        (trace.id + (turn << TURN_SHIFT), f"{trace.where}, turn {turn}", trace.messages[:end]) for turn, end in counted
    ]


class _Job(NamedTuple):
    """One row, rendered but not yet encoded."""

    row_id: int
    where: str
    weight: float
    turn: Turn


def _render(row_id: int, where: str, messages: Sequence[Message], chat: ChatFormat) -> _Job:
    if not messages:
        raise RowError("there is no assistant turn")
    if row_id >= 1 << SOURCE_SHIFT:
        raise RowError(f"more than {TURN_BITS >> TURN_SHIFT} assistant turns before it, more than row ids can number")
    if messages[-1].weight == 0:
        raise RowError("the supervised turn has weight 0")
    return _Job(row_id, where, messages[-1].weight, chat.turn(messages))


def _encode(jobs: Sequence[_Job], chat: ChatFormat) -> list[EncodedRow | RowError]:
    """Rows in one batch; if a text in it cannot be encoded, one by one to find the row."""
    try:
        encode = encode_in_one_go if chat.in_one_go else encode_by_parts
        return encode([job.turn for job in jobs], chat.tokenizer)
    except RowError as fault:
        return [fault] if len(jobs) == 1 else [row for job in jobs for row in _encode([job], chat)]


def _finish(row: EncodedRow | RowError, job: _Job, tokenizer: TextTokenizer, settings: RowSettings) -> EncodedRow:
    if isinstance(row, RowError):
        raise row
    row.weights[is_supervised(row.roles)] *= job.weight
    return fit(row, max_seq_len=settings.max_seq_len, too_long=settings.too_long, tokenizer=tokenizer)


def _chunks(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    iterator = iter(traces)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk
