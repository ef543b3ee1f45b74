"""Batches for loops that address rows by number and pass their data nothing but the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cot_components.clock import Clock
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import Flat, index_in_row
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role

TRAIN, EVAL = "train", "eval"


class EpochClock(Clock):
    """The clock in a loop that passes its data the epoch, but not the step."""

    @property
    def step(self) -> int:  # type: ignore[override]
        """Raises UserError: there is none."""
        raise UserError(
            "dataset.transforms: one depends on the optimizer step (Anneal), which a Hugging Face trainer does not "
            "tell its data; set a number, or train with a recipe of cot-components"
        )


class ReasoningCollator:
    """Batches for a loop that addresses rows by number; masks are drawn when a batch is made.

    The loop iterates over `rows(name)` with the collator as its `collate_fn`. A batch of `B` rows padded to `T` tokens
    is a mapping; everything in it except `row_ids` is `[B, T]` and aligned with `input_ids`, not shifted:

    - `input_ids`, `attention_mask` and, where positions are not 0, 1, 2, ..., `position_ids`: int64
    - `labels`: int64, `IGNORE` where a token does not count (its weight is 0, or it is the first of its row)
    - `weights`: float32; `roles`: int64; `groups`: int64, where a transform makes classes
    - `row_ids`: int64 `[B]`

    Args:
        data: the rows to train on, drawn for the epoch given to `set_epoch`.
        held_out: held-out rows by name, always as in epoch 0.

    Raises:
        UserError: held-out rows named `train`; a source with a weight, which such a loop ignores; a transform that
            needs the step.
    """

    def __init__(self, data: ReasoningDataset, **held_out: ReasoningDataset) -> None:
        if TRAIN in held_out:
            raise UserError(f"eval_dataset: '{TRAIN}' is the name of the training rows; choose another")
        self.data = {TRAIN: data, **held_out}
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # persistent loader workers read it, too
        if any(weight != 1 for _, _, weight in data.shares):
            raise UserError(
                "dataset.source: a weight says how often rows come in an epoch, but a Hugging Face trainer uses each "
                "once; remove it, or train with a recipe of cot-components"
            )
        for name in self.data:
            self([{"part": name, "row": 0}])

    @property
    def epoch(self) -> int:
        """The epoch for which training rows are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw all further batches for this epoch, counted from 0; call it before the epoch's first batch."""
        self._epoch.fill_(epoch)

    def rows(self, name: str = TRAIN) -> Any:
        """A `datasets.Dataset` of row numbers and, for loops that group by length, the encoded `length` of each row."""
        from datasets import Dataset

        lengths = self.data[name].rows.lengths
        return Dataset.from_dict({"row": np.arange(len(lengths)), "length": lengths, "part": [name] * len(lengths)})

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        part = examples[0]["part"]
        data = self.data[part]
        flat = data.rows.flat([example["row"] for example in examples])
        for transform in data.transforms.values():
            flat = transform(flat, EpochClock(self.epoch if part == TRAIN else 0, 0))
        return _padded(flat, data.chat.tokenizer.pad_id)


def _padded(flat: Flat, pad_id: int) -> dict[str, Tensor]:
    lengths = flat.lengths if len(flat.ids) else np.zeros(1, dtype=np.int64)
    held = np.arange(max(lengths.max(), 1)) < lengths[:, None]

    def lay(values: np.ndarray, empty: float, dtype: type = np.int64) -> Tensor:
        full: np.ndarray = np.full(held.shape, empty, dtype)
        full[held] = values
        return torch.from_numpy(full)

    counted = (flat.weights != 0) & (index_in_row(flat) > 0)
    attended = held.astype(np.int64)
    attended[:, 0] = 1  # a row without tokens must attend to something
    batch = {
        "input_ids": lay(flat.read, pad_id),
        "attention_mask": torch.from_numpy(attended),
        "labels": lay(np.where(counted, flat.labels, IGNORE), IGNORE),
        "weights": lay(flat.weights, 0.0, np.float32),
        "roles": lay(flat.roles, Role.PAD),
        "row_ids": torch.from_numpy(flat.ids) if len(flat.ids) else torch.zeros(1, dtype=torch.int64),
    }
    optional = {"position_ids": flat.positions, "groups": flat.groups}
    return batch | {name: lay(values, 0) for name, values in optional.items() if values is not None}
