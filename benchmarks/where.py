"""`python -m benchmarks.where [f ...]`: where the time of a step goes, ours and the stock recipe's, part by part.

The profile behind a missed gate of `step`: processor seconds of the median step, on the smaller of its models. Ours has
the head's gradient before its backward begins, the stock recipe computes it there.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from benchmarks import step
from benchmarks.paced import Paced, quiet
from benchmarks.report import RESULTS, machine
from benchmarks.step_peers import Work, ours, stock

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


def main(shares: list[float]) -> None:
    torch.set_num_threads(1)
    kept = {}
    for ignored in shares:
        step.SCHEDULE, step.ROUNDS["cpu"] = (ignored,), ROUNDS
        kept[f"f={ignored}"] = found = profile(step.make_work(step.CPU_SHAPE, "cpu"))
        print(f"f={ignored:<46} ours   stock")
        for part in found["ours"]:
            print(f"{part:48} {found['ours'][part]:.3f}  {found['stock'][part]:.3f}")
    path = RESULTS / "where_cpu.json"
    command = f"python -m benchmarks.where {' '.join(map(str, shares))}"
    path.write_text(json.dumps({**machine("cpu"), "command": command, "seconds": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main([float(share) for share in sys.argv[1:]] or [0.0])
