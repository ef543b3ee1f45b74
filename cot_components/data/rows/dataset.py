"""Encoded rows with their transforms: the data set for our loader or for the user's own training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from cot_components.clock import Clock, row_keys
from cot_components.data.bad_rows import DropReport
from cot_components.data.rows.batches import Batches, Transform
from cot_components.data.rows.flat import Flat, index_in_row
from cot_components.data.rows.odd_rows import prompt_hashes, without_role
from cot_components.data.rows.prepare import TURN_BITS
from cot_components.data.rows.row_cache import select_mapped
from cot_components.data.rows.selection import Choice, Selector, select_rows
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role


@dataclass(frozen=True)
class ReasoningDataset:
    """Encoded rows with the transforms that answer "present?" and "counted?" for them.

    Our recipes take batches from `batches()`, which knows the epoch. Other loops index it: `dataset[i]` is a mapping
    with `tokens`, `labels` (aligned with the tokens, not shifted), `weights`, `roles` and `id`. Rows that the
    transforms leave without a label are skipped there, because such loops divide by a batch's labels.

    rows:       encoded rows of all sources
    shares:     `(first_row, last_row, weight)` per source, see `Plans.shares`
    transforms: by name, in order
    chat:       tokenizer, template and tags; prompts for generation come from it
    report:     rows read and dropped
    selectors:  by name, in order: the selectors that chose `rows`; empty if all rows are trained on
    choices:    what each of them did
    unselected: the data before selection, None if there was none
    """

    rows: Rows
    shares: tuple[tuple[int, int, float], ...]
    transforms: Mapping[str, Transform]
    chat: ChatFormat
    report: DropReport
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    unselected: ReasoningDataset | None = None

    @property
    def tag_ids(self) -> dict[str, int]:
        """See `ChatFormat.tag_ids`."""
        return self.chat.tag_ids

    def summary(self) -> str:
        """One line: rows read and dropped, what selectors chose, tokens by role; warns if no row has a thought or a
        call, or if some have no thought.
        """
        tokens = self.rows.tokens_by_role()
        counts = ", ".join(f"{role} {count:,}" for role, count in tokens.items())
        marked = tokens.get("thought") or tokens.get("call")
        warning = "" if marked else "; no row has a thought: are dataset.tags those of the data?"
        if tokens.get("thought") and (count := len(without_role(self.rows, Role.THOUGHT))):
            warning = f"; {count:,} of {len(self.rows):,} rows have no thought (see dataset.empty_thought)"
        chosen = "".join(f"; {choice.summary()}" for choice in self.choices)
        return f"{self.report.summary()}{chosen}; tokens: {counts}{warning}"

    def batches(self, *, pad_multiple: int = 1, packed_tokens: int | None = None) -> Batches:
        """The data set of a `DataLoader` whose sampler is `Plans`."""
        return Batches(self.rows, self.transforms, self.chat.tokenizer.pad_id, pad_multiple, packed_tokens)

    def __len__(self) -> int:
        return len(self._labelled)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        flat, labels = self._without_epoch([self._labelled[index]])
        sample = {"tokens": flat.read, "labels": labels, "weights": flat.weights, "roles": flat.roles}
        return {name: values.tolist() for name, values in sample.items()} | {"id": int(flat.ids[0])}

    def _without_epoch(self, indices: Sequence[int] | np.ndarray) -> tuple[Flat, np.ndarray]:
        """These rows for loops other than ours, and their labels `[N]`, `IGNORE` where the weight is 0."""
        flat = self.rows.flat(indices)
        for transform in self.transforms.values():
            flat = transform(flat, Clock(0, 0))
        return flat, np.where(flat.weights == 0, IGNORE, flat.labels)

    @cached_property
    def _labelled(self) -> np.ndarray:
        """Rows that other loops can learn from, int64: those with a label on a token other than their first."""
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

    def selected(self, selectors: Mapping[str, Selector]) -> ReasoningDataset:
        """The rows that the selectors, in order, choose from these; the data set itself if there are no selectors.

        Raises:
            UserError: one keeps nothing or fails; see `selection.select_rows`.
        """
        if not selectors:
            return self
        kept, rows, choices = select_rows(self.rows, selectors)
        shares = tuple(
            (int(first), int(last), weight)
            for (first, last), weight in zip(
                np.searchsorted(kept, [share[:2] for share in self.shares]), (w for *_, w in self.shares), strict=True
            )
        )
        return replace(self, rows=rows, shares=shares, selectors=selectors, choices=choices, unselected=self)

    def split_off(self, share: float, *, seed: int = 0) -> tuple[ReasoningDataset, ReasoningDataset]:
        """Two data sets: the rest, and `share` of the rows (at least one): those with the smallest hash of (seed, row
        id) plus the other rows of their conversations, though never all rows. Memory-mapped rows stay memory-mapped.

        Selectors choose from the rest: rows are held out first, so the held-out rows are the same whatever is selected.
        With selectors, rows with the same prompt also stay together.

        Raises:
            UserError: a share outside (0, 1), or a single row or conversation, which cannot be split; see `selected`.
        """
        if self.unselected is not None:
            rest, held_out = self.unselected._split_off(share, seed, _groups(self.unselected.rows))
            return rest.selected(self.selectors), held_out
        return self._split_off(share, seed, np.asarray(self.rows.ids) & ~TURN_BITS)

    def _split_off(
        self, share: float, seed: int, conversations: np.ndarray
    ) -> tuple[ReasoningDataset, ReasoningDataset]:
        if not 0 < share < 1:
            raise UserError(f"dataset_val as a share must lie between 0 and 1, got {share}")
        if len(self.rows) < 2:
            raise UserError(f"dataset_val: {len(self.rows)} row cannot be split into training and validation data")
        count = min(max(round(share * len(self.rows)), 1), len(self.rows) - 1)
        held_out = conversations[np.argsort(row_keys(seed, -1, conversations), kind="stable")[:count]]
        keep = ~np.isin(conversations, held_out)
        if not keep.any():  # the last one to be taken stays
            keep = conversations == held_out[-1]
        if keep.all():
            raise UserError("dataset_val: a single conversation cannot be split into training and validation data")
        return self._only(keep), self._only(~keep)

    def with_rows(self, rows: Rows) -> ReasoningDataset:
        """Other rows of the same format, each used once per epoch."""
        return replace(self, rows=rows, shares=((0, len(rows), 1.0),), unselected=None)

    def _only(self, keep: np.ndarray) -> ReasoningDataset:
        before = np.concatenate([[0], np.cumsum(keep)])
        shares = tuple((int(before[first]), int(before[last]), weight) for first, last, weight in self.shares)
        return replace(self, rows=select_mapped(self.rows, np.flatnonzero(keep)), shares=shares)


def _groups(rows: Rows) -> np.ndarray:
    """Group number of each row, int64 `[B]`: rows that share a conversation or prompt, even indirectly, are one
    group."""
    group = np.asarray(rows.ids) & ~TURN_BITS
    ties = [np.unique(key, return_inverse=True)[1] for key in (group, prompt_hashes(rows))]
    while True:
        before = group
        for tie in ties:
            lowest = np.full(len(rows), np.iinfo(np.int64).max)
            np.minimum.at(lowest, tie, group)
            group = lowest[tie]
        if np.array_equal(group, before):
            return group
