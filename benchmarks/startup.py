"""From the command to the end of the first training step: `tune run bt_sft` against torchtune's stock recipe.

Both read the same data, tokenizer and starting weights; both are stopped by their metric logger at its first record.
Measured in processor seconds of the child processes, which other load on the machine does not affect.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from cot_components.models.tiny import write_tiny_checkpoint

ROOT = Path(__file__).parents[1]
ROUNDS = 2
GATE = 1.2


class FirstStep:
    """A metric logger that ends the process when something is logged."""

    def log_config(self, config: Any) -> None:
        pass

    def log_dict(self, payload: Any, step: int) -> None:
        os._exit(0)

    def close(self) -> None:
        raise RuntimeError("the recipe ended before its first record")


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_checkpoint(Path(folder) / "tiny")
        common = [f"tokenizer.path={tiny}", "metric_logger._component_=benchmarks.startup.FirstStep", "device=cpu"]
        ours = ["bt_sft", "--config", "bt_sft/quickstart", *common, "evaluate_before_training=false"]
        stock = [
            "full_finetune_single_device",
            "--config",
            str(ROOT / "configs" / "stock_torchtune" / "bt_sft_tiny.yaml"),
            *common,
            "~metric_logger.log_dir",
            f"checkpointer.checkpoint_dir={tiny}",
            "dataset.max_rows=12800",  # the quickstart's
            "batch_size=32",
            "loss._component_=torchtune.modules.loss.CEWithChunkedOutputLoss",
        ]
        taken: dict[str, list[float]] = {"ours": [], "stock": []}
        for number in range(ROUNDS):
            taken["ours"].append(processor_seconds([*ours, f"output_dir={folder}/ours{number}"]))
            taken["stock"].append(processor_seconds([*stock, f"output_dir={folder}/stock{number}"]))
    mine, other = (statistics.median(taken[name]) for name in ("ours", "stock"))
    yield Row("command to first step", "torchtune, stock recipe", "s", mine, other, GATE)


def processor_seconds(arguments: list[str]) -> float:
    """Of `tune run ARGUMENTS`, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("tune")), "run", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
