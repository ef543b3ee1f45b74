"""Runs side by side: what each found in the end, and how much more one answers right than another."""

from __future__ import annotations

from pathlib import Path

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.evaluation.statistics import Difference, paired_difference


def last_evaluation(run_dir: Path) -> Evaluation:
    """The evaluation of the highest step that a run saved.

    Raises:
        UserError: the folder holds none.
    """
    saved = _saved(run_dir)
    return read_evaluation(saved[max(saved)])


def first_and_last(run_dir: Path) -> dict[str, Evaluation]:
    """A run's evaluations of the lowest and the highest step, by name: `before` for step 0, else `step 200`.

    Raises:
        UserError: the folder holds none.
    """
    saved = _saved(run_dir)
    ends = dict.fromkeys((min(saved), max(saved)))
    return {f"step {step:,}" if step else "before": read_evaluation(saved[step]) for step in ends}


def _saved(run_dir: Path) -> dict[int, Path]:
    saved = saved_evaluations(run_dir)
    if not saved:
        raise UserError(f"{run_dir} holds no evaluation; is it the output_dir of a finished run?")
    return saved


def accuracy_difference(first: Evaluation, second: Evaluation) -> Difference | None:
    """How much higher the accuracy of `second` is on the examples that both answered; None where they share none.

    An example is the same where its place in the source, its prompt and its reference answer are.
    """
    scores = [{_question(samples[0]): _score(samples) for samples in e.scored} for e in (first, second)]
    shared = [question for question in scores[0] if question in scores[1]]
    return paired_difference(*([of_run[q] for q in shared] for of_run in scores)) if shared else None


def _question(example: Example) -> tuple:
    return example.where, example.reference, tuple((turn["role"], turn["content"]) for turn in example.prompt)


def _score(samples: tuple[Example, ...]) -> float:
    return sum(bool(sample.correct) for sample in samples) / len(samples)
