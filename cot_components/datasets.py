"""The data set of every recipe, ours or stock: traces from anywhere, encoded once, transformed anew whenever a row is
used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cot_components.clock import Clock, row_keys
from cot_components.config import COMPONENT, build, nearest, walk
from cot_components.data.batches import Batches, Transform
from cot_components.data.chat import ChatFormat
from cot_components.data.errors import DropReport
from cot_components.data.first_rows import check_first_rows
from cot_components.data.flat import Flat, index_in_row
from cot_components.data.prepare import TURN_BITS, RowSettings, prepare_rows, row_limit
from cot_components.data.row_cache import select_mapped
from cot_components.data.segments import Tags
from cot_components.data.sources import Source, read_sources
from cot_components.data.store import Rows
from cot_components.data.templates import load_template
from cot_components.errors import UserError
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.models.tokenizers import as_text_tokenizer
from cot_components.roles import IGNORE


@dataclass(frozen=True)
class ReasoningDataset:
    """Encoded rows with the transforms that answer "present?" and "counted?" for them.

    Our recipes take batches from `batches()`, which knows the epoch. Other loops index it: `dataset[i]` is a mapping
    with `tokens`, `labels` (aligned with the tokens, not shifted), `weights`, `roles` and `id`. Rows that the
    transforms leave without a label are not among these: such loops divide by the labels of a batch.

    rows:       encoded rows of all sources
    shares:     `(first_row, last_row, weight)` per source, see `Plans.shares`
    transforms: by name, in order
    chat:       tokenizer, template and tags; prompts for generation come from it
    report:     rows read and dropped
    """

    rows: Rows
    shares: tuple[tuple[int, int, float], ...]
    transforms: Mapping[str, Transform]
    chat: ChatFormat
    report: DropReport

    @property
    def tag_ids(self) -> dict[str, int]:
        """See `ChatFormat.tag_ids`."""
        return self.chat.tag_ids

    def summary(self) -> str:
        """One line: rows read and dropped, tokens by role; says so where no row has a thought or a call."""
        tokens = self.rows.tokens_by_role()
        counts = ", ".join(f"{role} {count:,}" for role, count in tokens.items())
        marked = tokens.get("thought") or tokens.get("call")
        warning = "" if marked else "; no row has a thought: are dataset.tags those of the data?"
        return f"{self.report.summary()}; tokens: {counts}{warning}"

    def batches(self, *, pad_multiple: int = 1, packed_tokens: int | None = None) -> Batches:
        """The data set of a `DataLoader` whose sampler is `Plans`."""
        return Batches(self.rows, self.transforms, self.chat.tokenizer.pad_id, pad_multiple, packed_tokens)

    def __len__(self) -> int:
        return len(self._labelled)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        flat, labels = self._without_epoch([self._labelled[index]])
        sample = {"tokens": flat.tokens, "labels": labels, "weights": flat.weights, "roles": flat.roles}
        return {name: values.tolist() for name, values in sample.items()} | {"id": int(flat.ids[0])}

    def _without_epoch(self, indices: Sequence[int] | np.ndarray) -> tuple[Flat, np.ndarray]:
        """These rows as other loops see them, and their labels `[N]`, `IGNORE` where the weight is 0."""
        flat = self.rows.flat(indices)
        for transform in self.transforms.values():
            flat = transform(flat, Clock(0, 0))
        return flat, np.where(flat.weights == 0, IGNORE, flat.labels)

    @cached_property
    def _labelled(self) -> np.ndarray:
        """Rows that other loops can learn from, int64: those with a label on a token that has one before it."""
        self._refuse_what_needs_an_epoch()
        rows = np.arange(len(self.rows))
        counts = [np.zeros(0, dtype=np.int64)]
        for some in np.array_split(rows, -(-len(rows) // 1024) or 1):
            flat, labels = self._without_epoch(some)
            learnt = (labels != IGNORE) & (index_in_row(flat) > 0)
            counts.append(np.diff(np.concatenate([[0], np.cumsum(learnt)])[flat.row_start]))
        labelled = np.flatnonzero(np.concatenate(counts))
        if len(rows) and not len(labelled):
            raise UserError("dataset.transforms: no row has a label left, so there is nothing to train on")
        return labelled

    def _refuse_what_needs_an_epoch(self) -> None:
        needing = [name for name, transform in self.transforms.items() if getattr(transform, "needs_epoch", False)]
        if needing:
            raise UserError(
                f"dataset.transforms.{needing[0]} changes from epoch to epoch, but a loop that indexes the data set "
                "tells it no epoch; set redraw: once, or train with a recipe of cot-components"
            )
        if any(weight != 1 for _, _, weight in self.shares):
            raise UserError(
                "dataset.source: a weight says how often rows come in an epoch, but a loop that indexes the data set "
                "takes each once; remove it, or train with a recipe of cot-components"
            )

    def split_off(self, share: float, *, seed: int = 0) -> tuple[ReasoningDataset, ReasoningDataset]:
        """Two data sets: the rest, and `share` of the rows (one at least), those with the smallest hash of (seed, row
        id), and the other rows of their conversations, though never all. Rows that are memory-mapped stay so.

        Raises:
            UserError: a share outside (0, 1), or a single row or conversation, which cannot be split.
        """
        if not 0 < share < 1:
            raise UserError(f"dataset_val as a share must lie between 0 and 1, got {share}")
        if len(self.rows) < 2:
            raise UserError(f"dataset_val: {len(self.rows)} row cannot be split into training and validation data")
        count = min(max(round(share * len(self.rows)), 1), len(self.rows) - 1)
        conversations = np.asarray(self.rows.ids) & ~TURN_BITS
        held_out = conversations[np.argsort(row_keys(seed, -1, conversations), kind="stable")[:count]]
        keep = ~np.isin(conversations, held_out)
        if not keep.any():  # the last one to be taken stays
            keep = conversations == held_out[-1]
        if keep.all():
            raise UserError("dataset_val: a single conversation cannot be split into training and validation data")
        return self._only(keep), self._only(~keep)

    def with_rows(self, rows: Rows) -> ReasoningDataset:
        """Other rows of the same format, each taken once in an epoch."""
        return replace(self, rows=rows, shares=((0, len(rows), 1.0),))

    def _only(self, keep: np.ndarray) -> ReasoningDataset:
        before = np.concatenate([[0], np.cumsum(keep)])
        shares = tuple((int(before[first]), int(before[last]), weight) for first, last, weight in self.shares)
        return replace(self, rows=select_mapped(self.rows, np.flatnonzero(keep)), shares=shares)


def reasoning_dataset(
    tokenizer: Any,
    *,
    source: str | Mapping[str, Any],
    split: str = "train",
    subset: str | None = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    max_rows: int | None = None,
    template: str | None = None,
    date: str | None = None,
    tags: Mapping[str, str] | None = None,
    tags_as: Literal["text", "token"] = "text",
    turns: Literal["last", "each"] = "last",
    max_seq_len: int | None = None,
    too_long: Literal["drop", "cut_thought"] = "drop",
    strict: bool = True,
    max_dropped: float = 0.05,
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
        date: what a template takes for today, `YYYY-MM-DD`; None is 2024-07-26, every day.
        tags: `{open: "<think>", close: "</think>"}`.
        tags_as: tags as ordinary `text`, or each as one `token` of its own.
        turns: supervise the `last` assistant turn, or make one row for `each`.
        max_seq_len: tokens per row; None takes the tokenizer's own limit, if it has one.
        too_long: `drop`: a row that is longer is a bad row (see `strict`); `cut_thought`: leave out the middle of its
            thought.
        strict: the first bad row is an error; otherwise bad rows are dropped and counted.
        max_dropped: share of dropped rows above which there is an error all the same.
        transforms: named transforms, applied in order.
        cache_dir: keep encoded rows here; None encodes them at every start.
        packed: stock recipes read this key; only False is right (their packer would drop labels' weights and freeze
            every mask).

    Raises:
        UserError: see above; also for a format that reads no row.
    """
    if packed:
        raise UserError(
            "dataset.packed must be false: torchtune's packer keeps only tokens and labels, and draws every mask once"
        )
    built = build_transforms(transforms)
    sources = read_sources(source, split=split, subset=subset, format=format, columns=columns, max_rows=max_rows)
    chat = chat_format(tokenizer, template=template, date=date, tags=tags, tags_as=tags_as)
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
    return ReasoningDataset(rows[0] if len(rows) == 1 else Rows.join_sources(rows), shares, built, chat, report)


def build_transforms(nodes: Mapping[str, Any] | None) -> dict[str, Transform]:
    """Named transforms, in order; null leaves one out.

    Raises:
        UserError: a name that is no text, a node that names no component; see `config.walk`.
    """
    for name in nodes or {}:
        if not isinstance(name, str):
            raise UserError(f"dataset.transforms.{name}: a name must be text{nearest(name, ()) or ', in quotes'}")
    chosen = {name: node for name, node in (nodes or {}).items() if node is not None}
    walk(chosen, where="dataset.transforms")
    built = {name: build(node, where=f"dataset.transforms.{name}") for name, node in chosen.items()}
    for name, transform in built.items():
        if not callable(transform):
            raise UserError(f"dataset.transforms.{name} is no transform: it needs a {COMPONENT}, or null leaves it out")
    return built


def chat_format(
    tokenizer: Any,
    *,
    template: str | None = None,
    date: str | None = None,
    tags: Mapping[str, str] | None = None,
    tags_as: Literal["text", "token"] = "text",
) -> ChatFormat:
    """How conversations become ids, from a torchtune tokenizer and the settings of `reasoning_dataset`.

    Raises:
        UserError: unknown keys in `tags`, an unknown template, a tokenizer that is not known.
    """
    unknown = set(tags or {}) - {"open", "close"}
    if unknown:
        key = min(unknown, key=str)
        raise UserError(f"unknown key 'dataset.tags.{key}'{nearest(key, ('open', 'close'))}")
    text, spelled = as_text_tokenizer(tokenizer), Tags(**(tags or {}))
    chosen = load_template(template, text, date=date)
    return ChatFormat(with_tag_tokens(text, spelled) if tags_as == "token" else text, chosen, spelled)


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
