"""The recipe run twice, and once from its own checkpoint in the middle: are the weights the same, bit for bit?

The second run says whether the device's kernels give the same numbers twice; if they do not, no resume can.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu.recipes import run_recipe
from benchmarks.models import model_folder
from benchmarks.report import Row

STEPS = 8
SIZES = {"cuda": ("packed_tokens=2048",), "tiny": ("packed_tokens=256", "dataset.max_rows=40")}


def rows(device: str, size: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        model = model_folder(size, Path(scratch))
        for dtype in ("fp32", "bf16"):
            folder = Path(scratch) / dtype
            settings = (f"device={device}", f"dtype={dtype}", f"model.path={model}", *SIZES[size])
            train(folder / "whole", *settings, f"save_every_n_steps={STEPS // 2}")
            whole = weights(folder / "whole")
            train(folder / "again", *settings)
            yield same(f"weights after {STEPS} steps, run again, {dtype}", whole, weights(folder / "again"))
            half = min((folder / "whole" / "checkpoints").iterdir())  # by step
            train(folder / "resumed", *settings, f"resume={half}")
            yield same(f"weights after {STEPS} steps, resumed at half, {dtype}", whole, weights(folder / "resumed"))
            shutil.rmtree(folder)


def train(folder: Path, *settings: str) -> None:
    """Blurred thoughts on generated data, nothing evaluated."""
    off = ("evaluation=null", "dataset_val=null")
    run_recipe(
        "bt_sft", "bt_sft/quickstart_real", f"output_dir={folder}", f"max_steps_per_epoch={STEPS}", *off, *settings
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(case: str, whole: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> Row:
    """Share of the numbers that are equal; all must be."""
    equal = sum(int((value == other[name]).sum()) for name, value in whole.items())
    return Row(case, "bit for bit", "", equal / sum(map(torch.numel, whole.values())), 1.0, 1.0, at_most=False)
