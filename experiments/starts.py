"""Models that studies start from, each trained once per seed and shared by all, in `runs/experiments/starts`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from cot_components.data.generated.tasks import make_problems
from cot_components.files import write_whole
from experiments.runner import recipe
from experiments.study import Cell

QUIET = ["evaluate_before_training=false", "evaluate_every_n_steps=null", "evaluation=null", "dataset_val=null"]
Start = Callable[[Cell], Path]
"""Cell -> folder of an exported model."""
_ONE_AT_A_TIME = Lock()


def agent_base(cell: Cell) -> Path:
    """Copies from a request into formats other than the tested one: the base model of `make quickstart-rft`."""
    return once_trained(cell, "agent_base", "cot_sft", "cot_sft/agent_base")


def student(cell: Cell) -> Path:
    """Sometimes solves the small tasks: an epoch of `make quickstart`, a third of its training."""
    return once_trained(cell, "student", "bt_sft", "bt_sft/quickstart", *QUIET, "epochs=1")


def teacher(cell: Cell) -> Path:
    """Solves the small tasks: all of `make quickstart`."""
    return once_trained(cell, "teacher", "bt_sft", "bt_sft/quickstart", *QUIET)


def once_trained(cell: Cell, name: str, tune_recipe: str, config: str, *overrides: str) -> Path:
    """The exported model of a run, which is trained unless it already exists."""
    out = cell.scratch.parent / "starts" / f"{name}_{cell.seed}"
    with _ONE_AT_A_TIME:
        if not (out / "model" / "config.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            recipe(tune_recipe, config, f"output_dir={out}", f"seed={cell.seed}", *overrides)
    return out / "model"


def unseen(cell: Cell, count: int, *styles: str) -> list[str]:
    """Overrides to train on `count` generated problems that neither start nor teacher has seen, different per seed.

    Each style has an equal number of them. None is a held-out problem, and held-out losses are measured on plain
    problems with all their labels.
    """
    path = cell.scratch.parent / "starts" / f"{'_'.join(styles)}_{count}_{cell.seed}.jsonl"
    with _ONE_AT_A_TIME:
        if not path.exists():
            share = count // len(styles)
            told = [
                problem
                for place, style in enumerate(styles, start=1)
                for problem in make_problems(split="train", count=share, seed=1000 * place + cell.seed, style=style)
            ]
            rows = [json.dumps({"prompt": p.question, "completion": p.response}) + "\n" for p in told]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(rows).encode())
    return [
        *(f"dataset.source={path}", "dataset.subset=null", "dataset.max_rows=null"),
        *("dataset_val.source=generated", "dataset_val.subset=null", "dataset_val.transforms={}"),
    ]
