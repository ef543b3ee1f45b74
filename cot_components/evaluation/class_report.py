"""What the discriminator found: share of reasoning, errors if the truth is known, the most extreme phrases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cot_components.config import check, fits
from cot_components.data.rows.scores import Scores, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.files import read_object
from cot_components.transforms.discriminator import (
    CLASSES,
    REASONING,
    Confusion,
    Phrase,
    classify,
    loss_difference,
    phrases,
)


@dataclass(frozen=True)
class ClassReport:
    """Classes of all scored tokens of a data set, counted.

    threshold:   loss difference in nats above which a token is reasoning
    num_tokens:  scored tokens
    num_reasoning: those above the threshold
    confusion:   `[[true boilerplate found boilerplate, ... found reasoning], [true reasoning ...]]`, None without truth
    boilerplate, reasoning: the most boilerplate-like and the most reasoning-like texts
    """

    threshold: float
    num_tokens: int
    num_reasoning: int
    confusion: list[list[int]] | None
    boilerplate: list[Phrase]
    reasoning: list[Phrase]

    @property
    def against_truth(self) -> Confusion | None:
        """The confusion table; None if the truth is unknown."""
        return None if self.confusion is None else Confusion(np.array(self.confusion))

    def save(self, path: Path) -> Path:
        """Write it as JSON."""
        errors = self.against_truth
        rates = {} if errors is None else {"error_rate": errors.error_rate, "recall": errors.recall}
        path.write_text(json.dumps({**rates, **asdict(self)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def read_report(path: Path) -> ClassReport:
    """A report written by `ClassReport.save`.

    Raises:
        UserError: no such file, or not a report.
    """
    saved = read_object(path)
    try:
        counts: dict[str, Any] = {
            name: saved[name] for name in ("threshold", "num_tokens", "num_reasoning", "confusion")
        }
        low, high = ([Phrase(*phrase) for phrase in saved[name]] for name in CLASSES)
        check(ClassReport, {**counts, "boilerplate": low, "reasoning": high})
        if not all(fits(p.text, str) and fits(p.difference, float) and fits(p.times, int) for p in (*low, *high)):
            raise UserError("a phrase must be a text, its LD and how often it occurs")
        if counts["confusion"] is not None and np.array(counts["confusion"], dtype=np.int64).shape != (2, 2):
            raise UserError("confusion must have two rows of two counts")
        return ClassReport(**counts, boilerplate=low, reasoning=high)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not a report of classes ({error})") from error


def report_classes(
    rows: Rows,
    scores: Scores,
    decode: Callable[[Sequence[int]], str],
    *,
    threshold: float = 0.0,
    truth: np.ndarray | None = None,
) -> ClassReport:
    """Count the classes of scored rows.

    Args:
        rows: the rows that were scored, in the same order.
        scores: with finished columns `original` and `shuffled`.
        decode: token ids to text, for the phrases.
        truth: classes `[N]`.

    Raises:
        UserError: scores that are not finished.
    """
    for name in ("original", "shuffled"):
        scores.finished(name)
    losses = scores.column("original"), scores.column("shuffled")
    where, found = scored_tokens(rows), classify(*losses, threshold=threshold)
    confusion = None if truth is None else Confusion.of(truth, found, where).counts.tolist()
    low, high = phrases(rows, loss_difference(*losses), decode)
    return ClassReport(threshold, int(where.sum()), int((found[where] == REASONING).sum()), confusion, low, high)
