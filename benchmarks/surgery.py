"""Removing thought tokens from a batch: ours on the loader's side against slicing row by row on the device.

The peer works as the released training script of stepwise internalisation does: it gets a padded batch of tensors,
looks for the separators of every row, cuts the row there, joins the two ends, and pads the rows again. Ours cuts the
flat batch before it is padded for the first and only time. Both must give the same tokens and labels.

The gates are on what removal adds to a batch (`removal`, the peer's whole surgery), and on the times the host waits for
the device. `finished` is ours including the preparation of the batch for training, which the peer needs as well, before
its surgery: shift, padding, weights, roles, rows of supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import seconds
from benchmarks.report import Row
from cot_components.clock import Clock
from cot_components.data.generated.multiplication import draw_operands, multiplication_rows
from cot_components.data.rows.batches import Batch, pad
from cot_components.data.rows.flat import Flat
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.roles import IGNORE
from cot_components.schedules import Schedule
from cot_components.transforms.remove import Remove

BATCH_SIZE = 32
REPEATS = {"cpu": 100, "cuda": 100, "tiny": 1}
SPEED_GATE = 0.142  # at least 7 times faster
CASES = {"4x4, 8 removed": (4, 8), "4x4, all removed": (4, 200), "9x9, 8 removed": (9, 8), "9x9, 120 removed": (9, 120)}
"""Digits, and units removed from every row before its offset."""

SYNCS = ("aten._local_scalar_dense.default", "aten.nonzero.default")
"""Operations that make the host wait for a device; on a CPU they are counted but cost nothing."""

PEER = "slicing row by row"


class Surgery(NamedTuple):
    """What the peer returns: tokens and labels `[B, T]`, and whether every thought is gone."""

    tokens: Tensor
    labels: Tensor
    all_gone: bool


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Per case: milliseconds per batch of 32 rows, and the operations that reach torch's dispatcher."""
    chat, repeats = ICoTFormat(compact_tokenizer().text), REPEATS[size]
    for case, (num_digits, stage) in list(CASES.items())[: 1 if size == "tiny" else None]:
        removal, finished, peer = workers(chat, num_digits, stage, device)
        check_equal(finished(), peer())
        work = {"removal": removal, "finished": finished, "peer": peer}
        taken = seconds({name: many(function, repeats) for name, function in work.items()}, device)
        milliseconds = {name: 1e3 * value / repeats for name, value in taken.items()}
        yield Row(f"removal, {case}", PEER, "ms", milliseconds["removal"], milliseconds["peer"], SPEED_GATE)
        yield Row(f"finished, {case}", PEER, "ms", milliseconds["finished"], milliseconds["peer"])
        ours, theirs = operations(finished), operations(peer)
        yield Row(f"operations, {case}", PEER, "", len(ours), len(theirs))
        yield Row(f"syncs, {case}", PEER, "", *(sum(name in SYNCS for name in names) for names in (ours, theirs)), 0.0)


def workers(
    chat: ICoTFormat, num_digits: int, stage: int, device: str
) -> tuple[Callable[[], Flat], Callable[[], Batch], Callable[[], Surgery]]:
    """Ours without and with the finished batch, and the peer, on one batch."""
    eos_id, clock = chat.stop_ids[0], Clock(0, 0)
    encoded = multiplication_rows(*draw_operands(num_digits, BATCH_SIZE), chat)
    flat = encoded.flat(np.arange(BATCH_SIZE))
    remove = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=0, start=stage), smoothing=1.0)
    tokens = pad(flat, pad_id=eos_id).tokens.to(device)
    labels = torch.from_numpy(flat.labels).view(tokens.shape).to(device)  # all rows of one K have the same length
    amounts = torch.from_numpy(remove.amounts(flat.ids, clock)).to(device)

    def removal() -> Flat:
        return remove(flat, clock)

    def finished() -> Batch:
        return pad(removal(), pad_id=eos_id).to(torch.device(device))

    def peer() -> Surgery:
        return remove_row_by_row(tokens, labels, amounts, eos_id)

    return removal, finished, peer


def many(function: Callable[[], object], repeats: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(repeats):
            function()

    return repeated


def remove_row_by_row(tokens: Tensor, labels: Tensor, amounts: Tensor, eos_id: int) -> Surgery:
    """The peer: each row without its first `amounts[b]` thought tokens; labels are aligned, not shifted, `[B, T]`."""
    first, second = separator_positions(tokens, eos_id, skip=0), separator_positions(tokens, eos_id, skip=1)
    begins, ends = first + 1, first + 1 + amounts
    kept_tokens, kept_labels, all_gone = [], [], True
    for b in range(len(tokens)):
        begin, end = max(begins[b], first[b] + 1), ends[b]
        if end < second[b]:
            all_gone = False
        end = min(end, second[b])
        kept_tokens.append(torch.cat((tokens[b, :begin], tokens[b, end:])))
        kept_labels.append(torch.cat((labels[b, :begin], labels[b, end:])))
    return Surgery(pad_rows(kept_tokens, eos_id), pad_rows(kept_labels, IGNORE), all_gone)


def separator_positions(tokens: Tensor, eos_id: int, *, skip: int) -> Tensor:
    """Position of the separator after `skip` others in each row, `[B]`."""
    positions = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    for b in range(len(tokens)):
        is_separator = tokens[b] == eos_id
        position = is_separator.nonzero()[0].item()
        for _ in range(skip):
            is_separator[position] = False
            position = is_separator.nonzero()[0].item()
        positions[b] = position
    return positions


def pad_rows(rows: list[Tensor], value: int) -> Tensor:
    padded = rows[0].new_full((len(rows), max(len(row) for row in rows)), value)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    return padded


def check_equal(ours: Batch, theirs: Surgery) -> None:
    """Check that the two batches are equal; the peer's labels are one position later."""
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.labels[:, :-1], theirs.labels[:, 1:])
    assert (ours.labels[:, -1] == IGNORE).all()


def operations(function: Callable[[], object]) -> list[str]:
    """Names of the operations that reach torch's dispatcher."""
    names: list[str] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Record():
        function()
    return names
