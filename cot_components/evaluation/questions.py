"""The questions of an evaluation: prompts from any source, how to decode answers, and how to score them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cot_components.data.bad_rows import DropReport, RowError
from cot_components.data.read.bfcl import accepted_calls
from cot_components.data.read.formats import Message, RowReader
from cot_components.data.read.traces import Trace
from cot_components.data.rows.overlap import overlaps
from cot_components.data.rows.store import Rows
from cot_components.data.sources import read_sources
from cot_components.data.text.chat import ChatFormat
from cot_components.errors import UserError
from cot_components.evaluation.budget import ThoughtBudget, tag_ids
from cot_components.evaluation.comparers import Comparer, find_comparer
from cot_components.evaluation.evaluate import Completion, Evaluation, evaluate, reference_answer
from cot_components.evaluation.extract import Extractor, find_extractor
from cot_components.roles import Role

Decode = Callable[..., Sequence[tuple[list[int], bool | None]]]
"""Prompts (lists of token ids) and the settings of `models.generate.generate` to `(new ids, whether cut off)` per
prompt."""


@dataclass(kw_only=True)
class AnswerEvaluation:
    """Prompts, decoding settings, and how answers are extracted and compared.

    Args:
        source, split, subset, format, columns, max_rows: where the prompts come from, see `Source`.
        strict: the first bad row is an error; otherwise bad rows are left out and counted in `report`.
        max_new_tokens: tokens per completion.
        max_thought_tokens: a thought still open after this many tokens is closed for the model, which then writes its
            answer; None sets no limit. `cot compare` plots runs with different values in one picture.
        thinking: passed to the chat template: `true` asks for a thought (`enable_thinking`), `false` for none; None
            leaves the template's default.
        batch_size: prompts decoded together.
        temperature: 0 is greedy.
        num_samples: completions per prompt.
        extractor: `answer_line`, `boxed`, `gsm8k`, `last_number`, `tool_calls` or `whole`, or several to try in
            turn; or a component that returns a function from the text after the thought to the answer, or None.
        comparer: `exact`, `math` (equal expressions, by the package math-verify) or `calls` (tool calls, several of
            which may be accepted); or a component that returns a function of answer and reference.
        seed: of the sampling.

    Raises:
        UserError: an unknown extractor or comparer, or one whose package is missing; a count below 1, a temperature
            below 0 or infinite, a seed out of range; several greedy samples, which would all be the same; a source that
            cannot be read, a bad row when strict, no row; rows that accept several calls, compared by `exact` or
            `math`.
    """

    source: str | Mapping[str, Any]
    split: str = "train"
    subset: str | None = None
    format: str | RowReader = "auto"
    columns: Mapping[str, str] | None = None
    max_rows: int | None = 200
    strict: bool = True
    max_new_tokens: int = 512
    max_thought_tokens: int | None = None
    thinking: bool | None = None
    batch_size: int = 32
    temperature: float = 0.0
    num_samples: int = 1
    extractor: str | list[str] | Extractor = "answer_line"
    comparer: str | Comparer = "exact"
    seed: int = 0
    held_out: bool | None = field(init=False, repr=False, default=None)
    """Whether no prompt occurs in the training data; None until `compare_with_training` is called."""
    trained_on: dict[str, int] = field(init=False, repr=False, default_factory=dict)
    """Place of each prompt that is also a training prompt -> id of that row; empty until `compare_with_training`."""
    traces: list[Trace] = field(init=False, repr=False)
    report: DropReport = field(init=False, repr=False)

    def __post_init__(self) -> None:
        find_extractor(self.extractor)
        find_comparer(self.comparer)
        for name in ("max_new_tokens", "batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluation: {name} must be at least 1, got {getattr(self, name)}")
        if self.max_thought_tokens is not None and self.max_thought_tokens < 0:
            raise UserError(
                f"evaluation: max_thought_tokens must be a number from 0, or null, got {self.max_thought_tokens}"
            )
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"evaluation: temperature must be a number from 0, got {self.temperature}")
        if abs(self.seed) >= 2**63:
            raise UserError(f"evaluation: seed must be below 2**63, got {self.seed}")
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                "evaluation: num_samples above 1 needs a temperature above 0, greedy samples are all the same"
            )

        fields = ("split", "subset", "format", "columns", "max_rows")
        options = {name: getattr(self, name) for name in fields}
        sources = read_sources(self.source, **options)  # read now, so that bad data is found before a model is loaded
        self.report = DropReport()
        self.traces = [t for source in sources for t in source.read(strict=self.strict, report=self.report)]
        self._refuse_none()
        if self.comparer in ("exact", "math") and any(t.answer and accepted_calls(t.answer) for t in self.traces):
            raise UserError(f"evaluation.comparer must be calls: rows of {self.source} accept several tool calls")

    def _refuse_none(self) -> None:
        if not self.traces:
            raise UserError(f"evaluation: no row of {self.source} can be used: {self.report.summary()}")

    def prompts(self, chat: ChatFormat, *, max_seq_len: int | None = None) -> list[tuple[str, list[int]]]:
        """The place of each trace, and the token ids of its prompt.

        A trace whose prompt cannot be written, or leaves no room in a context of `max_seq_len` tokens, or whose
        reference cannot be read, is a bad row: without `strict` it is left out from now on.

        Raises:
            UserError: a bad row when strict, with its place; no row is left; `max_new_tokens` has no room for the
                thought, its tags and an answer; `thinking` is set and changes no prompt.
        """
        kept, found = [], []
        for trace in self.traces:
            try:
                ids = chat.prompt_ids(trace.messages[:-1], thinking=self.thinking)
                reference_answer(trace, chat.tags, self.extractor)
                if max_seq_len is not None and len(ids) >= max_seq_len:
                    raise RowError(f"the prompt leaves no room in a context of {max_seq_len}", f"{len(ids)} tokens")
            except RowError as fault:
                if self.strict:
                    raise fault.at(trace.where) from None
                self.report.add(trace.where, fault.reason)
            else:
                kept.append(trace)
                found.append((trace.where, ids))
        self.traces = kept
        self._refuse_none()
        prompts = [trace.messages[:-1] for trace in kept]
        self._budget(chat, prompts)
        if self.thinking is not None and not any(_is_switched(chat, prompt) for prompt in prompts):
            raise UserError(
                "evaluation.thinking must be null: the chat template writes the same prompts with thinking on and off"
            )
        return found

    def __call__(self, decode: Decode, chat: ChatFormat) -> Evaluation:
        """Answer every prompt and score the answers.

        Args:
            decode: a model's answers, such as `models.generate.decode_with(model)`.
            chat: how prompts are rendered and answers parsed.
        """
        tokenizer = chat.tokenizer

        def complete(prompts: list[tuple[Message, ...]]) -> list[Completion]:
            answers = decode(
                [chat.prompt_ids(prompt, thinking=self.thinking) for prompt in prompts],
                max_new_tokens=self.max_new_tokens,
                stop_ids=chat.stop_ids,
                pad_id=tokenizer.pad_id,
                temperature=self.temperature,
                batch_size=self.batch_size,
                seed=self.seed,
                samples=[index % self.num_samples for index in range(len(prompts))],
                stops_per_answer=chat.stops_per_answer,
                **self._budget(chat, prompts),
            )
            return [Completion(tokenizer.decode(ids), cut) for ids, cut in answers]

        result = evaluate(
            self.traces,
            complete,
            tags=chat.tags,
            count_tokens=lambda text: len(tokenizer.encode_text(text)),
            extractor=self.extractor,
            comparer=self.comparer,
            num_samples=self.num_samples,
            thinking=self.thinking,
            prefix=partial(chat.opening, thinking=self.thinking),
        )
        return replace(result, held_out=self.held_out, max_thought_tokens=self.max_thought_tokens)

    def _budget(self, chat: ChatFormat, prompts: Sequence[tuple[Message, ...]]) -> dict[str, ThoughtBudget]:
        """The settings of `decode` for `max_thought_tokens`; none if that is None."""
        if self.max_thought_tokens is None:
            return {}
        opened = tuple(bool(chat.opening(prompt, thinking=self.thinking)) for prompt in prompts)
        close = tag_ids(chat, chat.tags.close)
        tags = len(close) + (0 if all(opened) else len(tag_ids(chat, chat.tags.open)))
        if (needed := self.max_thought_tokens + tags) >= self.max_new_tokens:
            raise UserError(
                f"evaluation.max_new_tokens is {self.max_new_tokens}, but a thought of max_thought_tokens and its tags "
                f"already take {needed} tokens, with no room for an answer; raise it, or lower max_thought_tokens"
            )
        return {"budget": ThoughtBudget(self.max_thought_tokens, chat.tags, close, chat.tokenizer.decode, opened)}

    def compare_with_training(self, rows: Rows, chat: ChatFormat) -> None:
        """Find out which prompts are held out, that is, are not the prompt of a training row.

        Raises:
            UserError: thoughts have a budget, but no training row has a closed thought.
        """
        if self.max_thought_tokens is not None and not (rows.roles == Role.THINK_CLOSE).any():
            raise UserError(
                f"evaluation.max_thought_tokens closes thoughts with {chat.tags.close}, and no row of the data has "
                "one: are dataset.tags those of the data?"
            )
        asked = [
            (trace.where, chat.prompt_ids(trace.messages[:-1], thinking=thinking))
            for trace in self.traces
            for thinking in (None, True, False)  # a row's prompt may ask for a thought even if this one does not
        ]
        self.trained_on = overlaps(rows, asked)
        self.held_out = not self.trained_on

    def overlap_summary(self) -> str:
        """One line: how many prompts are trained on, and the first of them; "" before `compare_with_training`."""
        if self.held_out is None:
            return ""
        said = f"evaluation: {len(self.trained_on) or 'none'} of {len(self.traces):,} prompts"
        verb = "is" if len(self.trained_on) == 1 else "are"
        for where, row_id in self.trained_on.items():
            return f"{said} {verb} in the training data (first: {where}, as row {row_id}), so not held out"
        return f"{said} is in the training data"


def _is_switched(chat: ChatFormat, prompt: tuple[Message, ...]) -> bool:
    """Whether a prompt differs with thinking on and off."""
    return chat.prompt_ids(prompt, thinking=True) != chat.prompt_ids(prompt, thinking=False)
