"""Which model does most with a budget of thought tokens? Plain fine-tuning, thoughts cut at random, thoughts pruned.

| arm | thoughts it learns, from random weights, all of `make quickstart` |
|---|---|
| sft | whole |
| truncate | cut after 0 to 32 tokens, another number in every epoch, with no label on the close tag there |
| prune, entropy | without half of their sentences: those with the lowest summed entropy (arXiv 2508.03346) |
| prune, random | without a random half of their sentences |

Entropies are those of a model that has learnt the tasks from whole thoughts. Every model answers 240 held-out questions
as it likes, and with its thought closed after 8, 16 and 24 tokens. A model may think on behind the close tag that was
written for it, so an answer counts within a budget if it is right and follows that tag at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cot_components.cli.shipped import recipe_for
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.saved import read_evaluation
from cot_components.runs.layout import EVALUATION
from cot_components.training.recipe import read_config
from experiments.runner import recipe
from experiments.starts import QUIET, teacher
from experiments.study import Cell, Study

CONFIG = "bt_sft/quickstart"
BUDGETS = (8, 16, 24)
PLAIN = ["dataset.transforms.blur=null"]
SENTENCES = "ratio: 0.5, unit: step, step_end: '.', tokenizer: '${tokenizer}'"


def arms(cell: Cell) -> list[str]:
    """Overrides of `bt_sft/quickstart`."""
    if cell.arm == "truncate":
        shorter = "_component_: cot_components.transforms.Truncate, at_least: 0, at_most: 32"
    elif cell.arm == "prune, entropy":
        shorter = f"_component_: cot_components.transforms.Prune, scores: {_scores(cell)}, {SENTENCES}"
    elif cell.arm == "prune, random":
        shorter = f"_component_: cot_components.transforms.Prune, order: random, seed: {cell.seed}, {SENTENCES}"
    else:
        return PLAIN
    return [*PLAIN, f"dataset.transforms.shorter={{{shorter}}}"]


def _scores(cell: Cell) -> Path:
    """Entropies of the training rows under a model that has learnt them."""
    from cot_components.tools.score import score_config

    chosen, out = recipe_for(CONFIG, asked="bt_sft"), cell.scratch / f"scores_{cell.seed}"
    words = ["--config", CONFIG, f"seed={cell.seed}", f"output_dir={out}"]
    values = read_config(chosen.main, words, chosen.supplies)
    score_config(values, model=teacher(cell), out=out, measures=("entropy",))
    return out


def cell(cell: Cell) -> Mapping[str, float]:
    """Train one model; ask it without a budget, then with each."""
    out, figures = cell.fresh_folder(), {}
    recipe("bt_sft", CONFIG, *QUIET, f"output_dir={out}", f"seed={cell.seed}", *arms(cell))
    for budget in BUDGETS:
        asked = _ask(out, f"evaluation.max_thought_tokens={budget}")
        at_once = [bool(example.correct and example.format_ok) for example in asked.examples]
        figures[f"within_{budget}"] = sum(at_once) / len(at_once)
        figures |= {f"{name}_{budget}": value for name, value in _figures(asked).items()}
    figures |= _figures(_ask(out))
    shutil.rmtree(out)
    return figures


def _ask(out: Path, *budget: str) -> Evaluation:
    asked = out / "asked"
    shutil.rmtree(asked, ignore_errors=True)
    recipe("cot_eval", "cot_eval/quickstart", f"model.path={out / 'model'}", f"output_dir={asked}", *budget)
    return read_evaluation(asked / EVALUATION)


def _figures(asked: Evaluation) -> dict[str, float]:
    assert asked.answer_accuracy is not None and asked.thought_tokens is not None
    return {"accuracy": asked.answer_accuracy, "thought_tokens": asked.thought_tokens}


METRICS = {f"within_{budget}": f"right within {budget} tokens of thought" for budget in BUDGETS}
STUDY = Study(
    name="shrink",
    question="Which model does most with a budget of thought tokens?",
    about=__doc__,
    model="Llama, 2 layers, width 96, random weights",
    effect=("within_16", "truncate", "tasks"),
    arms=("sft", "truncate", "prune, entropy", "prune, random"),
    settings=("tasks",),
    setting_label="data",
    metrics={**METRICS, "accuracy": "right, without a budget", "thought_tokens": "mean length of thoughts, tokens"},
    percent=(*METRICS, "accuracy"),
    cell=cell,
    seeds=3,
)
