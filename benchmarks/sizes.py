"""Our loop alone at realistic sizes, on one GPU, against published figures: tokens per second and the share of the
GPU's peak. Random weights, every row full, nothing ignored; losses are compared in `step`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.paced import Paced, median_seconds, take_turns
from benchmarks.report import Row
from benchmarks.step import TINY_SHAPE
from benchmarks.step_peers import Work, llama, ours
from cot_components.models.families.gpt2 import gpt2
from cot_components.training.throughput import PEAK_FLOPS

STEPS, WARM_UP = 8, 3


class Case(NamedTuple):
    """A model, its rows per step, and the tokens per second it has to reach, with the source of that figure."""

    name: str
    build: Callable[..., Any]
    shape: dict[str, Any]
    rows: int
    row_tokens: int
    least: float
    source: str


CASES = [
    Case(
        "Llama-3.2-3B, 8k tokens per step",
        llama,
        {
            "vocab_size": 128_256,
            "num_layers": 28,
            "num_heads": 24,
            "num_kv_heads": 8,
            "embed_dim": 3072,
            "intermediate_dim": 8192,
            "max_seq_len": 8192,
        },
        rows=2,
        row_tokens=4096,
        least=20_800,
        source="45 % MFU of a H200",
    ),
    Case(
        "GPT-2 small, 64k tokens per step",
        gpt2,
        {"vocab_size": 50_304, "dropout": 0.0},
        rows=64,
        row_tokens=1024,
        least=460_000,
        source="llm.c per H100",
    ),
]


TINY_SHAPES = (
    TINY_SHAPE,
    {"vocab_size": 64, "num_layers": 1, "num_heads": 2, "embed_dim": 16, "max_seq_len": 64, "dropout": 0.0},
)


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Figures of a GPU; at size `cpu` they are reported as not run."""
    if size == "tiny":
        for case, shape in zip(CASES, TINY_SHAPES, strict=True):
            yield measure(case._replace(shape=shape, rows=2, row_tokens=12), device)
        return
    for case in CASES:
        if size == "cpu":
            yield Row(case.name, case.source, "", note="needs a GPU: python -m benchmarks gpu --only sizes")
        else:
            yield measure(case, device)


def measure(case: Case, device: str) -> Row:
    """Tokens per second of the median step."""
    random, needed = np.random.default_rng(0), case.rows * (STEPS + WARM_UP + 1)
    made = [(random.integers(1, case.shape["vocab_size"], case.row_tokens).tolist(), 1) for _ in range(needed)]
    work = Work(case.shape, made, case.rows, device, case.build)
    taken = take_turns({"ours": Paced(ours(work, compile=True), device)}, steps=STEPS, warm_up=WARM_UP)
    tokens = case.rows * case.row_tokens
    speed = tokens / median_seconds(taken["ours"])
    work_per_token = work.flops.total(tokens=1, seen=(case.row_tokens + 1) / 2, supervised=1)
    peak = max(step.peak_bytes for step in taken["ours"]) / 2**30
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    note = f"{work_per_token * speed / PEAK_FLOPS['H200']:.1%} of a H200's peak, {peak:.1f} GiB beyond the states"
    return Row(f"tokens/s, {case.name}", case.source, "", speed, case.least, 1.0, at_most=False, note=note)
