"""A run's output while it runs: a progress bar, one JSON line per record in `log.jsonl`, and a torchtune metric
logger."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cot_components.data.rows.batches import Step
from cot_components.files import write_whole, writing
from cot_components.runs.folder import hold
from cot_components.runs.layout import LOG
from cot_components.runs.log import parse
from cot_components.training.setup import Run
from cot_components.training.throughput import SpeedMeter, chip_name, sentence


class RunLog:
    """Writes the records of the first process; the others write nothing.

    Args:
        run: folder of `log.jsonl`, and this process; a resumed run loses the records after its checkpoint.
        total_steps: length of the progress bar.
        metric_logger: a torchtune metric logger, or None.
        every: steps between two records (the last step always has one); 0 is never.
    """

    def __init__(self, run: Run, total_steps: int, metric_logger: Any = None, *, every: int = 1) -> None:
        first = run.world.is_first
        self.folder, self._path = run.output_dir, run.output_dir / LOG
        told = take_up(self._path, run.earlier.state["log_bytes"]) if first and run.earlier is not None else []
        self._file = hold(open(self._path, "a", encoding="utf-8")) if first else None  # noqa: SIM115
        self._bar: tqdm | None = None
        self.total_steps = total_steps
        self._metric_logger = metric_logger if first else None
        self._every, self._began = every, time.monotonic()
        self._world, self._device, self._speed, self._last_step = run.world, run.device, SpeedMeter(), 0
        for line in told:
            self.say(line)

    def training(self, step: int, epoch: int, measured: Mapping[str, float]) -> None:
        """Log one optimizer step; its record is written only every `every` steps, at the end, and when blurred tokens
        were measured."""
        if self._bar is None:  # created at the first step, so that its clock excludes the time before
            every = 0.1 if sys.stderr.isatty() else 10.0  # in a file, an occasional line is enough
            how: Any = {"unit": "step", "disable": self._file is None, "dynamic_ncols": True, "mininterval": every}
            self._bar = hold(tqdm(total=self.total_steps, initial=step, **how))
        self._bar.update(1)
        self._speed.add(measured)
        self._last_step = step
        if "skipped" in measured:
            self.say(f"step {step}: no supervised token in the whole batch; skipped")
        self._bar.set_postfix_str(
            " ".join(f"{name} {measured[name]:.3f}" for name in ("loss", "loss_answer") if name in measured),
            refresh=False,
        )
        due = self._every and ((step + 1) % self._every == 0 or step + 1 == self.total_steps)
        if due or "loss_blurred" in measured:
            self.record({"step": step, "epoch": epoch, **measured})

    def after_step(self, step: Step, measured: Mapping[str, float]) -> None:
        """`training`, as the loop calls it."""
        self.training(step.clock.step, step.clock.epoch, measured)

    def record(self, values: Mapping[str, float | int]) -> None:
        """Append one record; `values` includes `step`."""
        if self._file is None:
            return
        clean = {
            k: (v if isinstance(v, int) else (float(f"{v:.6g}") if math.isfinite(v) else str(v)))
            for k, v in values.items()
        }
        with writing(self._path):
            self._file.write(json.dumps(clean) + "\n")
            self._file.flush()
        if self._metric_logger is not None:
            payload = {name: value for name, value in values.items() if name not in ("step", "epoch")}
            self._metric_logger.log_dict(payload, step=int(values["step"]))

    def speed(self, model: Any) -> None:
        """Log and print the run's speed (see `training.throughput`)."""
        if found := self._speed.result(model, self._device, world_size=self._world.size):
            self.record({"step": self._last_step, **found})
            minutes = (time.monotonic() - self._began) / 60
            self.say(f"{sentence(found)}; {minutes:.1f} minutes on {chip_name(self._device)}, evaluations included")

    def size(self) -> int:
        """Bytes of `log.jsonl`, after flushing it to disk; 0 if this process writes none."""
        if self._file is None:
            return 0
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def say(self, line: str) -> None:
        """Print one line above the progress bar."""
        if self._file is not None:
            tqdm.write(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            with writing(self._path):
                self._file.close()
        if self._metric_logger is not None:
            self._metric_logger.close()


def take_up(path: Path, num_bytes: int) -> list[str]:
    """Cut the log of a resumed run back to what it was at the checkpoint, `num_bytes` bytes.

    Lost bytes stay lost; lines that are not records are removed, and the original log is kept next to it.

    Returns:
        messages about both.

    Raises:
        UserError: a disk error.
    """
    with writing(path):
        found = path.read_bytes() if path.exists() else b""
        kept, told = found[:num_bytes], []
        if len(kept) < num_bytes:
            told.append(f"{path} has {len(kept):,} bytes of {num_bytes:,}: records of earlier steps are lost")
        lines = kept.split(b"\n")
        broken = [number for number, line in enumerate(lines, start=1) if line.strip() and parse(line) is None]
        if broken:
            aside = path.with_name(f"{path.name}.set_aside")
            aside.write_bytes(found)
            told.append(f"{path}:{broken[0]}: not a log record; left out ({len(broken)} in all), see {aside}")
        records = b"".join(line + b"\n" for number, line in enumerate(lines, start=1) if line and number not in broken)
        if found.startswith(records) and found:
            os.truncate(path, len(records))
        elif found:
            write_whole(path, records)
    return told
