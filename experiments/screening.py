"""Which tasks can tell methods apart on SmolLM2-135M: how its starts answer before any method has trained them.

Instruct is the unchanged model; taught has been trained for 20 steps of 512 tokens on the task. 100 held-out questions.
Studies of SmolLM2 run only if the taught start is right in 10 to 70 %. The lines of results also hold the accuracy of
each family of small problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cot_components.data.generated.task_families import FAMILIES
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.saved import read_evaluation
from experiments.measures import calls
from experiments.real import CALLS, CPU, caller, instruct, taught
from experiments.runner import recipe
from experiments.study import Cell, Study

TASKS: Mapping[str, tuple[Callable[[Cell], Path], Sequence[str]]] = {
    "problems": (taught, ["evaluation.extractor=last_number"]),
    "calls": (caller, CALLS),
}


def cell(cell: Cell) -> Mapping[str, float]:
    """The accuracy of one start."""
    start, asked = TASKS[cell.setting]
    model, out = (instruct if cell.arm == "instruct" else start)(cell), cell.fresh_folder()
    asked = [*asked, f"evaluation.max_rows={CPU.questions}", "evaluation.batch_size=50"]
    recipe("cot_eval", "cot_eval/quickstart", f"model.path={model}", f"output_dir={out}", *asked)
    result = read_evaluation(out / "evaluation.json")
    assert result.answer_accuracy is not None
    apart = families(result) if cell.setting == "problems" else calls(result)
    return {"accuracy": result.answer_accuracy, **apart}


def families(result: Evaluation) -> dict[str, float]:
    """Accuracy by family; the questions cycle through the families."""
    right = [bool(example.correct) for example in result.examples]
    turns = {name: right[place :: len(FAMILIES)] for place, name in enumerate(FAMILIES)}
    return {name: sum(found) / len(found) for name, found in turns.items() if found}


STUDY = Study(
    name="screening",
    question="Which tasks have a signal on SmolLM2-135M?",
    about=__doc__,
    model="SmolLM2-135M-Instruct",
    effect=("accuracy", "taught", "problems"),
    arms=("instruct", "taught"),
    settings=tuple(TASKS),
    setting_label="task",
    metrics={"accuracy": "right before a method is tried"},
    percent=("accuracy",),
    cell=cell,
    seeds=1,
    jobs=1,
    needs="15 minutes of one core",
)
