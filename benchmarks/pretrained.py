"""A training step of SmolLM2-135M on a CPU, against `transformers.Trainer` and TRL's `SFTTrainer`.

All rows have the same length, so there is no padding and peers lose nothing by not packing or grouping by length. In
fp32 on every CPU; on one with bf16 units also in bf16, ours with exact updates and the peers under autocast, as their
users run them. `f` is the share of positions without a label, `h` the head's share of the step's FLOPs, and
`S(f) = 1 / (1 - f h)`.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from benchmarks.measure import peak_bytes
from benchmarks.models import model_folder
from benchmarks.paced import Measured, Paced, median_seconds, quiet, ratio, take_turns
from benchmarks.report import Absent, Row
from benchmarks.step import TRL, check_losses, shares_of, start_all, tokens_per_step
from benchmarks.step_peers import Loop, Work, ours
from benchmarks.step_transformers import hf_trainer, trl
from cot_components.training.throughput import UNITS, multiplies_in_bf16

TRAINER = "transformers.Trainer"
COMPILED, IN_FP32 = "ours, compiled", "ours, fp32"
IGNORED = (0.0, 0.3, 0.5, 0.7)
WARM_UP = 3
"""Uncounted steps of each loop, including the one that starts it; must match `step.shares_of`."""
STEPS = dict.fromkeys(("cpu", "tiny"), len(IGNORED))
BATCH_SIZE = {"cpu": 1, "tiny": 2}
ROW_TOKENS = {"cpu": 256, "tiny": 16}
GATE = 1.3
"""Of ours against both peers, multiplied by `S(f)`."""
BF16_GATES = {"amx_bf16": 2.0, "avx512_bf16": 1.0}
"""Of our bf16 step against our fp32 step, by the best unit the CPU has."""
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
"""Relative difference of losses from ours; autocast rounds at other places than ours."""


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Peak memory of a step, then tokens per second: in fp32, then in bf16.

    Raises:
        Absent: a package of the peers, or the model, is missing.
    """
    for package in ("transformers", "accelerate"):
        if find_spec(package) is None:
            raise Absent(f"{package} is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        work = make_work(model_folder(size, Path(scratch)), device, size)
        yield from memory(work, Path(scratch))
        formats = [torch.float32, *([torch.bfloat16] if multiplies_in_bf16() or size == "tiny" else [])]
        for products in formats:
            yield from speed(work, products, Path(scratch), STEPS[size])
    if len(formats) == 1:
        without = f"this CPU has no units for bf16 ({', '.join(UNITS)})"
        for peer in (TRAINER, TRL, IN_FP32):
            yield Row("tokens/s, SmolLM2, bf16", peer, "", note=without)


def make_work(folder: Path, device: str, size: str, ignored: Sequence[float] = IGNORED) -> Work:
    """Rows whose first share `f` is prompt; `f` is constant within a step and cycles through `ignored` step by step."""
    random, length, batch_size = np.random.default_rng(0), ROW_TOKENS[size], BATCH_SIZE[size]
    work = Work({}, [], batch_size, device, folder=folder)
    vocab_size = work.model().tok_embeddings.num_embeddings
    made = []
    for number in range((STEPS[size] + WARM_UP + 1) * batch_size):
        prompt = max(round(ignored[number // batch_size % len(ignored)] * length), 1)
        made.append((random.integers(3, vocab_size, length).tolist(), prompt))
    return work._replace(rows=made)


def makers(work: Work, products: torch.dtype, folder: Path) -> dict[str, Callable[[], Loop]]:
    """Factories of the loops; the first is ours."""
    settings: dict[str, Any] = {"bf16": products == torch.bfloat16}  # autocast, with fp32 weights
    made: dict[str, Callable[[], Loop]] = {
        "ours": partial(ours, work._replace(products=products)),
        TRAINER: partial(hf_trainer, work, folder, **settings),
        TRL: partial(trl, work, folder, **settings),
        COMPILED: partial(ours, work._replace(products=products), compile=True),
    }
    if products == torch.bfloat16:
        made[IN_FP32] = partial(ours, work)
    return made


def paced(make: Callable[[], Loop], device: str) -> Paced:
    return Paced(make(), device)


def memory(work: Work, folder: Path) -> Iterator[Row]:
    """Peak memory of a step beyond weights and optimizer, in fp32, each loop in its own process."""
    made = makers(work, torch.float32, folder)
    ours, peer = (peak_of_second_step(partial(paced, made[name], work.device)) / 2**20 for name in ("ours", TRAINER))
    yield Row("peak memory of a step, SmolLM2", TRAINER, "MiB", ours, peer, 1.0)


def peak_of_second_step(start: Callable[[], Paced]) -> int:
    """In bytes; the first step loads the code and creates the optimizer's states."""
    running: list[Paced] = []

    def first() -> None:
        running.append(start())
        step()

    def step() -> None:
        with quiet():
            running[0].step()

    return peak_bytes(step, "cpu", rehearsal=first)


def speed(work: Work, products: torch.dtype, folder: Path, steps: int) -> Iterator[Row]:
    """Ours against every peer at every `f`, against itself compiled, and in bf16 against itself in fp32.

    One pair at a time: a loop needs 16 bytes per weight, and a small machine can hold two of them.
    """
    (ours_name, start_ours), *others = makers(work, products, folder).items()
    model = f"SmolLM2 {str(products)[6:]}"
    for name, start in others:
        pair = {ours_name: partial(paced, start_ours, work.device), name: partial(paced, start, work.device)}
        graphs = counters["stats"]["unique_graphs"]
        loops, absent = start_all(pair)
        if absent:
            yield Row(f"tokens/s, {model}", name, "", note=absent[name])
            loops["ours"].stop()
            continue
        with quiet():
            for loop in [*loops.values()] * (WARM_UP - 1):
                loop.step()
        warm = counters["stats"]["unique_graphs"]
        taken = take_turns(loops, steps=steps, warm_up=0)
        del loops
        gc.collect()
        check_losses(taken, tolerance=TOLERANCE[products])
        mine, other = taken["ours"], taken[name]
        if name == COMPILED:
            later = counters["stats"]["unique_graphs"] - warm
            yield whole(work, f"tokens/s, {model}, compiled", "ours, eager", other, mine)
            yield Row(f"recompilations, {model}", "graphs of the warm-up", "", later, warm - graphs, 0.0)
        elif name == IN_FP32:
            gate = next((BF16_GATES[unit] for unit in BF16_GATES if torch.cpu.get_capabilities().get(unit)), None)
            yield whole(work, f"tokens/s, {model}", IN_FP32, mine, other, gate)
        else:
            yield from at_every_share(work, f"tokens/s, {model}", name, taken)


def at_every_share(work: Work, case: str, name: str, taken: dict[str, list[Measured]]) -> Iterator[Row]:
    """One row for every `f`: the gate is `GATE * S(f)`."""
    everything = work.flops.total(tokens=1, seen=(len(work.rows[0][0]) + 1) / 2, supervised=1)
    weight = work.model().tok_embeddings.weight
    head = 6 * weight.numel() / everything
    shares = shares_of(taken["ours"], IGNORED)
    for ignored in IGNORED:
        mine, other = ([s for s, f in zip(taken[key], shares, strict=True) if f == ignored] for key in ("ours", name))
        yield whole(work, f"{case} h={head:.2f} f={ignored}", name, mine, other, GATE / (1 - ignored * head))


def whole(
    work: Work, case: str, name: str, ours: list[Measured], other: list[Measured], gate: float | None = None
) -> Row:
    """Tokens per second over all these steps."""
    speed = tokens_per_step(work) / median_seconds(other)
    return Row(case, name, "", speed / ratio(ours, other), speed, gate, at_most=False)
