"""Packed rows against padded rows in our own loop, and against TRL's packing. The same rows, the same losses.

Padded, a step is `BATCH_SIZE` rows of the shuffled order; packed, as many rows as fit into a fixed number of positions.
Lengths are those of reasoning traces: log-normal. Whole epochs are timed, and their mean losses per token must agree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.paced import Paced, quiet
from benchmarks.report import Row
from benchmarks.step import CPU_SHAPE, GATES, GPU_SHAPE, TINY_SHAPE, TRL, start_all
from benchmarks.step_peers import Work, encoded, ours
from benchmarks.step_transformers import trl
from cot_components.data.rows.plans import Plans

SHAPES = {"cpu": CPU_SHAPE, "cuda": GPU_SHAPE, "tiny": TINY_SHAPE}
BATCH_SIZE = {"cpu": 4, "cuda": 8, "tiny": 2}
PACKED_TOKENS = {"cpu": 1024, "cuda": 16_384, "tiny": 64}
MEDIAN_TOKENS = {"cpu": 160, "cuda": 900, "tiny": 20}
NUM_ROWS = {"cpu": 64, "cuda": 192, "tiny": 8}
ROUNDS = 2
TRL_PACKED = f"{TRL}, packed"
TOLERANCE = 1e-5


class Epoch(NamedTuple):
    """Seconds of an epoch, and the mean loss of its tokens."""

    seconds: float
    loss: float


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Tokens per second of an epoch; against padded rows the gate is the least that padding costs."""
    work, packed_tokens = make_work(device, size), PACKED_TOKENS[size]
    lengths = encoded(work).lengths
    plans = Plans(lengths, batch_size=1, packed_tokens=packed_tokens)
    packed = [plan.micro_batches[0] for plan in plans]
    order = np.random.default_rng(1).permutation(len(lengths))
    padded = [tuple(part.tolist()) for part in np.array_split(order, len(order) // work.batch_size)]
    positions = sum(len(part) * int(lengths[list(part)].max()) for part in padded)
    share, fill = 1 - lengths.sum() / positions, plans.fill(steps=len(packed))
    found, absent = measure(work, packed, padded, packed_tokens)
    speeds = {name: lengths.sum() / epoch.seconds for name, epoch in found.items()}
    case = f"tokens/s of an epoch, {share:.0%} padding, {fill:.1%} full"
    yield Row(case, "padded rows", "", speeds["ours"], speeds["padded"], 0.9 / (1 - share), at_most=False)
    if TRL_PACKED in absent:
        yield Row(case, TRL_PACKED, "", note=absent[TRL_PACKED])
    else:
        yield Row(case, TRL_PACKED, "", speeds["ours"], speeds[TRL_PACKED], GATES[TRL], at_most=False)


def measure(
    work: Work, packed: list[tuple[int, ...]], padded: list[tuple[int, ...]], packed_tokens: int
) -> tuple[dict[str, Epoch], dict[str, str]]:
    """An epoch of ours packed, of ours padded, and of TRL; and which of them could not run, with the reason.

    Raises:
        RuntimeError: the mean losses differ.
    """
    repeats = ROUNDS + 1
    by_trl: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "num_train_epochs": repeats,
            "packing": True,
            "max_length": packed_tokens,
            "per_device_train_batch_size": 1,
        }
        makers = {
            "ours": lambda: Paced(ours(work, packed * repeats, packed_tokens=packed_tokens), work.device),
            "padded": lambda: Paced(ours(work, padded * repeats), work.device),
            TRL_PACKED: lambda: Paced(trl(work, Path(folder), supervised=by_trl, **settings), work.device),
        }
        loops, absent = start_all(makers, must=("ours", "padded"))
        ours_in = {"ours": packed, "padded": padded}
        supervised = {name: [supervised_in(work, step) for step in steps] for name, steps in ours_in.items()}
        found = epochs(loops, supervised | ({} if absent else {TRL_PACKED: by_trl}))
    for name, epoch in found.items():
        if not abs(epoch.loss / found["ours"].loss - 1) <= TOLERANCE:
            raise RuntimeError(f"the mean loss of {name} is {epoch.loss}, of ours {found['ours'].loss}")
    return found, absent


def supervised_in(work: Work, step: Sequence[int]) -> int:
    return sum(len(tokens) - prompt for tokens, prompt in (work.rows[row] for row in step))


def epochs(loops: dict[str, Paced], supervised: dict[str, list[int]]) -> dict[str, Epoch]:
    """The fastest epoch of each loop; steps take turns so that the epochs run side by side.

    supervised: tokens with a label in each step of an epoch, whose first step has already been done.
    """
    turns = [name for _, name in sorted((n / len(s), name) for name, s in supervised.items() for n in range(len(s)))]
    found: dict[str, list[Epoch]] = {name: [] for name in loops}
    with quiet():
        for _ in range(ROUNDS):
            taken: dict[str, list] = {name: [] for name in loops}
            for name in turns:
                taken[name].append(loops[name].step())
            for name, steps in taken.items():
                weights = [*supervised[name][1:], supervised[name][0]]
                loss = sum(step.loss * weight for step, weight in zip(steps, weights, strict=True)) / sum(weights)
                found[name].append(Epoch(sum(step.seconds for step in steps), loss))
        for loop in loops.values():
            loop.stop()
    return {name: min(epochs) for name, epochs in found.items()}


def make_work(device: str, size: str) -> Work:
    random, shape, longest = np.random.default_rng(0), SHAPES[size], PACKED_TOKENS[size]
    lengths = random.lognormal(np.log(MEDIAN_TOKENS[size]), 0.7, NUM_ROWS[size]).clip(16, longest).astype(int)
    made = [(random.integers(1, shape["vocab_size"], length).tolist(), length // 5) for length in lengths]
    return Work(shape, made, BATCH_SIZE[size], device)
