"""Questions whose answers changed: over the evaluations of a run, or from run to run. Of several samples, the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cot_components.evaluation.compare import question
from cot_components.evaluation.evaluate import Evaluation, Example

NO_REFERENCE = "no reference"
TURNS = ("wrong, then right", "right, then wrong", "still wrong", "right", NO_REFERENCE)
"""Kinds of a question over a run. Right before and wrong at the end is the second, also when it was wrong at first."""


class Asked(NamedTuple):
    """A question with what was answered: by step, or by run."""

    kind: str
    answers: dict[str, Example]


def turns(evaluations: Mapping[str, Evaluation]) -> list[Asked]:
    """The questions of a run's last evaluation with the answers of all of them, by name, in order."""
    asked = [(name, _first_samples(evaluation)) for name, evaluation in evaluations.items() if evaluation.examples]
    found = []
    for key in asked[-1][1] if asked else ():
        answers = {name: examples[key] for name, examples in asked if key in examples}
        found.append(Asked(_turn([example.correct for example in answers.values()]), answers))
    return found


def _turn(correct: Sequence[bool | None]) -> str:
    *before, last = correct
    if last is None:
        return NO_REFERENCE
    if last:
        return "wrong, then right" if before and not before[0] else "right"
    return "right, then wrong" if any(before) else "still wrong"


def disagreements(evaluations: Mapping[str, Evaluation]) -> list[Asked]:
    """The questions that all of the runs answered, those on which they differ first."""
    asked = {name: _first_samples(evaluation) for name, evaluation in evaluations.items() if evaluation.examples}
    found = []
    for key in next(iter(asked.values()), {}):
        if all(key in examples for examples in asked.values()):
            answers = {name: examples[key] for name, examples in asked.items()}
            found.append(Asked(_agreement(answers), answers))
    return sorted(found, key=lambda one: len({example.correct for example in one.answers.values()}) == 1)


def _agreement(answers: Mapping[str, Example]) -> str:
    right = [name for name, example in answers.items() if example.correct]
    if any(example.correct is None for example in answers.values()):
        return NO_REFERENCE
    if not right:
        return "wrong in all"
    if len(right) == len(answers):
        return "right in all"
    return f"right in {right[0]} alone" if len(right) == 1 else "right in some"


def _first_samples(evaluation: Evaluation) -> dict[tuple, Example]:
    return {question(samples[0]): samples[0] for samples in evaluation.by_trace}
