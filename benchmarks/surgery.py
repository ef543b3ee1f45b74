"""Taking thought tokens out of a batch: ours on the loader's side against slicing row by row on the device.

The peer works as the released training script of stepwise internalisation does: it gets a padded batch of tensors,
looks for the separators of every row, cuts the row there, joins the two ends, and pads the rows anew. Ours cuts the
flat batch before it is padded for the first and only time. Both must give the same tokens and labels.

The gate is on what removal adds to the work of a step (`removal`, the peer's whole surgery). `finished` is ours with
the batch made ready for training, which the peer needs as well, once before its surgery: shift, padding, weights,
roles, rows of supervised tokens.

    python -m benchmarks.surgery
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cot_components.clock import Clock
from cot_components.curriculum import Schedule
from cot_components.data.batches import Batch, pad
from cot_components.data.flat import Flat
from cot_components.data.icot_text import ICoTFormat
from cot_components.data.multiplication import draw_operands, multiplication_rows
from cot_components.models.gpt2_tokenizer import compact_tokenizer
from cot_components.roles import IGNORE
from cot_components.transforms.remove import Remove

GATE = 7.0
"""The peer takes at least this many times our processor time, in every case."""

SYNCS = ("aten._local_scalar_dense.default", "aten.nonzero.default")
"""Operations that make the host wait for a device; on a CPU they are counted, not felt."""

CASES = {"4x4, 8 removed": (4, 8), "4x4, all removed": (4, 200), "9x9, 8 removed": (9, 8), "9x9, 120 removed": (9, 120)}


class Surgery(NamedTuple):
    """What the peer makes: tokens and labels `[B, T]`, and whether every thought is gone."""

    tokens: Tensor
    labels: Tensor
    all_gone: bool


class Operations(NamedTuple):
    """Operations that reach torch's dispatcher, and how many of them would make the host wait for a device."""

    total: int
    syncs: int


def run(*, batch_size: int = 32, repeats: int = 200, rounds: int = 5) -> list[dict[str, Any]]:
    """One row per case: processor milliseconds per batch, ratios, and operations of both.

    Args:
        batch_size: rows per batch.
        repeats: batches per timing.
        rounds: timings; the first is thrown away, the median of the rest is reported.
    """
    chat = ICoTFormat(compact_tokenizer().text)
    eos_id = chat.stop_ids[0]
    measured = []
    for name, (num_digits, stage) in CASES.items():
        rows = multiplication_rows(*draw_operands(num_digits, batch_size), chat)
        flat = rows.flat(np.arange(batch_size))
        remove = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=0, start=stage), smoothing=1.0)
        clock = Clock(0, 0)
        padded = pad(flat, pad_id=eos_id)
        targets = unshifted_labels(flat, padded.tokens)
        amounts = torch.from_numpy(remove.amounts(flat.ids, clock))

        def removal(flat: Flat = flat, remove: Remove = remove, clock: Clock = clock) -> Flat:
            return remove(flat, clock)

        def finished(removal: Callable[[], Flat] = removal) -> Batch:
            return pad(removal(), pad_id=eos_id)

        def peer(tokens: Tensor = padded.tokens, labels: Tensor = targets, amounts: Tensor = amounts) -> Surgery:
            return remove_row_by_row(tokens, labels, amounts, eos_id)

        check_equal(finished(), peer())
        functions = {"removal": removal, "finished": finished, "peer": peer}
        seconds = interleaved(functions, repeats=repeats, rounds=rounds)
        measured.append(
            {
                "case": name,
                **{f"{which}_ms": 1e3 * value for which, value in seconds.items()},
                "ratio": seconds["peer"] / seconds["removal"],
                "ratio_finished": seconds["peer"] / seconds["finished"],
                "gate": GATE,
                "operations": count_operations(finished),
                "peer_operations": count_operations(peer),
            }
        )
    return measured


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
    """Where the separator after `skip` others stands in each row, `[B]`."""
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


def unshifted_labels(flat: Flat, tokens: Tensor) -> Tensor:
    """Labels at their own tokens, `[B, T]`."""
    labels = torch.full_like(tokens, IGNORE)
    for b, (start, stop) in enumerate(zip(flat.row_start[:-1], flat.row_start[1:], strict=True)):
        labels[b, : stop - start] = torch.from_numpy(flat.labels[start:stop])
    return labels


def check_equal(ours: Batch, theirs: Surgery) -> None:
    """The two batches are the same: the peer's labels stand one place later."""
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.labels[:, :-1], theirs.labels[:, 1:])
    assert (ours.labels[:, -1] == IGNORE).all()


def interleaved(functions: dict[str, Callable[[], object]], *, repeats: int, rounds: int) -> dict[str, float]:
    """Median processor seconds per call, the functions taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            for _ in range(repeats):
                function()
            seconds[name].append((time.process_time() - began) / repeats)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def count_operations(function: Callable[[], object]) -> Operations:
    names: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Count():
        function()
    return Operations(len(names), sum(name in SYNCS for name in names))


def main() -> None:
    torch.set_num_threads(1)
    for row in run():
        ours, theirs = row["operations"], row["peer_operations"]
        print(
            f"{row['case']:17} removal {row['removal_ms']:.3f} ms, peer {row['peer_ms']:.3f} ms: {row['ratio']:.1f}x; "
            f"finished {row['finished_ms']:.3f} ms: {row['ratio_finished']:.1f}x; operations {ours.total} and "
            f"{theirs.total}, of them syncs {ours.syncs} and {theirs.syncs}"
        )


if __name__ == "__main__":
    main()
