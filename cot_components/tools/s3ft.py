"""Selective self-to-supervised fine-tuning (S3FT, arXiv 2502.08130): the model's own right answers as training targets.

For every question the target is the model's own answer if that is right, else its restatement of the gold answer if
that is right, else the gold answer. `cot_eval` has decided which answers are right, with its extractor and comparer;
nothing is generated here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cot_components.config import build
from cot_components.data.read.messages import Message
from cot_components.data.read.traces import Trace
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Example
from cot_components.evaluation.saved import read_evaluation
from cot_components.files import write_whole
from cot_components.runs.layout import CONFIG, EVALUATION
from cot_components.runs.same_config import read_config

Route = Literal["own", "restated", "gold"]
RESTATE = (
    "{question}\n\nHere is a correct solution:\n\n{gold}\n\nWrite this solution again in your own words, in the way in "
    "which you would have solved it. Keep its final answer and the form in which that is given."
)
"""The prompt for a question the model got wrong; the paper gives a prompt per task, this one is ours for all tasks."""


class Row(NamedTuple):
    """A question, the answer to train on, where that comes from, and the reference it was checked against."""

    trace: Trace
    route: Route
    target: str | None
    reference: str | None

    def as_json(self) -> dict[str, Any]:
        """A row of the format `messages`; training ignores `route`."""
        *asked, gold = map(_turn, self.trace.messages)
        said = gold if self.target is None else {"role": "assistant", "content": self.target}
        answer = {} if self.reference is None else {"answer": self.reference}
        return {"messages": [*asked, said], **answer, "route": self.route}


def route(own: Sequence[Example], restated: Sequence[Example]) -> tuple[Route, str | None]:
    """Which answer to train on: the model's first right one, its first right restatement, or gold (None).

    An answer without a reference, one that was cut off, and one not in the form thought, then answer never count as
    right.
    """
    choices: tuple[tuple[Route, Sequence[Example]], ...] = (("own", own), ("restated", restated))
    for name, examples in choices:
        for example in examples:
            if example.correct is True and example.cut is not True and example.format_ok is not False:
                return name, example.completion
    return "gold", None


def routed(run: Path, restated: Path | None = None) -> list[Row]:
    """A row for every question that a run of `cot_eval` answered.

    Args:
        run: its folder; the evaluation's source, which holds the gold answers, is read again.
        restated: folder of a run that answered the questions of `write_questions`.

    Raises:
        UserError: a folder without an evaluation or its config; a source whose questions have changed since.
    """
    answered: dict[str, list[Example]] = {}
    for example in read_evaluation(run / EVALUATION).examples:
        answered.setdefault(example.where, []).append(example)
    again: dict[str, list[Example]] = {}
    if restated is not None:
        for example in read_evaluation(restated / EVALUATION).examples:
            again.setdefault(_key(example.prompt), []).append(example)
    rows = []
    for trace in _traces(run):
        own = answered.get(trace.where)
        if own is None:  # left out for its length
            continue
        if own[0].prompt != tuple({"role": m.role, "content": m.content} for m in trace.messages[:-1]):
            raise UserError(f"{trace.where}: not the question that {run} answered; run cot_eval again")
        rows.append(Row(trace, *route(own, again.get(_key(_restating(trace)), ())), own[0].reference))
    if not rows:
        raise UserError(f"{run}: its evaluation and its source have no question in common")
    if restated is not None and not any(_key(_restating(row.trace)) in again for row in rows):
        raise UserError(f"{restated} answered no question that --ask wrote for {run}")
    return rows


def write_rows(rows: Sequence[Row], path: Path) -> dict[str, int]:
    """Write rows as JSON lines, atomically; returns the number of rows of each route."""
    _write(path, (row.as_json() for row in rows))
    return dict(Counter(row.route for row in rows))


def write_questions(rows: Sequence[Row], path: Path) -> int:
    """Write the restatement prompts for questions the model got wrong, for a second run of `cot_eval`.

    Rows without a reference are skipped, because their answers cannot be checked. Returns the number written.
    """
    asked = [row for row in rows if row.route == "gold" and row.reference is not None]
    _write(
        path,
        (
            {"messages": [*_restating(row.trace), _turn(row.trace.messages[-1])], "answer": row.reference}
            for row in asked
        ),
    )
    return len(asked)


def _write(path: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _turn(message: Message) -> dict[str, Any]:
    turn = {"role": message.role, "content": message.content}
    weight = {} if message.weight == 1 else {"weight": message.weight}
    return turn | ({} if message.thought is None else {"reasoning_content": message.thought}) | weight


def _restating(trace: Trace) -> tuple[dict[str, str], ...]:
    """The turns before the answer, the last of which also shows the gold one."""
    *before, last = ({"role": m.role, "content": m.content} for m in trace.messages[:-1])
    gold = trace.messages[-1]
    shown = "\n\n".join(part for part in (gold.thought, gold.content) if part)
    return (*before, last | {"content": RESTATE.format(question=last["content"], gold=shown)})


def _key(prompt: Sequence[Mapping[str, str]]) -> str:
    return json.dumps([(turn["role"], turn["content"]) for turn in prompt])


def _traces(run: Path) -> list[Trace]:
    """The questions of a run, with the gold answers."""
    config = read_config(run)
    if not config.get("evaluation"):
        raise UserError(f"{run / CONFIG} has no evaluation")
    traces: list[Trace] = build(config["evaluation"], where="evaluation").traces
    return traces
