"""Compare the evaluations of runs: the last of each, and differences in accuracy."""

from __future__ import annotations

from pathlib import Path

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.evaluation.statistics import Difference, paired_difference
from cot_components.runs.layout import EVALUATION


def named_evaluations(run_dir: Path) -> dict[str, Path]:
    """The files of a run's evaluations in order: `before` training, then `step 10` ...; or the one of `cot_eval`."""
    found = {f"step {step:,}" if step else "before": path for step, path in saved_evaluations(run_dir).items()}
    alone = run_dir / EVALUATION
    return found or ({"evaluation": alone} if alone.is_file() else {})


def last_evaluation(run_dir: Path) -> Evaluation:
    """The evaluation of the highest step that a run saved.

    Raises:
        UserError: the folder holds none.
    """
    return list(first_and_last(run_dir).values())[-1]


def first_and_last(run_dir: Path) -> dict[str, Evaluation]:
    """The first and the last of a run's evaluations, by name; if there is only one, that one.

    Raises:
        UserError: the folder holds none.
    """
    saved = named_evaluations(run_dir)
    if not saved:
        raise UserError(f"{run_dir} has no evaluation; is it the output_dir of a finished run?")
    names = list(saved)
    return {name: read_evaluation(saved[name]) for name in dict.fromkeys((names[0], names[-1]))}


def accuracy_difference(first: Evaluation, second: Evaluation) -> Difference | None:
    """How much higher the accuracy of `second` is, on the examples that both answered; None if there are none.

    Examples are the same if their place in the source, prompt and reference answer are equal.
    """
    scores = [{question(samples[0]): _score(samples) for samples in e.scored} for e in (first, second)]
    shared = [question for question in scores[0] if question in scores[1]]
    return paired_difference(*([of_run[q] for q in shared] for of_run in scores)) if shared else None


def question(example: Example) -> tuple:
    """What makes two examples the same: place in the source, reference answer, prompt."""
    return example.where, example.reference, tuple((turn["role"], turn["content"]) for turn in example.prompt)


def _score(samples: tuple[Example, ...]) -> float:
    return sum(bool(sample.correct) for sample in samples) / len(samples)
