"""The sequence stepwise internalisation trains on, `x S cot S #### answer S`, and its step lists.

S is the end-of-text token, written three times; no chat template, no tags. Follows the released script of
https://github.com/da03/Internalize_CoT_Step_by_Step: a blank on both sides of every part, no commas in a numeric
answer. The thought may lose all its tokens but the second S stays: a fully internalised model goes from `x S` to `S
#### answer S`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.strict_json import decode_text
from cot_components.data.read.traces import Message, Trace
from cot_components.data.text.chat import Part, Turn, part_ids
from cot_components.data.text.segments import Tags
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.errors import UserError
from cot_components.roles import Role

OPENING = "<thought>"
"""Put before a completion so that thought and answer can be found in it; no model reads or writes it."""

FORMAT_VERSION = 2
"""Part of the fingerprint: raise it whenever the same trace would be written differently."""

_GROUPED = re.compile(r"(?:#### *)?[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


@dataclass(frozen=True)
class ICoTFormat:
    """How question, thought and answer become a row; a drop-in replacement for `ChatFormat`.

    tokenizer: its end-of-text token is the separator; if it has a separate begin token, that opens the row
    step_end:  text that ends a step of a thought, for removal by step; encoded by itself, so that the step ends there
               whatever the tokenizer merges; no blank follows the last one. None: thoughts are not cut into steps

    Raises:
        UserError: the tokenizer has no end-of-text token, or `step_end` is not a single token of it.
    """

    tokenizer: TextTokenizer
    step_end: str | None = None

    in_one_go: ClassVar[bool] = False
    """Question, thought, answer and each step are encoded separately, as published."""

    def __post_init__(self) -> None:
        if self.tokenizer.eos_id is None:
            raise UserError("the tokenizer has no end-of-text token, which separates question, thought and answer")
        if self.step_end is not None and len(self.tokenizer.encode_text(self.step_end)) != 1:
            raise UserError(f"step_end {self.step_end!r} must be one token of the tokenizer")

    def prompt(self, messages: Sequence[Message]) -> list[Part]:
        """`x S` of a conversation of one question. Raises RowError for any other."""
        if [message.role for message in messages] != ["user"]:
            raise RowError("a row must be one question and one answer", " ".join(m.role for m in messages))
        bos_id, eos_id = self.tokenizer.bos_id, self.tokenizer.eos_id
        begin = [] if bos_id is None or bos_id == eos_id else [Part(Role.PROMPT, bos_id)]
        return [*begin, Part(Role.PROMPT, f" {messages[0].content} "), Part(Role.PROMPT, self._separator)]

    def prompt_ids(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int]:
        """Token ids of `prompt`, which is the same whatever `thinking` asks for."""
        return part_ids(self.prompt(messages), self.tokenizer)

    @property
    def tags(self) -> Tags:
        """The thought lies between the text of `opening` and the separator."""
        return Tags(open=OPENING, close=self.tokenizer.decode([self._separator]))

    @property
    def tag_ids(self) -> dict[str, int]:
        """Tags never become new tokens here."""
        return {}

    def opening(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """The text shown for the separator at the end of `prompt` when a completion is shown or scored."""
        return OPENING

    def turn(self, messages: Sequence[Message]) -> Turn:
        """Question, then thought and answer. Raises RowError if the answer has no thought."""
        *before, last = messages
        if last.thought is None:
            raise RowError("no thought beside the answer")
        thought = [Part(Role.THOUGHT, text) for text in self._steps(last.thought.strip())]
        answer = f" {_without_separators(last.content.strip())} "
        end = [Part(Role.THINK_CLOSE, self._separator), Part(Role.ANSWER, answer), Part(Role.ANSWER, self._separator)]
        return Turn(self.prompt(before), thought + end)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The separator; a generation ends at the `stops_per_answer`-th."""
        return (self._separator,)

    @property
    def stops_per_answer(self) -> int:
        """Separators a model writes after `prompt`: one after the thought, one after the answer."""
        return 2

    @cached_property
    def step_ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a step."""
        return () if self.step_end is None else tuple(self.tokenizer.encode_text(self.step_end))

    def fingerprint(self) -> str:
        """sha256 over everything that decides how a trace is written."""
        facts = ["icot", FORMAT_VERSION, self.tokenizer.fingerprint(), self.step_end]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def _separator(self) -> int:
        assert self.tokenizer.eos_id is not None
        return self.tokenizer.eos_id

    def _steps(self, thought: str) -> list[str]:
        if self.step_end is None:
            return [f" {thought} "]
        pieces = re.split(f"({re.escape(self.step_end)})", f" {thought} ")
        if len(pieces) > 1 and not pieces[-1].strip():
            del pieces[-1]  # the blank after the last step's end would count as a step
        return [text for text in pieces if text]


def _without_separators(answer: str) -> str:
    """A number without its thousands separators; any other answer unchanged: `1, 2` must not become `1 2`."""
    return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer


def read_step_lists(
    path: str | Path,
    *,
    step_end: str = "\n",
    max_rows: int | None = None,
    strict: bool = True,
    report: DropReport | None = None,
) -> list[Trace]:
    """Traces of a JSON list whose rows hold `question`, `steps` (a list of texts) and `answer`, as ProsQA does.

    The thought is the steps joined by `step_end`, the answer gets the `#### ` of the other data sets.

    Args:
        path: of the file.
        step_end: text that ends a step.
        max_rows: read at most this many rows.
        strict: the first bad row is an error; otherwise bad rows are left out.
        report: counts rows read and dropped.

    Raises:
        TraceError: not such a list, or (strict) a row that is not such a row; names the file and the row, counted from
            1.
    """
    try:
        rows = decode_text(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # lists nested thousands deep
        raise TraceError(str(path), "not a readable JSON file", str(error).splitlines()[0]) from None
    if isinstance(rows, RowError):
        raise rows.at(str(path))
    if not isinstance(rows, list) or not rows:
        raise TraceError(str(path), "not a list of rows")
    report = DropReport() if report is None else report
    traces = []
    for number, row in enumerate(rows[:max_rows]):
        report.read += 1
        try:
            traces.append(_step_trace(number, row, f"{path}:row {number + 1}", step_end))
        except TraceError as fault:
            if strict:
                raise
            report.add(fault.where, fault.reason)
    return traces


def _step_trace(number: int, row: object, where: str, step_end: str) -> Trace:
    if not isinstance(row, dict):
        raise TraceError(where, "a row is not an object")
    question, steps, answer = (row.get(key) for key in ("question", "steps", "answer"))
    if not (isinstance(question, str) and question.strip() and isinstance(answer, str) and answer.strip()):
        raise TraceError(where, "question or answer is missing, empty or not text")
    if not isinstance(steps, list) or not all(isinstance(step, str) and step.strip() for step in steps):
        raise TraceError(where, "steps is not a list of texts")
    if any(step_end in step for step in steps):
        raise TraceError(where, f"a step holds {step_end!r}, which ends steps")
    turns = (
        Message("user", question.strip()),
        Message("assistant", f"#### {answer.strip()}", thought=step_end.join(step.strip() for step in steps)),
    )
    return Trace(number, turns, where, answer.strip())
