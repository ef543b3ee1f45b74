"""Time and randomness: a run's clock, and random bits computed by hash.

Every random choice a transform makes is `draw_bits(seed, epoch, ids, counters)`: a hash, not a stream. The same token
of the same row gets the same bits for any batch size, order, number of workers or processes, and after a resume.
"""

from typing import NamedTuple

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Clock(NamedTuple):
    """When a batch is drawn.

    epoch: passes over the data finished before this batch, from 0.
    step:  optimizer steps of the global batch finished before this batch, counted from the start of the run and never
        restarted.
    micro_batch: micro-batches of this step before this batch, on this process; 0 for questions about the whole step.
    """

    epoch: int
    step: int
    micro_batch: int = 0


def _mix(x: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014); uint64 arrays only, because numpy scalars warn on overflow."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _as_uint64(x: int | np.ndarray) -> np.ndarray:
    return np.atleast_1d(np.asarray(x, dtype=np.int64)).astype(np.uint64)


def row_keys(seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """One uint64 key per row from (seed, epoch, row id); `ids` is int64 `[B]`."""
    key = _mix(_as_uint64(seed) + _GOLDEN)
    key = _mix(key + _as_uint64(epoch) * _GOLDEN)
    return _mix(key + _as_uint64(ids) * _GOLDEN)


def draw_bits(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """64 random bits per token from its row's key (`row_keys`, repeated per token) and its counter, both `[N]`."""
    return _mix(keys + (_as_uint64(counters) + np.uint64(1)) * _GOLDEN)


def redrawn(bits: np.ndarray, salt: int) -> np.ndarray:
    """New bits derived from these, `[N]`, for a choice that must be independent of one made from the originals."""
    return draw_bits(bits, np.full(bits.shape, salt))


def pick(bits: np.ndarray, size: int) -> np.ndarray:
    """A uniform whole number from 0 to `size - 1` for each, int64 `[N]`."""
    return ((bits >> np.uint64(11)) * 2.0**-53 * size).astype(np.int64)


def below(bits: np.ndarray, probability: float) -> np.ndarray:
    """`True` with the given probability; the `True` set at a low probability is a subset of that at a higher one."""
    if probability >= 1.0:
        return np.ones(bits.shape, dtype=bool)
    return bits < np.uint64(max(probability, 0.0) * 2.0**64)
