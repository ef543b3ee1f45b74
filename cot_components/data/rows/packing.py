"""Packing: which rows of different lengths share a micro-batch instead of being padded."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

WINDOW = 256
"""Micro-batches per window of the shuffled order: enough that the last one, the only badly filled one when rows are
short, costs little; few enough that no row moves far from its place."""


def pack_rows(order: np.ndarray, lengths: np.ndarray, num_tokens: int, random: np.random.Generator) -> list[np.ndarray]:
    """Group rows into packs of at most `num_tokens` tokens; no row is cut.

    The shuffled order is cut into windows; inside a window the longest row goes first, each into the pack where it
    leaves the least room (best fit decreasing), and the packs are shuffled. Every row is packed within its window, so
    none is postponed until a pack fits it.

    Args:
        order: row indices, int64 `[R]`, shuffled.
        lengths: tokens per row of the data set, int64; none above `num_tokens`.
        num_tokens: size of a pack.
        random: shuffles the packs of a window.

    Returns:
        Row indices of each pack.
    """
    before = np.cumsum(lengths[order]) - lengths[order]
    total = int(lengths[order].sum())
    num_windows = max(round(total / (WINDOW * num_tokens)), 1)
    window_of_row = before * num_windows // max(total, 1)
    packs: list[np.ndarray] = []
    for window in range(num_windows):
        rows = order[window_of_row == window]
        filled = _best_fit(rows[np.argsort(-lengths[rows], kind="stable")], lengths, num_tokens)
        packs += [filled[number] for number in random.permutation(len(filled))]
    return packs


def _best_fit(rows: np.ndarray, lengths: np.ndarray, num_tokens: int) -> list[np.ndarray]:
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for row, length in zip(rows.tolist(), lengths[rows].tolist(), strict=True):
        at = bisect_left(room, (length, 0))
        left, pack = room.pop(at) if at < len(room) else (num_tokens, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(row)
        insort(room, (left - length, pack))
    return [np.array(pack, dtype=np.int64) for pack in packs]
