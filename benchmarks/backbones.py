"""What the transformers backbone costs: our loop on the same Llama, read from one folder, on both backbones.

On torchtune's modules the last layer's feed-forward processes only rows with a label, and norms and positions have
their own CPU kernels, so the cost grows with the share `f` of positions without a label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.paced import Paced, median_seconds, quiet, ratio, take_turns
from benchmarks.report import Row
from benchmarks.step import (
    BATCH_SIZE,
    ROW_TOKENS,
    SHAPES,
    WARM_UP,
    check_losses,
    make_work,
    shares_of,
    tokens_per_step,
)
from benchmarks.step_peers import Work, ours
from cot_components.models import from_folder
from cot_components.models.adapter import adapt
from cot_components.models.export import save_pretrained

SCHEDULE = (0.0, 0.5)
STEPS = {"cpu": 6, "cuda": 24, "tiny": 2}


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Tokens per second, rows padded and packed."""
    work = make_work(SHAPES[size][0], device, SCHEDULE * STEPS[size], size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_pretrained(adapt(work.model()), Path(scratch) / "model")
        for packed in (None, BATCH_SIZE[size] * ROW_TOKENS[size]):
            yield from compare(work, folder, packed, steps=STEPS[size])


def compare(work: Work, folder: Path, packed: int | None, *, steps: int) -> Iterator[Row]:
    """One row for each share of positions without a label."""
    loops = {}
    for name, backbone in (("ours", "transformers"), ("torchtune", "torchtune")):
        built = work._replace(build=partial(_read, str(folder), backbone))
        loops[name] = Paced(ours(built, packed_tokens=packed), work.device)
    with quiet():
        taken = take_turns(loops, steps=steps, warm_up=WARM_UP)
    check_losses(taken)
    shares = shares_of(taken["ours"], SCHEDULE)
    kind = "padded" if packed is None else "packed"
    for ignored in SCHEDULE:
        here, there = ([s for s, f in zip(taken[name], shares, strict=True) if f == ignored] for name in loops)
        speed = tokens_per_step(work) / median_seconds(there)
        case = f"tokens/s, transformers backbone, {kind} f={ignored}"
        yield Row(case, "torchtune backbone", "", speed / ratio(here, there), speed, note="informs: the price")


def _read(path: str, backbone: Any, **_: Any) -> Any:
    return from_folder(path=path, backbone=backbone, quiet=True)
