"""From fp32 to bf16 up or down by chance, so that the mean of many draws is the fp32 number.

A bf16 number is the upper half of an fp32 number. Adding 16 random bits to the lower half and cutting it off rounds up
with the probability that the lower half is of a whole step. The bits are a hash of a key and of the number's index in
the whole tensor, never a stream: shards of several processes, and a resumed run, get the same.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cot_components.clock import draw_bits, row_keys

CHUNK = 1 << 17
"""Numbers that share a key: on a CPU one chunk at a time stays in the cache."""
CHUNKS_ON_GPU = 64
_HALF, _LOWER = CHUNK // 2, 0xFFFF


def draw_key(seed: int, step: int, name: str) -> np.ndarray:
    """The key of one tensor's draws after `step` updates, uint64 `[1]`."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return row_keys(seed, step, np.frombuffer(digest, dtype=np.int64))


def stochastic_round(values: Tensor, key: np.ndarray, *, start: int = 0) -> Tensor:
    """Numbers in bf16, each the one below or above, by chance; numbers that bf16 holds stay bit for bit.

    Args:
        values: fp32, of any shape, not sharded.
        key: of `draw_key`.
        start: index in the whole tensor of the first of `values`.

    Returns:
        bf16, in the shape of `values`; infinities and NaN stay what they are.
    """
    return stochastic_round_together([values], key, start=start)[0]


def stochastic_round_together(values: Sequence[Tensor], key: np.ndarray, *, start: int = 0) -> list[Tensor]:
    """`stochastic_round` of tensors of one shape with the same draws, which take most of the time.

    Each tensor has the right mean; what is above in one is likelier above in the others.
    """
    flat = [value.detach().contiguous().view(-1) for value in values]
    rounded = [torch.empty(value.shape, dtype=torch.bfloat16, device=value.device) for value in values]
    size, (first, skipped) = len(flat[0]), divmod(start, CHUNK)
    keys = draw_bits(key, np.arange(first, first + -(-(skipped + size) // CHUNK))).view(np.int32).reshape(-1, 2)
    draws = _Draws(flat[0].device, lanes=skipped + size)
    room = torch.empty(0, dtype=torch.int32, device=flat[0].device)
    for chunk in range(0, len(keys), draws.at_once):
        bits = draws(keys[chunk : chunk + draws.at_once])
        before = chunk * CHUNK - skipped  # index in `flat` of the first of `bits`
        part = slice(max(before, 0), min(before + len(bits), size))
        bits = bits[part.start - before : part.stop - before]
        room = room if len(room) == len(bits) else torch.empty_like(bits)
        for value, into in zip(flat, rounded, strict=True):
            _round(value[part], bits, into.view(-1)[part], room)
    return rounded


def _round(values: Tensor, bits: Tensor, into: Tensor, room: Tensor) -> None:
    """Round with 16 random bits each, int32 `[n]`; `room` is as large."""
    torch.add(values.view(torch.int32), bits, out=room)
    into.view(torch.int16).copy_(room.bitwise_right_shift_(16))
    if values.device.type != "cpu" or not math.isfinite(values.sum()):  # a carry may turn a NaN into a number
        into.copy_(torch.where(values.isfinite(), into, values.bfloat16()))


class _Draws:
    """16 random bits for every number of a few chunks at a time: on a CPU of one, which stays in the cache.

    Each 32-bit lane serves two numbers. For one lane the xor with a random number and the product with an odd one are
    uniform and independent from chunk to chunk and step to step; the fixed numbers of `_lanes` tell lanes apart.
    """

    def __init__(self, device: torch.device, *, lanes: int) -> None:
        self.at_once = 1 if device.type == "cpu" else CHUNKS_ON_GPU
        self._lanes = _lanes(device)[:, :lanes]
        self._space: list[Tensor] = []

    def __call__(self, keys: np.ndarray) -> Tensor:
        """Bits for chunks with these keys, int32 `[n, 2]`: int32 `[n * CHUNK]`, fewer for less than half a chunk;
        valid until the next call.
        """
        x, y, low, high = self._room(len(keys))
        torch.bitwise_xor(self._lanes, self._for_each(keys[:, 0]), out=x)
        x.mul_(self._for_each(keys[:, 1] | 1))
        x.bitwise_xor_(torch.bitwise_right_shift(x, 15, out=y).bitwise_and_(0x1FFFF)).mul_(_MIX)
        torch.bitwise_and(x, _LOWER, out=low)
        torch.bitwise_right_shift(x, 16, out=high).bitwise_and_(_LOWER)
        return self._space[-1].view(-1)

    def _for_each(self, numbers: np.ndarray) -> Any:
        """A factor for each chunk; a plain number, which is four times as fast, where there is one chunk."""
        if len(numbers) == 1:
            return int(numbers[0])
        return torch.from_numpy(numbers).to(self._lanes.device)[:, None]

    def _room(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not self._space or len(self._space[0]) != count:
            lanes = self._lanes.shape[1]
            shapes = (count, lanes), (count, lanes), (count, 2, lanes)
            self._space = [torch.empty(shape, dtype=torch.int32, device=self._lanes.device) for shape in shapes]
        x, y, bits = self._space
        return x, y, bits[:, 0], bits[:, 1]


_MIX = 0x2C1B3C6D
"""The second factor of the 32-bit hash `lowbias32`."""


@functools.cache
def _lanes(device: torch.device) -> Tensor:
    """A fixed random number for each lane of a chunk, int32 `[1, CHUNK / 2]`."""
    numbers = draw_bits(np.zeros(1, dtype=np.uint64), np.arange(_HALF)).astype(np.uint32)
    return torch.from_numpy(numbers.view(np.int32))[None].to(device)
