"""`python -m benchmarks.where [f ...]`: where the time of a step goes, in ours and in the stock recipe, part by part.

This profile explains a missed gate of `step`: processor seconds of the median step, on the smaller of its models. Ours
computes the head's gradient before its backward begins, the stock recipe in it. `python -m benchmarks.where pretrained`
does so for `pretrained`: kinds of operations in an fp32 step of SmolLM2, in ours and in Trainer.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import pretrained, step
from benchmarks.models import model_folder
from benchmarks.paced import Paced, quiet
from benchmarks.report import RESULTS, machine
from benchmarks.step_peers import Loop, Work, ours, stock

ROUNDS = 8
PARTS = {
    "forward, head included in the stock recipe's": ("torchtune.modules.transformer:TransformerDecoder", "forward"),
    "of that, the head": ("torchtune.modules.transformer:TransformerDecoder", "chunked_output"),
    "loss, head and its gradient included in ours": ("cot_components.losses.loss", "fused"),
    "loss of the stock recipe": ("torchtune.modules.loss:CEWithChunkedOutputLoss", "forward"),
    "backward": ("torch:Tensor", "backward"),
    "clipping": ("torch.nn.utils", "clip_grad_norm_"),
    "AdamW": ("torch.optim:AdamW", "step"),
}

KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product",),
    "AdamW": ("aten::_fused_adam",),
    "products by numbers, sums": ("aten::mul", "aten::add", "aten::sum", "aten::mean", "aten::silu", "aten::sub"),
    "copies, casts, zeros": ("aten::copy_", "aten::fill_", "aten::cat", "aten::zero_", "aten::index"),
}
"""Kinds of operations by prefix of their names; the rest is `all else`."""


@contextmanager
def timed(taken: dict[str, float]) -> Iterator[None]:
    """Add the processor seconds of every part to `taken` while the context lasts."""
    with ExitStack() as stack:
        for part, (path, name) in PARTS.items():
            module, _, owner = path.partition(":")
            holder = importlib.import_module(module)
            holder = getattr(holder, owner) if owner else holder
            stack.enter_context(mock.patch.object(holder, name, _stopwatch(getattr(holder, name), part, taken)))
        yield


def _stopwatch(function: Any, part: str, taken: dict[str, float]) -> Any:
    def run(*args: Any, **settings: Any) -> Any:
        began = time.process_time()
        try:
            return function(*args, **settings)
        finally:
            taken[part] += time.process_time() - began

    return run


def profile(work: Work, *, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Seconds of each part of the median step, `{"ours": {part: seconds}, "stock": ...}`, without the first round."""
    taken: dict[str, float] = defaultdict(float)
    with timed(taken), quiet():
        loops = {"ours": Paced(ours(work)), "stock": Paced(stock(work))}
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        for _ in range(rounds + 1):
            for name, loop in loops.items():
                taken.clear()
                whole = loop.step().seconds
                seen[name].append({"whole step": whole, **taken})
        for loop in loops.values():
            loop.stop()
    return {
        name: {part: statistics.median(one.get(part, 0.0) for one in steps[1:]) for part in ("whole step", *PARTS)}
        for name, steps in seen.items()
    }


def operations(loop: Loop, *, after: int = 2) -> dict[str, float]:
    """The share of each kind of operation in step `after` + 1, in wall-clock time, which other load affects."""
    profiler, steps = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]), 0

    class Enough(Exception):
        pass

    def end_of_step(loss: float) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            profiler.start()
        if steps > after:
            profiler.stop()
            raise Enough

    with quiet(), suppress(Enough):
        loop(end_of_step)
    taken: dict[str, float] = dict.fromkeys([*KINDS, "all else"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "all else")
        taken[kind] += event.self_cpu_time_total
    return {kind: spent / sum(taken.values()) for kind, spent in taken.items()}


def profile_pretrained(size: str = "cpu") -> dict[str, dict[str, float]]:
    """Shares of one step, `{"ours": {kind: share}, pretrained.TRAINER: ...}`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = pretrained.make_work(model_folder(size, folder), "cpu", size, ignored=(0.0,))
        made = pretrained.makers(work, torch.float32, folder)
        return {name: operations(made[name]()) for name in ("ours", pretrained.TRAINER)}


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    kept = {}
    if words == ["pretrained"]:
        kept["f=0.0"] = profile_pretrained()
    for ignored in map(float, (words or ["0.0"]) if not kept else ()):
        step.SCHEDULE, step.ROUNDS["cpu"] = (ignored,), ROUNDS
        kept[f"f={ignored}"] = profile(step.make_work(step.CPU_SHAPE, "cpu"))
    for share, found in kept.items():
        print(f"{share:48} {'   '.join(found)}")
        for part in found["ours"]:
            print(f"{part:48} {'  '.join(f'{taken[part]:.3f}' for taken in found.values())}")
    name, measure = ("where_pretrained", "shares") if words == ["pretrained"] else ("where", "seconds")
    path = RESULTS / f"{name}_cpu.json"
    command = " ".join(["python -m benchmarks.where", *(words or ["0.0"])])
    path.write_text(json.dumps({**machine("cpu"), "command": command, measure: kept}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
