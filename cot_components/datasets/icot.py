"""Data sets of stepwise internalisation: rows `x S cot S #### answer S` from files, and multiplication on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cot_components.data.bad_rows import DropReport
from cot_components.data.generated.multiplication import Split, draw_operands, multiplication_rows, read_operands
from cot_components.data.read.formats import RowReader
from cot_components.data.read.gsm8k import EmptyThoughts, choose_empty, with_equations
from cot_components.data.read.traces import Trace
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.prepare import RowSettings, prepare_rows, row_limit
from cot_components.data.rows.store import Rows
from cot_components.data.sources import Source
from cot_components.data.text.icot_text import ICoTFormat, read_step_lists
from cot_components.datasets.reasoning import build_transforms
from cot_components.errors import UserError
from cot_components.models.tokenizers import as_text_tokenizer

STEP_LISTS = "steps"


def icot_dataset(
    tokenizer: Any,
    *,
    source: str,
    format: str | RowReader = "auto",
    split: str = "train",
    subset: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
    thoughts: Literal["as_is", "equations"] = "as_is",
    empty_thoughts: EmptyThoughts = "keep",
    step_end: str | None = None,
    max_seq_len: int | None = None,
    strict: bool = True,
    max_dropped: float = 0.05,
    transforms: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
) -> ReasoningDataset:
    """Questions, thoughts and answers from a file, a folder in hub layout or a hub data set.

    Args:
        tokenizer: a torchtune tokenizer; its end-of-text token separates the parts.
        source, split, subset, columns, max_rows: see `cot_components.data.sources.Source`.
        format: see `read_traces`: `icot` for lines `question||cot #### answer`, `gsm8k` for the official data set; or
            `steps` for a JSON list with `question`, `steps` and `answer`.
        thoughts: `equations` keeps only the calculator annotations of official GSM8K solutions.
        empty_thoughts: `keep` or `drop` the rows whose thought is empty; with `equations`, solutions without any.
        step_end: text that ends a step of a thought, for removal by step; step lists are joined with it (default: a
            line break).
        max_seq_len: tokens per row before anything is removed; a longer row is a bad row (see `strict`). None takes the
            tokenizer's own limit, if it has one. The transform `cot_components.transforms.Cap` limits rows after
            removal.
        strict, max_dropped, transforms, cache_dir: see `cot_components.datasets.reasoning_dataset`.

    Raises:
        UserError: bad rows, a tokenizer without an end-of-text token, settings that do not combine.
    """
    if format == STEP_LISTS:
        step_end = step_end or "\n"
        for name, value in {"split": split != "train", "subset": subset, "columns": columns}.items():
            if value:
                raise UserError(f"dataset.{name} has no effect with format: {STEP_LISTS}; leave it out")
    if thoughts not in ("as_is", "equations"):
        raise UserError(f"dataset.thoughts must be 'as_is' or 'equations', got {thoughts!r}")
    chat = ICoTFormat(as_text_tokenizer(tokenizer), step_end)
    place = Source(source=source, split=split, subset=subset, format=format, columns=columns, max_rows=max_rows)
    choose = choose_empty if thoughts == "as_is" else with_equations

    def read(report: DropReport) -> Iterable[Trace]:
        if format == STEP_LISTS:
            return choose(
                read_step_lists(source, step_end=step_end or "\n", max_rows=max_rows, strict=strict, report=report),
                empty_thoughts=empty_thoughts,
                report=report,
            )
        return choose(place.read(strict=strict, report=report), empty_thoughts=empty_thoughts, report=report)

    prepared = prepare_rows(
        read,
        chat,  # type: ignore[arg-type]
        RowSettings(max_seq_len=row_limit(max_seq_len, tokenizer)),
        strict=strict,
        max_dropped=max_dropped,
        cache_dir=Path(cache_dir) if cache_dir else None,
        data_key=_key(place.key(), thoughts, empty_thoughts),
    )
    return _data_set(prepared.rows, chat, prepared.report, transforms)


def multiplication_dataset(
    tokenizer: Any,
    *,
    num_digits: int,
    num_rows: int,
    split: Split = "train",
    seed: int = 0,
    exclude: Sequence[str] = (),
    transforms: Mapping[str, Any] | None = None,
) -> ReasoningDataset:
    """K x K digit multiplication with the partial products as thought.

    Args:
        tokenizer: a torchtune tokenizer that encodes every digit as one token.
        num_digits: K, of both numbers.
        num_rows: rows drawn, with repetition.
        split: `train`; `held_out`: pairs that occur in no training set of any seed; or `validation`: as many other
            pairs.
        seed: of the draw.
        exclude: files of lines whose operand pairs are left out, in either order; `validation` leaves the pairs of that
            split out of `train`.
        transforms: see `cot_components.datasets.reasoning_dataset`.

    Raises:
        UserError: a setting out of range, no pair left to draw, a bad line in an excluded file, a tokenizer that merges
            digits.
    """
    if num_rows < 1:
        raise UserError(f"dataset.num_rows must be at least 1, got {num_rows}")
    if seed < 0:
        raise UserError(f"dataset.seed must not be negative, got {seed}")
    chat = ICoTFormat(as_text_tokenizer(tokenizer))
    excluded = [_operands(path, num_digits) for path in exclude if path != "validation"]
    without = "validation" in exclude
    a, b = draw_operands(num_digits, num_rows, seed=seed, split=split, exclude=excluded, exclude_validation=without)
    return _data_set(multiplication_rows(a, b, chat), chat, DropReport(read=num_rows), transforms)


def _operands(path: str, num_digits: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = read_operands(path)
    if a.shape[1] != num_digits:
        raise UserError(f"dataset.exclude: {path} holds numbers of {a.shape[1]} digits, but num_digits is {num_digits}")
    return a, b


def _key(source_key: str | None, *options: str) -> str | None:
    return None if source_key is None else hashlib.sha256(json.dumps([source_key, *options]).encode()).hexdigest()


def _data_set(
    rows: Rows, chat: ICoTFormat, report: DropReport, transforms: Mapping[str, Any] | None
) -> ReasoningDataset:
    return ReasoningDataset(rows, ((0, len(rows), 1.0),), build_transforms(transforms), chat, report)  # type: ignore[arg-type]
