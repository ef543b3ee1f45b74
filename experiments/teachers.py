"""Problems told by several teachers, and a beginner who has heard all of them: where studies of selectors start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from threading import RLock

import numpy as np

from cot_components.cli.shipped import recipe_for
from cot_components.data.generated.task_families import Step, tell_plainly
from cot_components.data.generated.tasks import Problem, make_problems
from cot_components.files import write_whole
from cot_components.training.recipe import read_config
from experiments.measures import outcome
from experiments.runner import recipe
from experiments.starts import QUIET, once_trained
from experiments.study import SEARCH_SEED, Cell

FAMILIES = ("chain",)
KNOWN, NEW, HELD_OUT = 3200, 1600, 240
"""Problems the beginner has seen, each told by one teacher; new ones; and those that are asked in the end."""
CONFIG = "bt_sft/quickstart"
PLAIN = ["dataset.transforms.blur.ratio=0"]
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of which each arm takes the best: the one with the fewest wrong answers to validation problems."""
_ONE_AT_A_TIME = RLock()  # scores need the held-out file, which has its turn, too


def tell_tersely(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """Nothing but the steps."""
    return " ".join(f"{step.expression} : {step.value}." for step in steps)


def tell_backwards(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """The last step first: a number must be known before it has been worked out."""
    told = [f"{step.value} because of {step.expression}." for step in reversed(steps)]
    return " ".join([f"It must be {answer}.", *told])


Tell = Callable[[Sequence[Step], str, np.random.Generator], str]
TEACHERS: Mapping[str, Tell] = {"plain": tell_plainly, "terse": tell_tersely, "backwards": tell_backwards}


def known_problems(seed: int) -> list[Problem]:
    """What the beginner of a seed has seen."""
    return make_problems(split="train", count=KNOWN, seed=seed, families=FAMILIES)


def new_problems(seed: int, count: int, *, style: str = "plain") -> list[Problem]:
    """So many that it has not: a style draws other problems, and some of them come again."""
    known = {problem.question for problem in known_problems(seed)}
    drawn = make_problems(split="train", count=KNOWN + 2 * count, seed=seed, families=FAMILIES, style=style)
    return [problem for problem in drawn if problem.question not in known][:count]


def told(path: Path, problems: Sequence[Problem], *, seed: int, by: Sequence[str], turns: bool = False) -> Path:
    """A file with these problems, each told by all these teachers, or by one of them in turn."""
    if path.exists():
        return path
    rng, lines = np.random.default_rng(seed), []
    for number, problem in enumerate(problems):
        for name in [by[number % len(by)]] if turns else by:
            thought = TEACHERS[name](problem.steps, problem.answer, rng)
            response = f"<think>\n{thought}\n</think>\n\nAnswer: {problem.answer}"
            lines.append(json.dumps({"instruction": problem.question, "response": response}) + "\n")
    write_once(path, "".join(lines))
    return path


def write_once(path: Path, text: str) -> None:
    """A file that is whole whenever it is there: a study may be stopped at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def held_out(cell: Cell) -> list[str]:
    """Where runs take their held-out problems from; those that learning rates are chosen by ask others."""
    searching = cell.seed == SEARCH_SEED
    path = cell.scratch.parent / "starts" / ("validation.jsonl" if searching else "held_out.jsonl")
    problems = make_problems(split="held_out", count=HELD_OUT, families=FAMILIES)
    if searching:
        asked = {problem.question for problem in problems}
        others = make_problems(split="held_out", count=2 * HELD_OUT, seed=1, families=FAMILIES)
        problems = [problem for problem in others if problem.question not in asked][:HELD_OUT]
    rows = ({"instruction": p.question, "response": p.response, "answer": p.answer} for p in problems)
    with _ONE_AT_A_TIME:
        if not path.exists():
            write_once(path, "".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"dataset_val={{source: {path}, split: train, max_rows: {HELD_OUT // 2}, transforms: {{}}}}",
        *(f"evaluation.source={path}", "evaluation.split=train", "evaluation.max_new_tokens=72"),
    ]


def beginner(cell: Cell) -> Path:
    """A model that has seen the known problems four times and solves some."""
    path = cell.scratch.parent / "starts" / f"known_{cell.seed}.jsonl"
    data = told(path, known_problems(cell.seed), seed=cell.seed, by=list(TEACHERS), turns=True)
    source = [f"dataset.source={data}", "dataset.max_rows=null", "epochs=4"]
    return once_trained(cell, "beginner", "bt_sft", CONFIG, *QUIET, *PLAIN, *source)


def from_beginner(cell: Cell) -> list[str]:
    """What makes a run start from it, for a short while."""
    sizes = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "intermediate_dim", "rope_base")
    return [
        "model=cot_components.models.from_folder",
        f"model.path={beginner(cell)}",
        *(f"~model.{size}" for size in sizes),
        *(f"optimizer.lr={cell.rate or RATES[1]}", "lr_scheduler.num_warmup_steps=10"),
        *("evaluate_before_training=false", *held_out(cell)),
        *("evaluate_every_n_steps=null", f"seed={cell.seed}", *PLAIN),
    ]


def scored(cell: Cell, data: Sequence[str]) -> Path:
    """Scores of a seed's rows under its beginner, in the folder that all arms share."""
    from cot_components.tools.score import score_config

    out = cell.scratch / f"scores_{cell.setting}_{cell.seed}".replace(" ", "_")
    with _ONE_AT_A_TIME:
        words = ["--config", CONFIG, f"output_dir={out}", *from_beginner(cell._replace(rate=None)), *data]
        chosen = recipe_for(CONFIG, asked="bt_sft")
        score_config(read_config(chosen.main, words, chosen.supplies), out=out, measures=("nll", "entropy"))
    return out


def filled(words: Sequence[str], cell: Cell, data: Sequence[str]) -> list[str]:
    """Overrides with `$scores` (see `scored`) and `$seed` filled in."""
    values = {"scores": scored(cell, data), "seed": cell.seed}
    return [Template(word).substitute(values) for word in words]


def adapted(cell: Cell, *overrides: str) -> dict[str, float]:
    """Held-out figures of the beginner after a run on what the overrides say."""
    from cot_components.evaluation.compare import last_evaluation

    out = cell.fresh_folder()
    recipe("bt_sft", CONFIG, f"output_dir={out}", *from_beginner(cell), *overrides)
    result = last_evaluation(out)
    shutil.rmtree(out)
    figures = outcome(result)
    return {**figures, "wrong": 1 - figures["accuracy"]}
