"""Stochastic rounding from fp32 to bf16: up or down at random, so that the mean of many draws is the fp32 number.

A bf16 number is the upper half of an fp32 number. Adding 16 random bits to the lower half and truncating it rounds up
with a probability equal to the lower half's fraction of a bf16 step. The bits are a function of a key and the number's
index in the full tensor, not a stream, so shards and resumed runs get the same ones.

They are read from a fixed table with each of the 65,536 values equally often, in random order. At every step, every
chunk of every tensor reads it from a new offset, drawn by hash: a number's bits are uniform and independent from step
to step, and reading takes a quarter of the time of hashing each number.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cot_components.clock import draw_bits, pick, row_keys

CHUNK = 1 << 17
"""Numbers that share one offset; on a CPU, one chunk at a time stays in the cache."""
AT_ONCE = {"cpu": 1, "cuda": 64}
"""Chunks."""
TABLE = 1 << 20
"""Length of the table."""


def draw_key(seed: int, step: int, name: str) -> np.ndarray:
    """The key of one tensor's draws after `step` updates, uint64 `[1]`."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return row_keys(seed, step, np.frombuffer(digest, dtype=np.int64))


def stochastic_round(values: Tensor, key: np.ndarray, *, start: int = 0) -> Tensor:
    """Round to the bf16 number below or above, at random; numbers that bf16 represents exactly do not change.

    Args:
        values: fp32, of any shape, not sharded.
        key: of `draw_key`.
        start: index of the first of `values` in the full tensor.

    Returns:
        bf16, in the shape of `values`; infinities and NaN are unchanged.
    """
    return stochastic_round_together([values], key, start=start)[0]


def stochastic_round_together(
    values: Sequence[Tensor], key: np.ndarray, *, start: int = 0, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """`stochastic_round` of tensors of one shape with the same draws, into those of `out`, contiguous, if given.

    Each tensor has the right mean, but the tensors' rounding errors are correlated.
    """
    flat = [value.detach().contiguous().view(-1) for value in values]
    rounded = [torch.empty(v.shape, dtype=torch.bfloat16, device=v.device) for v in values] if out is None else [*out]
    size, device, (first, skipped) = len(flat[0]), flat[0].device, divmod(start, CHUNK)
    places = pick(draw_bits(key, np.arange(first, first + -(-(skipped + size) // CHUNK))), TABLE)
    at_once = AT_ONCE[device.type]
    room = torch.empty(0, dtype=torch.int32, device=device)
    for chunk in range(0, len(places), at_once):
        bits = _read(places[chunk : chunk + at_once], device)
        before = chunk * CHUNK - skipped  # index in `flat` of the first of `bits`
        part = slice(max(before, 0), min(before + len(bits), size))
        bits = bits[part.start - before : part.stop - before]
        room = room if len(room) == len(bits) else torch.empty_like(bits)
        for value, into in zip(flat, rounded, strict=True):
            _round(value[part], bits, into.view(-1)[part], room)
    return rounded


def _round(values: Tensor, bits: Tensor, into: Tensor, room: Tensor) -> None:
    """Round with 16 random bits each, int32 `[n]`; `room` is a buffer of the same size."""
    torch.add(values.view(torch.int32), bits, out=room)
    into.view(torch.int16).copy_(room.bitwise_right_shift_(16))
    if values.device.type != "cpu" or not math.isfinite(values.sum()):  # a carry could turn a NaN into a number
        into.copy_(torch.where(values.isfinite(), into, values.bfloat16()))


def _read(places: np.ndarray, device: torch.device) -> Tensor:
    """One chunk of the table from each of these offsets, int32 `[chunks * CHUNK]`."""
    table = _table(device)
    if len(places) == 1:
        return table[int(places[0]) :][:CHUNK]
    return table.unfold(0, CHUNK, 1)[torch.from_numpy(places).to(device)].view(-1)


@functools.cache
def _table(device: torch.device) -> Tensor:
    """Each 16-bit value equally often in a fixed random order, followed by its first chunk again: int32 `[TABLE +
    CHUNK]`."""
    order = np.argsort(draw_bits(np.zeros(1, dtype=np.uint64), np.arange(TABLE)), kind="stable") % (1 << 16)
    return torch.from_numpy(np.concatenate([order, order[:CHUNK]]).astype(np.int32)).to(device)
