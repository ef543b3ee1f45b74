"""`python -m benchmarks.precision`: what each number format learns, keeps in the export, and costs in memory and time.

Every arm fine-tunes SmolLM2 on the same packed rows in the same order. A cell is an arm, a learning rate and a seed; it
is one line of `results/precision.jsonl`, and a run that was stopped continues with the next cell.

fp32          weights, matmuls and moments in fp32
autocast      fp32 weights, bf16 matmuls under torch.autocast, as in other trainers
nearest       `dtype: bf16_nearest`: everything in bf16, rounded to nearest
bf16          `dtype: bf16`, everything in bf16, rounded stochastically
fp32_moments  as bf16, with `optimizer_state: fp32_moments`
fp32_weights  as bf16, with `optimizer_state: fp32_weights`: each step draws the bf16 weights from fp32 ones

Held-out losses use the arm's own matmuls (`before`, `end`), and fp32 matmuls, which judge the weights
alone: as trained (`end_weights`), exported to bf16 by `Precision.exported` and read back (`export`), and exported to
bf16 by rounding to nearest (`export_nearest`). Times are per step; on a busy machine use `processor_seconds`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from benchmarks.models import model_folder
from benchmarks.report import RESULTS, Row, machine
from cot_components.config import build
from cot_components.data.rows.batches import Step
from cot_components.datasets import ReasoningDataset
from cot_components.losses import sft
from cot_components.models.load import load_model
from cot_components.models.smollm2 import cached_smollm2
from cot_components.training.batching import load_batches, plan_steps
from cot_components.training.distributed import World
from cot_components.training.export import export_model
from cot_components.training.loop import Trainer, train
from cot_components.training.precision import Precision
from cot_components.training.resume.state import trained_weights
from cot_components.training.setup import Run, build_optimizer
from cot_components.training.validation import validation_loss

ARMS = {
    "fp32": Precision("fp32", export="bf16"),
    "autocast": Precision("fp32", export="bf16"),
    "nearest": Precision("bf16_nearest", export="bf16"),
    "bf16": Precision("bf16", "bf16", export="bf16"),
    "fp32_moments": Precision("bf16", "fp32_moments", export="bf16"),
    "fp32_weights": Precision("bf16", "fp32_weights", export="bf16"),
}
RATES = (1e-5, 1e-4)
STEPS = {"cuda": 200, "tiny": 2}
KEPT = 0.98
PACKED_TOKENS = 512
HELD_OUT = 16


class Job(NamedTuple):
    """What all cells share. held_out: `HELD_OUT` rows that no cell trains on."""

    model: Path
    tokenizer: Mapping[str, Any]
    data: ReasoningDataset
    held_out: ReasoningDataset
    source: str
    steps: int
    device: torch.device


def make_job(model: Path, source: str, steps: int, device: torch.device) -> Job:
    """Rows of a file of traces, or generated ones; the thought of a row longer than a step is truncated."""
    tokenizer = {"_component_": "cot_components.models.hf_tokenizer", "path": str(model)}
    dataset = {"_component_": "cot_components.datasets.reasoning_dataset", "source": source}
    dataset |= {"max_seq_len": PACKED_TOKENS, "too_long": "cut_thought", "strict": False, "max_dropped": 0.3}
    if source == "generated":
        dataset |= {"max_rows": 2000}
    rows = build(dataset, build(tokenizer))
    data, held_out = rows.split_off(HELD_OUT / len(rows.rows))
    return Job(model, tokenizer, data, held_out, Path(source).name, steps, device)


def start_trainer(job: Job, dtype: torch.dtype, folder: Path | None = None, *, autocast: bool = False) -> Trainer:
    """The model of a folder, without an optimizer."""
    node = {"_component_": "cot_components.models.from_folder", "path": str(folder or job.model), "quiet": True}
    model = load_model({**node, "max_seq_len": PACKED_TOKENS}, device=job.device, dtype=dtype)
    if autocast:
        model.loss = _under_autocast(model.loss, job.device)
    plain, nothing = sft().fused, cast(Any, None)
    world = World(device=job.device)
    return Trainer(model, plain, nothing, None, job.device, world, plain_loss=plain, log_blurred_every=0)


def measure(job: Job, arm: str, rate: float, seed: int) -> dict[str, float]:
    """Train one cell; returns its losses, bytes per weight and seconds per step."""
    run = Run(Path(), job.device, ARMS[arm]._replace(seed=seed), World(device=job.device))
    trainer = start_trainer(job, run.dtype, autocast=arm == "autocast")
    node = {"_component_": "torch.optim.AdamW", "lr": rate, "fused": True}
    trainer.optimizer, _ = build_optimizer(node, None, trainer.model, run, num_steps=job.steps)
    trainer.clip_grad_norm, before = 1.0, _held_out(job, trainer)
    seconds: list[float] = []
    steps = itertools.islice(_steps(job, run, seed), job.steps)
    began = time.process_time()
    train(trainer, steps, on_step=lambda _, measured: seconds.append(measured["step_seconds"]))
    found = {"before": before, "processor_seconds": (time.process_time() - began) / job.steps}
    found |= {"end": _held_out(job, trainer)}
    found |= {"step_seconds": statistics.median(seconds), "bytes_a_weight": _bytes_a_weight(trainer)}
    return found | _of_weights(job, run, trainer)


def _steps(job: Job, run: Run, seed: int) -> Iterable[Step]:
    """Steps of as many epochs as are needed."""
    sizes: dict[str, Any] = {"batch_size": 1, "packed_tokens": PACKED_TOKENS, "gradient_accumulation_steps": 1}
    one = plan_steps(job.data, run, **sizes, epochs=1, max_steps_per_epoch=None, seed=seed)
    epochs = -(-job.steps // one.total_steps)
    plans = plan_steps(job.data, run, **sizes, epochs=epochs, max_steps_per_epoch=None, seed=seed)
    return load_batches(job.data, plans, run)


def _of_weights(job: Job, run: Run, trainer: Trainer) -> dict[str, float]:
    """Held-out losses of the weights as trained and as exported, with fp32 matmuls."""
    weights = trained_weights(trainer)
    trainer.optimizer.state.clear()  # frees memory
    with tempfile.TemporaryDirectory() as folder:
        rounded = partial(run.precision.exported, step=job.steps)
        export_model(trainer.model, Path(folder), weights, job.data, {"tokenizer": job.tokenizer}, rounded)
        exported = _held_out(job, start_trainer(job, torch.float32, Path(folder)))
    if all(value.dtype == torch.bfloat16 for value in weights.values()):  # all three are the same
        return {"end_weights": exported, "export": exported, "export_nearest": exported}
    nearest = {name: value.bfloat16() for name, value in weights.items()}
    return {"end_weights": _judge(job, weights), "export": exported, "export_nearest": _judge(job, nearest)}


def _judge(job: Job, weights: Mapping[str, Tensor]) -> float:
    trainer = start_trainer(job, torch.float32)
    trainer.model.load_state_dict(weights)
    return _held_out(job, trainer)


def _held_out(job: Job, trainer: Trainer) -> float:
    return validation_loss(trainer, job.held_out, batch_size=4)["val_loss"]


def _bytes_a_weight(trainer: Trainer) -> float:
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    states = [v for state in trainer.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(value.nbytes for value in [*weights, *weights, *states]) / sum(w.numel() for w in weights)


def _under_autocast(loss: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def run(*args: Any, **settings: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return loss(*args, **settings)

    return run


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds, in Markdown; a gain is the drop of the held-out loss, in percent of that of fp32."""
    columns = (
        "before",
        "end",
        "end_weights",
        "export",
        "export_nearest",
        "bytes_a_weight",
        "step_seconds",
        "processor_seconds",
    )
    text = ["| rate | arm | seeds | " + " | ".join(columns) + " | gain, % | gain exported, % |"]
    text.append("|---" * (len(columns) + 5) + "|")
    for rate, arm in itertools.product(sorted({line["rate"] for line in lines}), ARMS):
        cells = [line for line in lines if (line["rate"], line["arm"]) == (rate, arm)]
        fine = [line for line in lines if (line["rate"], line["arm"]) == (rate, "fp32")]
        if not cells:
            continue
        mean = {name: statistics.fmean(cell[name] for cell in cells) for name in columns}
        gains = []
        for name, truth in (("end", "end"), ("export", "end")):
            whole = statistics.fmean(cell["before"] - cell[truth] for cell in fine) if fine else float("nan")
            gains.append(100 * (mean["before"] - mean[name]) / whole)
        shown = [f"{mean[name]:.4f}" if "_a_" not in name else f"{mean[name]:.1f}" for name in columns]
        text.append(f"| {rate:g} | {arm} | {len(cells)} | {' | '.join(shown)} | {gains[0]:.1f} | {gains[1]:.1f} |")
    return "\n".join(text)


def rows(device: str, size: str) -> Iterator[Row]:
    """What every format gains on generated traces relative to fp32; the default must keep 98 %, exported too."""
    arms = tuple(ARMS) if size != "tiny" else ("fp32", "bf16")
    with tempfile.TemporaryDirectory() as scratch:
        job = make_job(model_folder(size, Path(scratch)), "generated", STEPS[size], torch.device(device))
        for rate in RATES:
            found = {arm: measure(job, arm, rate, seed=0) for arm in arms}
            whole = found["fp32"]["before"] - found["fp32"]["end"]
            for arm, measured in found.items():
                gate = KEPT if arm == "bf16" else None
                for what, name in (("in training", "end"), ("exported", "export")):
                    case = f"{arm}, rate {rate:g}, {job.steps} steps, {what}"
                    yield Row(case, "fp32", "nats", measured["before"] - measured[name], whole, gate, at_most=False)


def _kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--source", default="generated", help="a file of traces, or `generated`: small word problems")
    parser.add_argument("--model", type=Path, help="a folder; default: SmolLM2 from the cache")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS / "precision.jsonl")
    parser.add_argument("--table", action="store_true", help="print the finished cells; train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        run_cells(options)
    wanted = (Path(options.source).name, options.steps, options.device)
    print(table([c for c in _kept(options.results) if (c["source"], c["steps"], c["device"]) == wanted]))


def run_cells(options: argparse.Namespace) -> None:
    """Every cell that has no line yet, seed by seed."""
    job = make_job(options.model or cached_smollm2(), options.source, options.steps, torch.device(options.device))
    for seed, rate, arm in itertools.product(options.seeds, options.rates, options.arms):
        key = {
            "source": job.source,
            "steps": job.steps,
            "device": job.device.type,
            "arm": arm,
            "rate": rate,
            "seed": seed,
        }
        if any(key.items() <= line.items() for line in _kept(options.results)):
            continue
        line = key | {k: round(v, 5) for k, v in measure(job, arm, rate, seed).items()}
        line |= {"load": os.getloadavg()[0], "threads": torch.get_num_threads(), **machine(job.device.type)}
        print(json.dumps(line), flush=True)
        options.results.parent.mkdir(exist_ok=True)
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
