"""Answers as cards on a page, which a reader can filter by kind; the page shows a few of them at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cot_components.evaluation.evaluate import Example
from cot_components.evaluation.turns import TURNS, Asked
from cot_components.viz.page import part

CARDS_SHOWN = 20
"""Cards on the page at once; at most 200 are allowed."""


class Samples(NamedTuple):
    """Cards, and the kinds to choose from.

    cards: kind and HTML of each; the script takes the cards it shows later from here
    kinds: each kind with its number of cards
    """

    cards: list[tuple[str, str]]
    kinds: list[tuple[str, int]]
    shown: int = CARDS_SHOWN


def samples_of_run(asked: Sequence[Asked]) -> Samples | None:
    """A run's questions with the first and the last answer, and when the verdict changed."""
    cards = []
    for kind, answers in asked:
        ends = list(answers) if len(answers) == 1 else [next(iter(answers)), list(answers)[-1]]
        verdicts = _stretches((name, example.correct) for name, example in answers.items())
        shown = verdicts if len(answers) > 2 and len(verdicts) > 1 else []
        cards.append((kind, _card({name: answers[name] for name in ends}, shown)))
    return _samples(cards, TURNS)


def samples_of_runs(asked: Sequence[Asked]) -> Samples | None:
    """Questions with the answer of every run."""
    return _samples([(kind, _card(answers, [])) for kind, answers in asked], ())


def _card(answers: dict[str, Example], verdicts: list[tuple[str, bool | None]]) -> str:
    prompt = "\n".join(message["content"] for message in next(iter(answers.values())).prompt)
    return part("card.jinja", prompt=prompt, answers=answers, verdicts=verdicts)


def _stretches(verdicts: Iterable[tuple[str, bool | None]]) -> list[tuple[str, bool | None]]:
    """The evaluations at which the verdict changed."""
    changes: list[tuple[str, bool | None]] = []
    for name, correct in verdicts:
        if not changes or changes[-1][1] != correct:
            changes.append((name, correct))
    return changes


def _samples(cards: list[tuple[str, str]], order: Sequence[str]) -> Samples | None:
    if not cards:
        return None
    counts = Counter(kind for kind, _ in cards)
    known = [kind for kind in order if kind in counts]
    return Samples(cards, [(kind, counts[kind]) for kind in (*known, *(k for k in counts if k not in known))])
