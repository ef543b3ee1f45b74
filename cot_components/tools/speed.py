"""Measures how fast the models of finished runs answer, one prompt at a time and batched, and how accurately."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from rich.text import Text

from cot_components.config import COMPONENT, build, walk
from cot_components.config.files import read_keys
from cot_components.errors import UserError
from cot_components.evaluation import AnswerEvaluation
from cot_components.models.generate import decode_with
from cot_components.models.load import load_model
from cot_components.runs.layout import CONFIG, MODEL
from cot_components.training.precision import DTYPES
from cot_components.training.setup import pick_device


class Finished(NamedTuple):
    """A finished run's model and evaluation, ready to answer."""

    name: str
    model: Any
    chat: Any
    evaluation: AnswerEvaluation


def load_run(folder: Path) -> Finished:
    """The exported model of a run with the evaluation of its config.

    Raises:
        UserError: the folder holds no finished run, a run without an evaluation, or a config that cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file() or not (folder / MODEL / "config.json").is_file():
        raise UserError(f"{folder} holds no finished run (config.yaml and model/ are missing)")
    config = _run_config(path)
    device, dtype = pick_device(config["device"]), DTYPES[config["dtype"]]
    data = build(config["dataset"], build(config["tokenizer"], where="tokenizer"), where="dataset")
    exported = {"_component_": "cot_components.models.from_folder", "path": str(folder / MODEL), "quiet": True}
    model = load_model(exported, device=device, dtype=dtype)
    return Finished(folder.name, model, data.chat, build(config["evaluation"], where="evaluation"))


def _run_config(path: Path) -> dict[str, Any]:
    """The config of a run with variables resolved; every needed node is present and names a component."""
    try:
        config: Any = OmegaConf.to_container(read_keys(path), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    if not config.get("evaluation"):
        raise UserError(f"{path}: the run has no evaluation, so there is nothing to answer")
    for key in ("dataset", "tokenizer", "model", "evaluation"):
        if not isinstance(config.get(key), dict) or not isinstance(config[key].get(COMPONENT), str):
            raise UserError(f"{path}: {key} names no component")
    if config.get("dtype") not in DTYPES or not isinstance(config.get("device"), str):
        raise UserError(f"{path}: dtype must be one of {', '.join(DTYPES)}, and device a text")
    given = {"dataset": ["tokenizer"]}
    walk({key: config[key] for key in ("dataset", "tokenizer", "model", "evaluation")}, given)
    return config


def examples_per_second(runs: list[Finished], *, rows: int, batch_size: int, rounds: int = 3) -> list[float]:
    """Completions per second: median over `rounds` in which the runs take turns, without a first warm-up round."""
    few = [first_prompts(run, rows=rows, batch_size=batch_size) for run in runs]
    speeds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, found in zip(few, speeds, strict=True):
            began = time.perf_counter()
            answered = len(run.evaluation(decode_with(run.model), run.chat).examples)
            found.append(answered / (time.perf_counter() - began))
    return [statistics.median(found[1:]) for found in speeds]


def first_prompts(run: Finished, *, rows: int, batch_size: int) -> Finished:
    """The run with an evaluation on its first `rows` prompts, of all its sources, answered `batch_size` at a time."""
    few = replace(run.evaluation, batch_size=batch_size, max_rows=rows)
    few.traces = few.traces[:rows]
    return run._replace(evaluation=few)


def measure_speeds(runs: list[Finished], *, rows: int, batch_size: int) -> Table:
    """The speed of every run one prompt at a time (16 of them at most) and `batch_size` at a time."""
    alone = examples_per_second(runs, rows=min(rows, 16), batch_size=1)
    together = examples_per_second(runs, rows=rows, batch_size=batch_size)
    return speed_table(runs, alone, together, rows=rows, batch_size=batch_size)


def speed_table(
    runs: list[Finished], alone: list[float], together: list[float], *, rows: int, batch_size: int
) -> Table:
    """One line per run: examples per second, and relative to the first run."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("thought tokens", "answers correct", "examples/s, one at a time", f"{batch_size} at a time"):
        table.add_column(name)
    for index, run in enumerate(runs):
        few = first_prompts(run, rows=rows, batch_size=batch_size)
        answered = few.evaluation(decode_with(run.model), run.chat)
        metrics, share = answered.metrics(), answered.answer_accuracy
        correct = "no reference" if share is None else f"{100 * share:.1f} % of {len(answered.examples)}"
        speeds = [f"{speed[index]:.1f} ({speed[index] / speed[0]:.2f}x)" for speed in (alone, together)]
        table.add_row(Text(run.name), f"{metrics.get('thought_tokens', 0.0):.1f}", correct, *speeds)
    return table
