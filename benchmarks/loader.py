"""The data path alone: from encoded rows to finished packed batches, in one process without a model.

Blur, weights, packing, shift and the list of supervised rows, for traces of log-normal lengths, against a token-by-
token loop in Python that makes the same batches, and against torchtune's packer, which runs once, before training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import seconds
from benchmarks.paced import quiet
from benchmarks.report import Row
from cot_components.clock import Clock, below, draw_bits, row_keys
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.packing import pack_rows
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.row_cache import read_rows, write_rows
from cot_components.data.rows.store import Rows
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.transforms import Blur, ByRole

NUM_ROWS, MEAN_TOKENS, PACKED_TOKENS = 4_000, 674, 16_384
TOKENS_PER_SECOND = 15e6
LOADER_STEPS = 40
CACHED_ROWS, CACHED_MEAN_TOKENS, FIRST_BATCH_SECONDS = 250_000, 300, 10.0
TRANSFORMS = {"blur": Blur(ratio=0.2), "weigh": ByRole({"answer": 2.0})}


def rows() -> Iterator[Row]:
    data = traces(NUM_ROWS, MEAN_TOKENS)
    plans = Plans(data.lengths, batch_size=1, packed_tokens=PACKED_TOKENS)
    batches = Batches(data, TRANSFORMS, 0, packed_tokens=PACKED_TOKENS)
    wanted = [plans.plan(step) for step in range(LOADER_STEPS)]
    check_batches(batches, data, plans)
    num_tokens = sum(int(data.lengths[list(plan.micro_batches[0])].sum()) for plan in wanted)
    few = 2
    taken = seconds(
        {
            "ours": lambda: sum(len(batches[plan]) for plan in wanted),  # batches are dropped at once, as in a worker
            "loop": lambda: sum(len(token_by_token(data, p.micro_batches[0], p.clock)) for p in wanted[:few]),
        },
        "cpu",
        rounds=6,
    )
    speed = num_tokens / taken["ours"]
    slow = sum(int(data.lengths[list(plan.micro_batches[0])].sum()) for plan in wanted[:few]) / taken["loop"]
    yield Row("tokens/s, collate in one worker", "15 M tokens/s", "", speed, TOKENS_PER_SECOND, 1.0, at_most=False)
    yield Row("tokens/s, collate in one worker", "token by token", "", speed, slow)
    yield Row("positions that hold a token", "97 %", "", plans.fill(steps=plans.total_steps), 0.97, 1.0, at_most=False)
    yield packer(data)
    yield cached()


def traces(count: int, mean: int) -> Rows:
    """Random rows: a fifth prompt, three fifths thought, a fifth answer."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(np.log(mean) - 0.32, 0.8, count).clip(50, 4096).astype(np.int64)
    row_start = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(row_start[-1]) - np.repeat(row_start[:-1], lengths)
    share = place / np.repeat(lengths, lengths)
    roles = np.select([share < 0.2, share < 0.8], [Role.PROMPT, Role.THOUGHT], Role.ANSWER).astype(np.uint8)
    return Rows(
        tokens=random.integers(1, 100_000, row_start[-1], dtype=np.int32),
        roles=roles,
        counters=np.where(roles == Role.THOUGHT, place, -1).astype(np.int32),
        weights=np.ones(row_start[-1], dtype=np.float32),
        row_start=row_start,
        ids=np.arange(count),
    )


def token_by_token(data: Rows, indices: tuple[int, ...], clock: Clock) -> tuple[list[int], list[int], list[float]]:
    """Tokens, shifted labels and weights of one packed batch, the obvious way."""
    blur: Any = TRANSFORMS["blur"]
    tokens: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row in indices:
        begin, end = int(data.row_start[row]), int(data.row_start[row + 1])
        key = row_keys(blur.seed, clock.epoch, data.ids[row : row + 1])
        hits = below(draw_bits(np.repeat(key, end - begin), data.counters[begin:end]), blur.ratio)
        for at in range(begin, end):
            tokens.append(int(data.tokens[at]))
            label, weight = IGNORE, 0.0
            if at + 1 < end:
                role = int(data.roles[at + 1])
                weight = 2.0 if role == Role.ANSWER else 1.0
                if role in SUPERVISED_ROLES:
                    label = int(data.tokens[at + 1])
                if role == Role.THOUGHT and data.counters[at + 1] >= blur.keep_first and hits[at + 1 - begin]:
                    label = IGNORE
            labels.append(label)
            weights.append(weight)
    return tokens, labels, weights


def check_batches(batches: Batches, data: Rows, plans: Plans) -> None:
    plan = plans.plan(3)
    (ours,) = batches[plan].micro_batches
    tokens, labels, weights = token_by_token(data, plan.micro_batches[0], plan.clock)
    size = len(tokens)
    assert ours.tokens[0, :size].tolist() == tokens and ours.labels[0, :size].tolist() == labels
    assert ours.weights[0, :size].tolist() == weights


def packer(data: Rows) -> Row:
    """Rows packed per second; torchtune's packer splits rows, ours keeps them whole."""
    from torchtune.datasets import PackedDataset

    few = 500
    samples = [
        {"tokens": data.tokens[a:b].tolist(), "labels": data.tokens[a:b].tolist()}
        for a, b in zip(data.row_start[:few], data.row_start[1 : few + 1], strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(data))
    with quiet():
        taken = seconds(
            {
                "ours": lambda: pack_rows(order, data.lengths, PACKED_TOKENS, np.random.default_rng(1)),
                "torchtune": lambda: PackedDataset(samples, max_seq_len=PACKED_TOKENS, split_across_pack=True),
            },
            "cpu",
        )
    mine, theirs = len(data) / taken["ours"], few / taken["torchtune"]
    return Row("rows planned per second", "torchtune PackedDataset", "", mine, theirs, 5.0, at_most=False)


def cached() -> Row:
    """Seconds from a cache on disk to the first finished batch: read, check, plan three epochs, collate."""
    data = traces(CACHED_ROWS, CACHED_MEAN_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rows"
        write_rows(place, [data], lambda: None)
        del data
        began = time.process_time()
        found = read_rows(place)
        assert found is not None
        plans = Plans(found[0].lengths, batch_size=1, packed_tokens=PACKED_TOKENS, epochs=3)
        step = Batches(found[0], TRANSFORMS, 0, packed_tokens=PACKED_TOKENS)[plans.plan(0)]
        assert plans.total_steps > 0 and step.micro_batches[0].num_tokens > 0
        taken = time.process_time() - began
    case = f"first batch of {CACHED_ROWS:,} cached rows, {CACHED_ROWS * CACHED_MEAN_TOKENS / 1e6:.0f} M tokens"
    return Row(case, "10 s", "s", taken, FIRST_BATCH_SECONDS, 1.0)
