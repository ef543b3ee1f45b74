"""Problems told by several teachers, and a beginner who has heard all of them: where studies of selectors start."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from cot_components.cli.shipped import recipe_for
from cot_components.data.generated.task_families import Step, tell_plainly
from cot_components.data.generated.tasks import make_problems
from cot_components.training.recipe import read_config
from experiments.runner import recipe
from experiments.starts import QUIET, once_trained
from experiments.study import Cell

KNOWN, NEW = 3200, 1600
"""Problems the beginner has seen, each told by one teacher; and those that are told by all."""
CONFIG = "bt_sft/quickstart"
PLAIN = ["dataset.transforms.blur.ratio=0"]
_ONE_AT_A_TIME = Lock()


def tell_tersely(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """Nothing but the steps."""
    return " ".join(f"{step.expression} : {step.value}." for step in steps)


def tell_backwards(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """The last step first: a number must be known before it has been worked out."""
    told = [f"{step.value} because of {step.expression}." for step in reversed(steps)]
    return " ".join([f"It must be {answer}.", *told])


Tell = Callable[[Sequence[Step], str, np.random.Generator], str]
TEACHERS: Mapping[str, Tell] = {"plain": tell_plainly, "terse": tell_tersely, "backwards": tell_backwards}


def told(path: Path, *, seed: int, by_all: bool) -> Path:
    """A file of the new problems, each told by all teachers; or of those before, each by the next teacher in turn."""
    if path.exists():
        return path
    problems = make_problems(split="train", count=KNOWN + NEW, seed=seed)
    rng, tellers, lines = np.random.default_rng(seed), list(TEACHERS.values()), []
    for number, problem in enumerate(problems[KNOWN:] if by_all else problems[:KNOWN]):
        for tell in tellers if by_all else [tellers[number // 4 % len(tellers)]]:  # families take turns, by four
            thought = tell(problem.steps, problem.answer, rng)
            response = f"<think>\n{thought}\n</think>\n\nAnswer: {problem.answer}"
            row = {"instruction": problem.question, "response": response}
            lines.append(json.dumps(row) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def beginner(cell: Cell) -> Path:
    """A model that has seen the known problems twice and solves some."""
    data = told(cell.scratch.parent / "starts" / f"known_{cell.seed}.jsonl", seed=cell.seed, by_all=False)
    source = [f"dataset.source={data}", "dataset.max_rows=null", "epochs=2"]
    return once_trained(cell, "beginner", "bt_sft", CONFIG, *QUIET, *PLAIN, *source)


def from_beginner(cell: Cell) -> list[str]:
    """What makes a run start from it, for a short while."""
    sizes = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "intermediate_dim", "rope_base")
    return [
        "model=cot_components.models.from_folder",
        f"model.path={beginner(cell)}",
        *(f"~model.{size}" for size in sizes),
        *("optimizer.lr=1e-3", "lr_scheduler.num_warmup_steps=10", "evaluate_before_training=false"),
        "dataset_val={source: generated, split: held_out, max_rows: 120, transforms: {}}",
        *("evaluate_every_n_steps=null", f"seed={cell.seed}", *PLAIN),
    ]


def scored(cell: Cell, data: Sequence[str]) -> Path:
    """Scores of a seed's rows under its beginner, in the folder that all arms share."""
    from cot_components.tools.score import score_config

    out = cell.scratch / f"scores_{cell.setting}_{cell.seed}".replace(" ", "_")
    with _ONE_AT_A_TIME:
        words = ["--config", CONFIG, f"output_dir={out}", *from_beginner(cell), *data]
        chosen = recipe_for(CONFIG, asked="bt_sft")
        score_config(read_config(chosen.main, words, chosen.supplies), out=out, measures=("nll", "entropy"))
    return out


def adapted(cell: Cell, *overrides: str) -> dict[str, float]:
    """Held-out figures of the beginner after a run on what the overrides say."""
    from cot_components.evaluation.compare import last_evaluation

    out = cell.fresh_folder()
    recipe("bt_sft", CONFIG, f"output_dir={out}", *from_beginner(cell), *overrides)
    result = last_evaluation(out)
    assert result.answer_accuracy is not None
    return {"accuracy": result.answer_accuracy, **result.losses}
