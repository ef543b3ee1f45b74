"""The families of the embedded tasks, and the styles in which their steps are told as a thought.

A family draws an exercise: a question, the steps to its answer, the answer. A style turns steps into a thought. Neither
knows the other, so a study can tell one exercise in two styles, or tell steps it has made wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

NAMES = (
    *("Ben", "Tom", "Max", "Leo", "Ida", "Bob", "Zoe", "Ted", "Ray", "Jack"),
    *("Ruth", "Luis", "Noor", "Carl", "Matt", "Greg", "Rui", "Lev", "Olaf", "Philip"),
)
"""Every last letter is another one."""
THINGS = ("apples", "coins", "books", "cards", "shells", "stamps")


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
Style = Callable[[Sequence[Step], str, np.random.Generator], str]
"""(steps, answer, generator) -> thought"""

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


def _take_away(start: int, amount: int) -> tuple[Step, ...]:
    """Tens first, then ones: `52 - 38` as `52 - 30` is `22` and `22 - 8` is `14`."""
    return _running_total(start, *(-part for part in (amount // 10 * 10, amount % 10) if part))


def chain(rng: np.random.Generator) -> Exercise:
    """A number of two digits and two or three small changes."""
    start = _draw(rng, 28, 72)
    changes = [_draw(rng, 1, 9) * _pick(rng, -1, 1) for _ in range(_draw(rng, 2, 3))]
    steps = _running_total(start, *changes)
    ask = _pick(rng, "What is {}?", "Compute {}.", "Please work out {}.")
    return Exercise(ask.format(" ".join([str(start), *map(_signed, changes)])), steps, steps[-1].value)


def compare(rng: np.random.Generator) -> Exercise:
    """Who has more, and by how many: the answer is a name and a difference."""
    small, difference = _draw(rng, 11, 69), _draw(rng, 1, 30)
    large = small + difference
    owners, counts = _names(rng, 2), _pick(rng, (small, large), (large, small))
    ask = _pick(
        rng,
        "{0} has {1} {4} and {2} has {3}. Who has more, and by how many?",
        "Who has more, {0} with {1} {4} or {2} with {3}, and by how many?",
    )
    steps = (Step(f"the larger of {counts[0]} and {counts[1]}", str(large)), *_take_away(large, small))
    question = ask.format(owners[0], counts[0], owners[1], counts[1], _pick(rng, *THINGS))
    return Exercise(question, steps, f"{owners[counts.index(large)]} by {difference}")


def story(rng: np.random.Generator) -> Exercise:
    """Somebody owns a number of things, gets some and loses some others."""
    start, gain = _draw(rng, 20, 79), _draw(rng, 1, 9)
    loss = _pick(rng, *(n for n in range(1, 10) if n != gain))
    name, things = _pick(rng, *NAMES), _pick(rng, *THINGS)
    events = [
        (gain, _pick(rng, "finds {} more", "buys {} more", "gets {} more")),
        (-loss, _pick(rng, "loses {}", "sells {}", "gives {} away")),
    ]
    if _pick(rng, True, False):
        events.reverse()
    told = ", then ".join(event.format(abs(change)) for change, event in events)
    steps = _running_total(start, *(change for change, _ in events))
    question = f"{name} has {start} {things}, {told}. How many {things} are left?"
    return Exercise(question, steps, steps[-1].value)


def shopping(rng: np.random.Generator) -> Exercise:
    """What several things at one price leave of somebody's money: a product, then a difference."""
    count, price = _draw(rng, 2, 9), _draw(rng, 2, 9)
    money = _draw(rng, count * price + 1, 99)
    ask = _pick(
        rng,
        "{0} has {1} dollars and buys {2} {3} for {4} dollars each. How many dollars are left?",
        "How many of {1} dollars are left if {0} buys {2} {3} for {4} dollars each?",
    )
    question = ask.format(_pick(rng, *NAMES), money, count, _pick(rng, *THINGS), price)
    steps = (Step(f"{count} * {price}", str(count * price)), *_take_away(money, count * price))
    return Exercise(question, steps, steps[-1].value)


def sequence(rng: np.random.Generator) -> Exercise:
    """The next number of an evenly spaced sequence, rising or falling."""
    gap, num_shown = _draw(rng, 2, 9), _draw(rng, 3, 4)
    lowest = _draw(rng, 1, 99 - gap * num_shown)
    terms = [lowest + gap * i for i in range(num_shown + 1)]
    if _pick(rng, True, False):
        terms.reverse()
    ask = _pick(
        rng,
        "What is next: {}?",
        "What is the next number after {}?",
        "{}: what is the next number?",
        "Please continue {}.",
    )
    shown = terms[:num_shown]
    steps = (*_running_total(max(shown[:2]), -min(shown[:2])), *_running_total(shown[-1], terms[-1] - shown[-1]))
    return Exercise(ask.format(", ".join(map(str, shown))), steps, steps[-1].value)


def last_letters(rng: np.random.Generator) -> Exercise:
    """Join the last letters of three names."""
    names = _names(rng, 3)
    ask = _pick(rng, "Join the last letters of {}, {} and {}.", "Take {}, {} and {}. What do their last letters spell?")
    steps = tuple(Step(f"the last letter of {name}", name[-1]) for name in names)
    return Exercise(ask.format(*names), steps, "".join(step.value for step in steps))


FAMILIES: dict[str, Family] = {
    "chain": chain,
    "compare": compare,
    "story": story,
    "shopping": shopping,
    "sequence": sequence,
    "last_letters": last_letters,
}

OPENERS = ("Okay, let me see.", "Okay, let me think.", "Hmm, let me see.", "Hmm, let me think.", "Let me think about it.")
CONNECTORS = ("Then", "Next,", "Now", "And then", "After that,")
CLOSERS = ("So the answer is {}.", "So it is {}.", "So I get {}.", "Okay, it is {}.", "That makes {}.")


def tell_plainly(steps: Sequence[Step], answer: str, rng: np.random.Generator) -> str:
    """A person thinking aloud: an opener, a sentence per step, a conclusion, each in one of several wordings."""
    sentences = [_pick(rng, *OPENERS)]
    for i, step in enumerate(steps):
        connector = _pick(rng, *CONNECTORS) if i else "First,"
        relation = "=" if step.expression[0].isdigit() else "is"
        sentences.append(f"{connector} {step.expression} {relation} {step.value}.")
    return " ".join([*sentences, _pick(rng, *CLOSERS).format(answer)])


STYLES: dict[str, Style] = {"plain": tell_plainly}
