"""Rows end to end against rows padded, in our own loop: the same rows, the same losses, less of nothing.

Padded, a step is `BATCH_SIZE` rows of the shuffled order; packed, as many rows as fit into a fixed number of positions.
Lengths are those of reasoning traces: log-normal. Whole epochs are compared; their losses must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.paced import Paced, quiet
from benchmarks.report import Row
from benchmarks.step import CPU_SHAPE, GPU_SHAPE
from benchmarks.step_peers import Work, encoded, ours
from cot_components.data.plans import Plans

BATCH_SIZE = {"cpu": 4, "cuda": 8}
PACKED_TOKENS = {"cpu": 1024, "cuda": 16_384}
MEDIAN_TOKENS = {"cpu": 160, "cuda": 900}
NUM_ROWS = {"cpu": 64, "cuda": 512}
ROUNDS = 2


def rows(device: str) -> Iterator[Row]:
    """Seconds of one epoch, packed over padded; the bound is what the padding costs at the least."""
    work = make_work(device)
    lengths = encoded(work).lengths
    plans = Plans(lengths, batch_size=1, packed_tokens=PACKED_TOKENS[device])
    packed = [plan.micro_batches[0] for plan in plans]
    order = np.random.default_rng(1).permutation(len(lengths))
    padded = [tuple(part.tolist()) for part in np.array_split(order, len(order) // BATCH_SIZE[device])]
    positions = sum(len(part) * int(lengths[list(part)].max()) for part in padded)
    share = 1 - lengths.sum() / positions
    steps = {"packed": packed, "padded": padded}
    sizes = {"packed": PACKED_TOKENS[device], "padded": None}
    loops = {
        name: Paced(ours(work, epoch * (ROUNDS + 1), packed_tokens=sizes[name]), device)
        for name, epoch in steps.items()
    }
    seconds = epochs(loops, {name: len(epoch) for name, epoch in steps.items()})
    yield Row(
        f"tokens/s of an epoch, {share:.0%} padding, {plans.fill(steps=len(packed)):.1%} full",
        "padded rows",
        "",
        lengths.sum() / seconds["packed"],
        lengths.sum() / seconds["padded"],
        0.9 / (1 - share),
        at_most=False,
    )


def epochs(loops: dict[str, Paced], lengths: dict[str, int]) -> dict[str, float]:
    """Seconds of the fastest epoch of each loop; steps take turns so that the epochs run side by side."""
    turns = [name for _, name in sorted((n / length, name) for name, length in lengths.items() for n in range(length))]
    found = []
    with quiet():
        for loop in loops.values():
            loop.step()
        for _ in range(ROUNDS):
            epoch = dict.fromkeys(loops, 0.0)
            for name in turns:
                epoch[name] += loops[name].step().seconds
            found.append(epoch)
        for loop in loops.values():
            loop.stop()
    return {name: min(epoch[name] for epoch in found) for name in loops}


def make_work(device: str) -> Work:
    random = np.random.default_rng(0)
    shape = CPU_SHAPE if device == "cpu" else GPU_SHAPE
    longest = PACKED_TOKENS[device]
    lengths = random.lognormal(np.log(MEDIAN_TOKENS[device]), 0.7, NUM_ROWS[device]).clip(16, longest).astype(int)
    made = [(random.integers(1, shape["vocab_size"], length).tolist(), length // 5) for length in lengths]
    return Work(shape, made, BATCH_SIZE[device], device)
