"""From a plan to finished batches, all in the loader: gather, transform, shift, pad or pack, list the supervised
rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat, index_in_row, is_supervised
from cot_components.data.rows.plans import Plan
from cot_components.data.rows.store import Rows
from cot_components.roles import IGNORE, Role

Transform = Callable[[Flat, Clock], Flat]
"""A pure function of batch and clock that blurs, removes or weighs; at strength 0 it returns its input unchanged."""


@dataclass
class Batch:
    """One micro-batch of `B` rows padded to `T` tokens, or packed: all rows concatenated (then `B` is 1, see
    `documents`). Labels, weights and roles at a position describe the token it predicts (the next one).

    tokens:         int64 `[B, T]`
    labels:         int64 `[B, T]`, `IGNORE` where nothing is supervised
    weights:        float32 `[B, T]`
    roles:          int64 `[B, T]`, role of the predicted token
    rows:           int64 `[n]`, indices of the supervised positions in the flattened `[B * T]`; found here so that the
        device does not have to
    blurred_rows:   int64 `[m]`, the same for tokens of thought, tags, calls and answer that do not count (no label, or
        weight 0)
    ids:            id of each row
    num_supervised: n
    weight_sum:     sum of the supervised weights
    num_tokens:     tokens without padding
    seen_tokens:    number of tokens each token attends to (itself and those before it in its row), summed over all
                    tokens
    input_pos:      int64 `[B, T]`, position ids if they are not 0, 1, 2, ..., else None
    groups:         int64 `[B, T]`, class of the predicted token if a transform made classes, else None
    text:           int64 `[B, T]`, the original tokens if a transform makes the model read others, else None
    documents:      lengths of the packed rows, in order, and of the padding after them: they sum to T, and attention
        must not cross them; None for a padded batch
    """

    tokens: Tensor
    labels: Tensor
    weights: Tensor
    roles: Tensor
    rows: Tensor
    blurred_rows: Tensor
    ids: list[int]
    num_supervised: int
    weight_sum: float
    num_tokens: int
    seen_tokens: int
    input_pos: Tensor | None = None
    groups: Tensor | None = None
    documents: tuple[int, ...] | None = None
    text: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """A copy whose tensors are on `device`."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: function(x) for name, x in tensors.items() if isinstance(x, Tensor)}
        return replace(self, **moved)

    @property
    def next_tokens(self) -> Tensor:
        """The token that follows each position, labelled or not, int64 `[B, T]`; meaningless at the last token of a
        row.
        """
        return torch.roll(self.tokens if self.text is None else self.text, -1, dims=1)

    @property
    def sample(self) -> Tensor:
        """Which row of the batch each position belongs to, int64 `[B, T]`; padding of a packed batch gets the number
        after the last row's.
        """
        if self.documents is not None:
            lengths = torch.tensor(self.documents, device=self.tokens.device)
            return torch.arange(len(lengths), device=lengths.device).repeat_interleave(
                lengths, output_size=self.tokens.shape[1]
            )[None]
        return torch.arange(len(self.tokens), device=self.tokens.device)[:, None].expand_as(self.tokens)


class Step(NamedTuple):
    """Everything one process needs for one optimizer step."""

    clock: Clock
    micro_batches: list[Batch]


@dataclass(frozen=True)
class Batches:
    """`batches[plan]` is the finished `Step` of that plan: a pure function, so any worker may compute it.

    Args:
        rows: encoded rows.
        transforms: named transforms, applied in order.
        pad_id: token id of the padding.
        pad_multiple: pad every micro-batch to a multiple of this many tokens (fewer shapes for a compiled model).
        packed_tokens: pack rows into micro-batches of this many tokens, for which the plans must have been made; None
            pads them.
    """

    rows: Rows
    transforms: Mapping[str, Transform]
    pad_id: int
    pad_multiple: int = 1
    packed_tokens: int | None = None

    def __getitem__(self, plan: Plan) -> Step:
        return Step(
            plan.clock,
            [
                self.batch(indices, plan.clock._replace(micro_batch=number))
                for number, indices in enumerate(plan.micro_batches)
            ],
        )

    def batch(self, indices: Sequence[int], clock: Clock) -> Batch:
        """The micro-batch of the rows `indices` at time `clock`."""
        flat = self.rows.flat(indices)
        for transform in self.transforms.values():
            flat = transform(flat, clock)
        if self.packed_tokens is not None:
            return pack(flat, pad_id=self.pad_id, num_tokens=self.packed_tokens)
        return pad(flat, pad_id=self.pad_id, multiple=self.pad_multiple)


def pad(flat: Flat, *, pad_id: int, multiple: int = 1) -> Batch:
    """Shift once per row and pad on the right. A batch without rows becomes one row of padding, so that every process
    can run it.
    """
    width = max(int(flat.lengths.max(initial=1)), 1)
    width += -width % multiple
    places = flat.row_of_token * width + index_in_row(flat)
    return _lay_out(flat, places, (max(len(flat.ids), 1), width), pad_id, flat.positions)


def pack(flat: Flat, *, pad_id: int, num_tokens: int) -> Batch:
    """Shift once per row and concatenate the rows, `[1, num_tokens]`; position ids restart in every row. Without rows,
    all padding.
    """
    assert len(flat.tokens) <= num_tokens, f"{len(flat.tokens)} tokens do not fit into {num_tokens}"
    size = len(flat.tokens)
    positions = index_in_row(flat) if flat.positions is None else flat.positions
    batch = _lay_out(flat, slice(0, size), (1, num_tokens), pad_id, positions)
    return replace(batch, documents=(*flat.lengths.tolist(), *([num_tokens - size] if num_tokens > size else [])))


def _lay_out(
    flat: Flat, places: np.ndarray | slice, shape: tuple[int, int], pad_id: int, positions: np.ndarray | None
) -> Batch:
    """A batch of `shape` with token `i` of `flat` at the `i`-th of the places; labels and other columns about a token
    go to the position of the token before it.
    """
    last = flat.row_start[1:][flat.lengths > 0] - 1

    def lay(values: np.ndarray, empty: float, dtype: type) -> np.ndarray:
        full: np.ndarray = np.full(shape[0] * shape[1], empty, dtype=dtype)
        full[places] = values
        return full

    def lay_shifted(values: np.ndarray, empty: float, dtype: type) -> np.ndarray:
        following = np.empty_like(values)
        following[:-1] = values[1:]
        following[last] = empty
        return lay(following, empty, dtype)

    tokens = lay(flat.read, pad_id, np.int64)
    text = None if flat.inputs is None else torch.from_numpy(lay(flat.tokens, pad_id, np.int64).reshape(shape))
    labels = lay_shifted(flat.labels, IGNORE, np.int64)
    weights = lay_shifted(flat.weights, 0.0, np.float32)
    roles = lay_shifted(flat.roles, Role.PAD, np.int64)
    counted = (labels != IGNORE) & (weights != 0)
    blurred = is_supervised(roles) & ~counted
    input_pos = None if positions is None else lay(positions, 0, np.int64).reshape(shape)
    groups = None if flat.groups is None else lay_shifted(flat.groups, 0, np.int64).reshape(shape)
    return Batch(
        tokens=torch.from_numpy(tokens.reshape(shape)),
        labels=torch.from_numpy(labels.reshape(shape)),
        weights=torch.from_numpy(weights.reshape(shape)),
        roles=torch.from_numpy(roles.reshape(shape)),
        rows=torch.from_numpy(np.flatnonzero(counted)),
        blurred_rows=torch.from_numpy(np.flatnonzero(blurred)),
        ids=flat.ids.tolist(),
        num_supervised=int(counted.sum()),
        weight_sum=float(weights[counted].sum()),
        num_tokens=len(flat.tokens),
        seen_tokens=int((flat.lengths * (flat.lengths + 1) // 2).sum()),
        input_pos=None if input_pos is None else torch.from_numpy(input_pos),
        groups=None if groups is None else torch.from_numpy(groups),
        text=text,
    )
