"""A whole training step, data included: ours against torchtune's stock recipe and TRL's trainer, and against itself.

`f` is the share of all positions without a label. The head is a share `h` of the step's FLOPs, and ours runs it only on
supervised rows, so by FLOPs the step is `S(f) = 1 / (1 - f h)` times as fast. (The last layer's feed-forward, which
ours skips as well, is not in `h`: it compensates for the head running closer to the processor's peak than the layers.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loss_peers import cut_cross_entropy
from benchmarks.paced import Measured, Paced, median_seconds, quiet, ratio, take_turns
from benchmarks.report import Row
from benchmarks.step_peers import Loop, Work, ours, stock
from benchmarks.step_transformers import shortest, trl
from cot_components.errors import UserError

CPU_SHAPE = {
    "vocab_size": 8192,
    "num_layers": 6,
    "num_heads": 4,
    "num_kv_heads": 4,
    "embed_dim": 256,
    "intermediate_dim": 1024,
    "max_seq_len": 2048,
}
GPU_SHAPE = {  # Llama-3.2-1B
    "vocab_size": 128_256,
    "num_layers": 16,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embed_dim": 2048,
    "intermediate_dim": 8192,
    "max_seq_len": 8192,
}
TINY_SHAPE = {
    "vocab_size": 64,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "embed_dim": 32,
    "intermediate_dim": 64,
    "max_seq_len": 64,
}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "cpu": [CPU_SHAPE, {**CPU_SHAPE, "vocab_size": 32_768, "num_layers": 4}],
    "cuda": [GPU_SHAPE],
    "tiny": [TINY_SHAPE],
}
ROW_TOKENS = {"cpu": 256, "cuda": 4096, "tiny": 16}
BATCH_SIZE = {"cpu": 4, "cuda": 4, "tiny": 2}
IGNORED = (0.0, 0.3, 0.5, 0.7, 0.9)
SCHEDULE = (0.0, 0.3, 0.0, 0.5, 0.0, 0.7, 0.0, 0.9, 0.0)
"""`f` of each step of a round: ours gains least with nothing ignored, so that is measured most often."""
SHORTER_SCHEDULE = (0.0, 0.3, 0.5, 0.0, 0.7, 0.9)
"""For further shapes, whose head is most of the step: no gate is close there."""
WARM_UP = 3
ROUNDS = {"cpu": 3, "cuda": 3, "tiny": 1}
FEWER_ROUNDS = 2
"""At most, of further shapes."""
STOCK, TRL = "torchtune, stock recipe", "TRL SFTTrainer"
TRL_LIGER, CCE = "TRL + Liger's layers", "transformers + CCE"
ON_GPU = (TRL_LIGER, CCE)
FLOAT8 = "ours, float8"
GATES = {STOCK: 1.05, TRL: 1.20, **dict.fromkeys(ON_GPU, 1.0)}
GPU_TOKENS_PER_SECOND = 54_000


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Tokens per second of each loop at each `f`; `f` changes from step to step."""
    for number, shape in enumerate(SHAPES[size]):
        schedule, rounds = (SHORTER_SCHEDULE, min(FEWER_ROUNDS, ROUNDS[size])) if number else (SCHEDULE, ROUNDS[size])
        work = make_work(shape, device, schedule, size)
        with tempfile.TemporaryDirectory() as folder:
            loops, absent = start_all(makers(work, Path(folder), on_gpu=size != "cpu"))
            taken = take_turns(loops, steps=rounds * len(schedule), warm_up=WARM_UP - 1)
        rounded = taken.pop(FLOAT8, None)
        check_losses(taken)
        yield from compare(work, taken, schedule)
        if rounded is not None:
            yield float8_row(work, taken["ours"], rounded)
        if device == "cuda":
            speed = tokens_per_step(work) / median_seconds(whole_steps(taken["ours"], schedule))
            yield Row("tokens/s, f=0", "45 % MFU of a H200", "", speed, GPU_TOKENS_PER_SECOND, 1.0, at_most=False)
            yield from memory(taken)
        for name, reason in absent.items():
            yield Row("tokens/s", name, "", note=reason)
    for name in (STOCK, TRL, *ON_GPU, FLOAT8) if size == "cpu" else ():
        yield Row("tokens/s, Llama-3.2-1B", name, "", note="needs a GPU: python -m benchmarks gpu --only step")


def makers(work: Work, folder: Path, *, on_gpu: bool) -> dict[str, Callable[[], Paced]]:
    """Factories of the loops that run on a CPU or on a GPU; the first is ours."""
    compile = on_gpu
    made: dict[str, Callable[[], Loop]] = {
        "ours": partial(ours, work, compile=compile),
        STOCK: partial(stock, work, compile=compile),
        TRL: partial(trl, work, folder),
    }
    if on_gpu:
        made[TRL_LIGER] = partial(trl, work, folder, use_liger_kernel=True)
        made[CCE] = partial(shortest, work, folder, cut_cross_entropy, compile=compile)
        made[FLOAT8] = partial(ours, work, compile=compile, float8=True)
    return {name: partial(_paced, make, work.device) for name, make in made.items()}


def _paced(make: Callable[[], Loop], device: str) -> Paced:
    return Paced(make(), device)


def start_all(
    makers: Mapping[str, Callable[[], Paced]], must: Collection[str] = ("ours",)
) -> tuple[dict[str, Paced], dict[str, str]]:
    """The loops that can run here, after one step, and why others cannot. A loop in `must` raises its error."""
    loops, absent = {}, {}
    for name, make in makers.items():
        try:
            loop = make()
            with quiet():
                loop.step()
            loops[name] = loop
        except (ImportError, RuntimeError, UserError) as error:
            if name in must:
                raise
            absent[name] = str(error.__cause__ or error).strip().splitlines()[0][:120]
    return loops, absent


def make_work(
    shape: dict[str, Any], device: str, schedule: Sequence[float] | None = None, size: str | None = None
) -> Work:
    """Rows of one length whose first share `f` is prompt; `f` is the same within a step."""
    size = size or device
    random, length, batch_size = np.random.default_rng(0), ROW_TOKENS[size], BATCH_SIZE[size]
    schedule = schedule or SCHEDULE
    num_steps = (ROUNDS[size] + 2) * len(schedule)
    made = []
    for number in range(num_steps * batch_size):
        ignored = schedule[number // batch_size % len(schedule)]
        prompt = max(round(ignored * length), 1)
        made.append((random.integers(1, shape["vocab_size"], length).tolist(), prompt))
    return Work(shape, made, batch_size, device)


def check_losses(taken: dict[str, list[Measured]], *, tolerance: float = 2e-3) -> None:
    """Check that every loop had the same loss at every step."""
    for name, steps in taken.items():
        worst = max(abs(a.loss / b.loss - 1) for a, b in zip(steps, taken["ours"], strict=True))
        if not worst <= tolerance:
            raise RuntimeError(f"losses of {name} differ from ours by {worst:.1e}; their times cannot be compared")


def tokens_per_step(work: Work) -> int:
    return work.batch_size * len(work.rows[0][0])


def shares_of(steps: list[Measured], schedule: Sequence[float]) -> list[float]:
    """`f` of each measured step."""
    return [schedule[(WARM_UP + number) % len(schedule)] for number in range(len(steps))]


def whole_steps(steps: list[Measured], schedule: Sequence[float]) -> list[Measured]:
    """The steps with nothing ignored."""
    return [step for step, share in zip(steps, shares_of(steps, schedule), strict=True) if share == 0]


def compare(work: Work, taken: dict[str, list[Measured]], schedule: Sequence[float]) -> Iterator[Row]:
    tokens, shares = tokens_per_step(work), shares_of(taken["ours"], schedule)
    at = {
        name: {share: [step for step, of in zip(steps, shares, strict=True) if of == share] for share in IGNORED}
        for name, steps in taken.items()
    }
    everything = work.flops.total(tokens=1, seen=(len(work.rows[0][0]) + 1) / 2, supervised=1)
    head = 6 * work.shape["vocab_size"] * work.shape["embed_dim"] / everything
    model = f"V={work.shape['vocab_size']} h={head:.2f}"
    for name in [name for name in taken if name != "ours"]:
        for ignored in IGNORED:
            mine, other = at["ours"][ignored], at[name][ignored]
            factor = 1 / ratio(mine, other)
            speed = tokens / median_seconds(other)
            yield Row(f"tokens/s, {model} f={ignored}", name, "", factor * speed, speed, GATES[name], at_most=False)
    for ignored in IGNORED[1:]:
        mine = at["ours"][ignored]
        whole = at["ours"][0.0][:: len(at["ours"][0.0]) // len(mine)]  # one of each round
        gain, limit = 1 / ratio(mine, whole), 1 / (1 - ignored * head)
        yield Row(f"speed at f={ignored} over f=0, {model}", "S(f)", "x", gain, limit, 0.9, at_most=False)


def float8_row(work: Work, plain: list[Measured], rounded: list[Measured]) -> Row:
    """Informative only: the speed-up of float8 matmuls, and how far their losses are from those of bf16."""
    tokens = tokens_per_step(work)
    worst = max(abs(a.loss / b.loss - 1) for a, b in zip(rounded, plain, strict=True))
    speed, factor = tokens / median_seconds(plain), 1 / ratio(rounded, plain)
    return Row("tokens/s, float8 layers, all f", "ours in bf16", "", factor * speed, speed, note=f"loss +-{worst:.1e}")


def memory(taken: dict[str, list[Measured]]) -> Iterator[Row]:
    """Peak memory of a step beyond weights and optimizer, which are the same for all."""
    mine, *others = ((name, max(step.peak_bytes for step in steps) / 2**30) for name, steps in taken.items())
    for name, peak in others:
        yield Row("peak memory of a step", name, "GiB", mine[1], peak, 1.0)
