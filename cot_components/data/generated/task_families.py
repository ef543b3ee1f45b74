"""The families of the embedded tasks, and the styles that turn their steps into a thought.

A family draws an exercise: a question, the steps to its answer, the answer. A style turns steps into a thought. The two
are independent, so a study can write one exercise in two styles, or with steps it has made wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

NAMES = ("Ben", "Tom", "Ida", "Zoe", "Leo", "Ann", "Max", "Eva")
THINGS = ("apples", "coins", "books", "cards")
HIGHEST, LARGEST_CHANGE = 20, 12
"""Numbers stay in 0..20 and every sum or difference occurs under many names, so a very small model can learn them all
within minutes; held-out problems combine them in new ways.
"""


class Step(NamedTuple):
    """One thing to work out: `expression` ("34 + 5") has the value `value` ("39")."""

    expression: str
    value: str


class Exercise(NamedTuple):
    """What a family draws."""

    question: str
    steps: tuple[Step, ...]
    answer: str


Family = Callable[[np.random.Generator], Exercise]
Option = TypeVar("Option")


def _pick(rng: np.random.Generator, *options: Option) -> Option:
    return options[int(rng.integers(len(options)))]


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    """Uniform integer, both ends included."""
    return int(rng.integers(low, high + 1))


def _names(rng: np.random.Generator, count: int) -> list[str]:
    return [NAMES[i] for i in rng.choice(len(NAMES), size=count, replace=False)]


def _signed(change: int) -> str:
    return f"{'+' if change > 0 else '-'} {abs(change)}"


def _running_total(start: int, *changes: int) -> tuple[Step, ...]:
    """`34, +5, -8` as the steps `34 + 5` is `39` and `39 - 8` is `31`."""
    steps = []
    for change in changes:
        steps.append(Step(f"{start} {_signed(change)}", str(start + change)))
        start += change
    return tuple(steps)


def _in_range(steps: Sequence[Step]) -> bool:
    return all(0 <= int(step.value) <= HIGHEST for step in steps)


def _changes_in_range(rng: np.random.Generator, *signs: int) -> tuple[int, list[int], tuple[Step, ...]]:
    """A start, one change per sign, and the steps from one to the other, none outside 0..20; drawn until that holds."""
    while True:
        start = _draw(rng, 1, HIGHEST)
        changes = [sign * _draw(rng, 1, LARGEST_CHANGE) for sign in signs]
        steps = _running_total(start, *changes)
        if _in_range(steps):
            return start, changes, steps


def chain(rng: np.random.Generator) -> Exercise:
    """A number and two changes."""
    start, changes, steps = _changes_in_range(rng, _pick(rng, -1, 1), _pick(rng, -1, 1))
    ask = _pick(rng, "What is {}?", "Compute {}.", "Please work out {}.")
    return Exercise(ask.format(" ".join([str(start), *map(_signed, changes)])), steps, steps[-1].value)


def compare(rng: np.random.Generator) -> Exercise:
    """How many more one person has than the other."""
    small = _draw(rng, 1, LARGEST_CHANGE)
    large = _draw(rng, small + 1, HIGHEST)
    owners, counts, things = _names(rng, 2), _pick(rng, (small, large), (large, small)), _pick(rng, *THINGS)
    more, fewer = owners[counts.index(large)], owners[counts.index(small)]
    told = f"{owners[0]} has {counts[0]} {things} and {owners[1]} has {counts[1]}."
    ask = _pick(rng, f"How many more does {more} have?", f"How many {things} more than {fewer} does {more} have?")
    steps = (Step(f"the larger of {counts[0]} and {counts[1]}", str(large)), *_running_total(large, -small))
    return Exercise(f"{told} {ask}", steps, steps[-1].value)


def story(rng: np.random.Generator) -> Exercise:
    """Someone has a number of things, gets some and loses some others."""
    first, second = _pick(rng, (1, -1), (-1, 1))
    start, changes, steps = _changes_in_range(rng, first, second)
    name, things = _pick(rng, *NAMES), _pick(rng, *THINGS)
    verbs = [_pick(rng, "finds", "buys", "gets") if n > 0 else _pick(rng, "loses", "sells", "eats") for n in changes]
    told = " and then ".join(f"{verb} {abs(change)}" for verb, change in zip(verbs, changes, strict=True))
    return Exercise(f"{name} has {start} {things}, {told}. How many {things} are left?", steps, steps[-1].value)


def shopping(rng: np.random.Generator) -> Exercise:
    """How much money is left after buying several things at one price: a product, then a difference."""
    while True:
        count, price = _draw(rng, 2, 6), _draw(rng, 2, 6)
        if count * price <= LARGEST_CHANGE:
            break
    money = _draw(rng, count * price + 1, HIGHEST)
    name, things = _pick(rng, *NAMES), _pick(rng, *THINGS)
    told = f"{name} has {money} dollars and buys {count} {things} for {price} dollars each."
    steps = (Step(f"{count} * {price}", str(count * price)), *_running_total(money, -count * price))
    return Exercise(f"{told} How many dollars are left?", steps, steps[-1].value)


FAMILIES: dict[str, Family] = {"chain": chain, "compare": compare, "story": story, "shopping": shopping}

OPENERS = ("Okay, let me see.", "Hmm, let me think.", "Let me see.")
CONNECTORS = ("Then", "Next,", "Now")
CLOSERS = ("So the answer is {}.", "So it is {}.", "So I get {}.")


def tell_plainly(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """A person thinking aloud: an opener, a sentence per step, a conclusion, each in one of several wordings."""
    sentences = [_pick(rng, *OPENERS)]
    for i, step in enumerate(steps):
        connector = _pick(rng, *CONNECTORS) if i else "First,"
        relation = "=" if step.expression[0].isdigit() else "is"
        sentences.append(f"{connector} {step.expression} {relation} {step.value}.")
    return " ".join([*sentences, _pick(rng, *CLOSERS).format(answer)])


def tell_at_length(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """A wordier teacher: begins at the end, says where its numbers come from, checks every step."""
    sentences = [_pick(rng, "Alright, this calls for some care.", "This one deserves a closer look.")]
    sentences.append(f"What we need in the end is {steps[-1].expression}.")
    for step in steps[:-1]:
        sentences.append(_pick(rng, "To get there, consider", "Before that comes") + f" {step.expression}.")
    for step in steps:
        sentences.append(_pick(rng, "Working it out gives", "That comes to") + f" {step.value}.")
        sentences.append(_pick(rng, "Let me double-check:", "To be sure:") + f" {step.expression} makes {step.value}.")
    return " ".join([*sentences, _pick(rng, "All things considered,", "Putting it all together,") + f" {answer}."])


Tell = Callable[[Sequence[Step], str, np.random.Generator], str]
"""(steps, answer, generator) -> thought"""


def _as_it_is(exercise: Exercise, rng: np.random.Generator) -> Exercise:
    return exercise


class Style(NamedTuple):
    """How an exercise becomes a demonstration. change: what happens to it first; tell: its thought."""

    tell: Tell
    change: Callable[[Exercise, np.random.Generator], Exercise] = _as_it_is


MISTAKEN_SHARE, SLIP_SHARE = 0.6, 0.3


def with_mistakes(exercise: Exercise, rng: np.random.Generator) -> Exercise:
    """The same exercise, with a last step that is one too high in `MISTAKEN_SHARE` of all cases.

    The mistake is always the same and more frequent than the right value, so plain SFT is bound to learn it.
    """
    if rng.random() >= MISTAKEN_SHARE:
        return exercise
    *steps, last = exercise.steps
    return exercise._replace(steps=(*steps, one_too_high(last)), answer=one_too_high(last).value)


def with_slips(exercise: Exercise, rng: np.random.Generator) -> Exercise:
    """The same exercise with a wrong intermediate step in `SLIP_SHARE` of all cases; later steps and the answer are
    right.
    """
    if rng.random() >= SLIP_SHARE or len(exercise.steps) < 2:
        return exercise
    slip = _draw(rng, 0, len(exercise.steps) - 2)
    return exercise._replace(steps=tuple(one_too_high(s) if i == slip else s for i, s in enumerate(exercise.steps)))


def one_too_high(step: Step) -> Step:
    """The step with a wrong value."""
    return step._replace(value=str(int(step.value) + 1))


STYLES = {
    "plain": Style(tell_plainly),
    "mistaken": Style(tell_plainly, with_mistakes),
    "slips": Style(tell_plainly, with_slips),
    "verbose": Style(tell_at_length),
}
