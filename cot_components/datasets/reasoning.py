"""The data set of every recipe, ours or stock: traces from any source, encoded once, transformed on every use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cot_components.config import COMPONENT, build, nearest, walk
from cot_components.data.bad_rows import DropReport
from cot_components.data.read.formats import RowReader
from cot_components.data.rows.batches import Transform
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.first_rows import check_first_rows
from cot_components.data.rows.prepare import RowSettings, prepare_rows, row_limit
from cot_components.data.rows.selection import Selector
from cot_components.data.rows.store import Rows
from cot_components.data.sources import Source, read_sources
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import load_template
from cot_components.errors import UserError
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.models.tokenizers import as_text_tokenizer


def reasoning_dataset(
    tokenizer: Any,
    *,
    source: str | Mapping[str, Any],
    split: str = "train",
    subset: str | None = None,
    format: str | RowReader = "auto",
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
    template: str | None = None,
    date: str | None = None,
    tags: Mapping[str, str] | None = None,
    tags_as: Literal["text", "token"] = "text",
    empty_thought: Literal["template", "none", "refuse"] = "template",
    turns: Literal["last", "each"] = "last",
    max_seq_len: int | None = None,
    too_long: Literal["drop", "cut_thought"] = "drop",
    strict: bool = True,
    max_dropped: float = 0.05,
    select: Mapping[str, Any] | None = None,
    transforms: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    packed: bool = False,
) -> ReasoningDataset:
    """Chain-of-thought traces as a data set for our recipes and for stock torchtune ones.

    Args:
        tokenizer: a torchtune Llama-3 or Qwen2.5 tokenizer, or `cot_components.models.hf_tokenizer`.
        source: a file (`.json`, `.jsonl`, `.csv`, `.parquet`, `.txt`), a folder in hub layout or from `save_to_disk`, a
            hub name, `generated` for the embedded tasks; or several by name:
            `{mine: {source: ..., weight: 2}, other: {source: ...}}`.
        split, subset, format, columns, max_rows: see `read_traces`; defaults for every named source.
        template: chat template: `llama3`, `chatml`, a path, or None for the tokenizer's own.
        date: the date a template sees as today, `YYYY-MM-DD`; None is always 2024-07-26.
        tags: `{open: "<think>", close: "</think>"}`.
        tags_as: encode tags as ordinary `text`, or each as a single `token`.
        empty_thought: how to train on an answer without a thought: `template`: after the prompt that the template
            writes with thinking off, with its empty block; `none`: after the prompt that asks for a thought; `refuse`:
            the row is bad.
        turns: supervise the `last` assistant turn, or make one row for `each`.
        max_seq_len: tokens per row; None takes the tokenizer's own limit, if it has one.
        too_long: `drop`: a longer row is a bad row (see `strict`); `cut_thought`: leave out the middle of its thought.
        strict: the first bad row is an error; otherwise bad rows are dropped and counted.
        max_dropped: share of dropped rows above which it is an error anyway.
        select: named selectors (`cot_components.selectors`), each choosing from the rows the previous one kept. Rows
            held out by `dataset_val` are held out first and never chosen.
        transforms: named transforms, applied in order.
        cache_dir: cache encoded rows here; None encodes them at every start.
        packed: read by stock recipes; must be False (their packer would drop the weights and freeze every mask).

    Raises:
        UserError: a setting that does not fit; no row fits the format.
    """
    if packed:
        raise UserError(
            "dataset.packed must be false: torchtune's packer keeps only tokens and labels, and draws every mask once"
        )
    built, selectors = build_transforms(transforms), build_selectors(select)
    sources = read_sources(source, split=split, subset=subset, format=format, columns=columns, max_rows=max_rows)
    chat = chat_format(tokenizer, template=template, date=date, tags=tags, tags_as=tags_as, empty_thought=empty_thought)
    settings = RowSettings(turns=turns, max_seq_len=row_limit(max_seq_len, tokenizer), too_long=too_long)
    prepared = [
        _prepare(
            one,
            chat,
            settings,
            strict=strict,
            max_dropped=max_dropped,
            cache_dir=Path(cache_dir) if cache_dir else None,
        )
        for one in sources
    ]
    report = DropReport()
    for _, part in prepared:
        report.merge(part)
    rows = [part for part, _ in prepared]
    ends = np.cumsum([len(part) for part in rows]).tolist()
    shares = tuple((end - len(part), end, one.weight) for part, end, one in zip(rows, ends, sources, strict=True))
    all_rows = rows[0] if len(rows) == 1 else Rows.join_sources(rows)
    return ReasoningDataset(all_rows, shares, built, chat, report).selected(selectors)


def build_transforms(nodes: Mapping[str, Any] | None) -> dict[str, Transform]:
    """Named transforms, in order; null leaves one out.

    Raises:
        UserError: a name that is not text, a node that names no component; see `config.walk`.
    """
    return _build_named(nodes, "dataset.transforms", "transform")


def build_selectors(nodes: Mapping[str, Any] | None) -> dict[str, Selector]:
    """Named selectors, in order; null leaves one out. Raises as `build_transforms` does."""
    return _build_named(nodes, "dataset.select", "selector")


def _build_named(nodes: Mapping[str, Any] | None, where: str, kind: str) -> dict[str, Any]:
    for name in nodes or {}:
        if not isinstance(name, str):
            raise UserError(f"{where}.{name}: a name must be text{nearest(name, ()) or ', in quotes'}")
    chosen = {name: node for name, node in (nodes or {}).items() if node is not None}
    walk(chosen, where=where)
    built = {name: build(node, where=f"{where}.{name}") for name, node in chosen.items()}
    for name, part in built.items():
        if not callable(part):
            raise UserError(f"{where}.{name} is not a {kind}: it needs a {COMPONENT}, or null leaves it out")
    return built


def chat_format(
    tokenizer: Any,
    *,
    template: str | None = None,
    date: str | None = None,
    tags: Mapping[str, str] | None = None,
    tags_as: Literal["text", "token"] = "text",
    empty_thought: Literal["template", "none", "refuse"] = "template",
) -> ChatFormat:
    """How conversations become ids, from a torchtune tokenizer and the settings of `reasoning_dataset`.

    Raises:
        UserError: unknown keys in `tags`, an unknown template, an unknown kind of tokenizer.
    """
    unknown = set(tags or {}) - {"open", "close"}
    if unknown:
        key = min(unknown, key=str)
        raise UserError(f"unknown key 'dataset.tags.{key}'{nearest(key, ('open', 'close'))}")
    text, spelled = as_text_tokenizer(tokenizer), Tags(**(tags or {}))
    chosen = load_template(template, text, date=date)
    tokens = with_tag_tokens(text, spelled) if tags_as == "token" else text
    return ChatFormat(tokens, chosen, spelled, empty_thought)


def _prepare(
    source: Source, chat: ChatFormat, settings: RowSettings, *, strict: bool, max_dropped: float, cache_dir: Path | None
) -> tuple[Rows, DropReport]:
    prepared = prepare_rows(
        lambda report: source.read(strict=strict, report=report),
        chat,
        settings,
        strict=strict,
        max_dropped=max_dropped,
        cache_dir=cache_dir,
        data_key=source.key(),
    )
    check_first_rows(source.read(strict=False, report=DropReport()), prepared.rows, chat, turns=settings.turns)
    return prepared.rows, prepared.report
