"""Evaluation inside a run: generate with its model, score the answers, log them beside the validation loss by role."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cot_components.clock import Clock
from cot_components.data.batches import Step
from cot_components.data.bfcl import accepted_calls
from cot_components.data.chat import ChatFormat
from cot_components.data.errors import DropReport, RowError
from cot_components.data.formats import Message
from cot_components.data.overlap import first_overlap
from cot_components.data.sources import read_sources
from cot_components.data.store import Rows
from cot_components.data.traces import Trace
from cot_components.datasets import ReasoningDataset
from cot_components.errors import UserError
from cot_components.evaluation.answers import find_extractor
from cot_components.evaluation.comparers import find_comparer
from cot_components.evaluation.evaluate import Completion, Evaluation, evaluate, reference_answer
from cot_components.evaluation.saved import read_evaluation
from cot_components.files import sha256, sync, writing
from cot_components.models.generate import generate, was_cut
from cot_components.training.loop import Trainer
from cot_components.training.run_folder import EVALUATIONS
from cot_components.training.run_log import RunLog
from cot_components.training.signals import Interrupted, raise_if_stopping
from cot_components.training.validation import validation_loss


@dataclass(kw_only=True)
class AnswerEvaluation:
    """Prompts, how to decode them, and where the answer is in what comes back.

    Args:
        source, split, subset, format, columns, max_rows: where the prompts come from, see `Source`.
        strict: the first bad row is an error; otherwise bad rows are left out, and counted in `report`.
        max_new_tokens: tokens per completion.
        batch_size: prompts decoded together.
        temperature: 0 is greedy.
        num_samples: completions per prompt.
        extractor: `answer_line`, `boxed`, `gsm8k`, `last_number`, `tool_calls` or `whole`, or several to try in turn.
        comparer: `exact`, `math` (equal expressions, by math-verify) or `calls` (tool calls, several may be right).
        seed: of the sampling.

    Raises:
        UserError: an extractor or a comparer that is not known, or lacks its package; several greedy samples, which
            would all be the same; no row; rows that accept several calls, with a comparer other than `calls`.
    """

    source: str | Mapping[str, Any]
    split: str = "train"
    subset: str | None = None
    format: str = "auto"
    columns: Mapping[str, str] | None = None
    max_rows: int | None = 200
    strict: bool = True
    max_new_tokens: int = 512
    batch_size: int = 32
    temperature: float = 0.0
    num_samples: int = 1
    extractor: str | list[str] = "answer_line"
    comparer: str = "exact"
    seed: int = 0
    held_out: bool | None = field(init=False, repr=False, default=None)
    """Whether no prompt is one of the training data; None until `compare_with_training` is called."""
    traces: list[Trace] = field(init=False, repr=False)
    report: DropReport = field(init=False, repr=False)

    def __post_init__(self) -> None:
        find_extractor(self.extractor)
        find_comparer(self.comparer)
        for name in ("max_new_tokens", "batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluation: {name} must be at least 1, got {getattr(self, name)}")
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
        sources = read_sources(self.source, **options)  # read now: bad data is found before a model is loaded
        self.report = DropReport()
        self.traces = [t for source in sources for t in source.read(strict=self.strict, report=self.report)]
        self._refuse_none()
        if self.comparer != "calls" and any(t.answer and accepted_calls(t.answer) for t in self.traces):
            raise UserError(f"evaluation.comparer must be calls: rows of {self.source} accept several tool calls")

    def _refuse_none(self) -> None:
        if not self.traces:
            raise UserError(f"evaluation: no row of {self.source} can be used: {self.report.summary()}")

    def prompts(self, chat: ChatFormat, *, max_seq_len: int | None = None) -> list[tuple[str, list[int]]]:
        """Where each trace stands, and the token ids of its prompt.

        A trace whose prompt cannot be written, or leaves no room in a context of `max_seq_len` tokens, or whose
        reference cannot be read, is a bad row: without `strict` it is left out from here on.

        Raises:
            UserError: a bad row when strict, with its place; no row is left.
        """
        kept, found = [], []
        for trace in self.traces:
            try:
                ids = chat.prompt_ids(trace.messages[:-1])
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
        return found

    def __call__(
        self, model: Any, chat: ChatFormat, *, between_batches: Callable[[], None] | None = None
    ) -> Evaluation:
        """Answer every prompt and score the answers."""
        tokenizer = chat.tokenizer

        def complete(prompts: list[tuple[Message, ...]]) -> list[Completion]:
            ids = [chat.prompt_ids(prompt) for prompt in prompts]
            completions = generate(
                model,
                ids,
                max_new_tokens=self.max_new_tokens,
                stop_ids=chat.stop_ids,
                pad_id=tokenizer.pad_id,
                temperature=self.temperature,
                batch_size=self.batch_size,
                seed=self.seed,
                samples=[index % self.num_samples for index in range(len(prompts))],
                stops_per_answer=chat.stops_per_answer,
                between_batches=between_batches,
            )
            return [
                Completion(tokenizer.decode(new), was_cut(model, prompt, new, self.max_new_tokens))
                for prompt, new in zip(ids, completions, strict=True)
            ]

        result = evaluate(
            self.traces,
            complete,
            tags=chat.tags,
            count_tokens=lambda text: len(tokenizer.encode_text(text)),
            extractor=self.extractor,
            comparer=self.comparer,
            num_samples=self.num_samples,
            prefix=chat.opening,
        )
        return replace(result, held_out=self.held_out)

    def compare_with_training(self, rows: Rows, chat: ChatFormat) -> None:
        """Find out whether the prompts are held out: whether none of them is the prompt of a training row."""
        asked = []
        for trace in self.traces:
            ids, opening = chat.prompt_ids(trace.messages[:-1]), chat.opening(trace.messages[:-1])
            longest = len(chat.tokenizer.encode_text(opening)) if opening else 0  # what a row's prompt leaves out
            asked += [(trace.where, ids[: len(ids) - left_out]) for left_out in range(longest + 1)]
        self.held_out = first_overlap(rows, asked) is None


class Evaluations:
    """The evaluations of one run, in order.

    Args:
        trainer: model and losses.
        chat: how prompts are written.
        held_out: data for the validation loss, or None.
        answers: how to generate and score, or None.
        log: where results go.
        batch_size: rows per forward pass of the validation loss.
        clock: step -> the time at which validation rows are transformed; None leaves them as they are at the start.
        progress: time -> what a curriculum adds to every record.
    """

    def __init__(
        self,
        trainer: Trainer,
        chat: ChatFormat,
        held_out: ReasoningDataset | None,
        answers: AnswerEvaluation | None,
        log: RunLog,
        *,
        batch_size: int,
        clock: Callable[[int], Clock] | None = None,
        progress: Callable[[Clock], dict[str, float]] | None = None,
    ) -> None:
        self._clock, self._progress = clock or (lambda step: Clock(0, 0)), progress or (lambda clock: {})
        self._trainer, self._chat, self._held_out, self._answers = trainer, chat, held_out, answers
        self._log, self._batch_size = log, batch_size
        self._at_start = True
        self._every: int | None = None
        self._path = log.folder / EVALUATIONS
        self.done: list[tuple[int, Evaluation]] = []
        self.hashes: dict[str, str] = {}  # step -> sha256 of its file, on the first process
        self.interrupted = False  # on every process or on none
        self.rescue: Callable[[Step], None] = lambda step: None  # what keeps a step whose evaluation failed

    def begin(self, step: int, *, at_start: bool, every: int | None) -> None:
        """Evaluate before the first step or not, and after every so many (None: only after the last); begin with the
        state before `step`, if that is due and was not measured before a stop.
        """
        self._at_start, self._every = at_start, every
        if self._answers is not None and self._answers.report.num_dropped:
            self._log.say(f"evaluation: {self._answers.report.summary()}")
        self.run_if_due(step)

    def run_if_due(self, step: int) -> None:
        """Measure now if the state before optimizer step `step` is to be measured and has not been; log and save it.

        A signal cuts it short; then nothing is recorded, and the resumed run does it again.
        """
        regular = step == self._log.total_steps or (self._every and step % self._every == 0)
        due = self._at_start if step == 0 else regular
        if not due or any(done == step for done, _ in self.done):
            return
        clock = self._clock(max(step - 1, 0))  # as the last step saw them
        try:
            result = self._measure(clock)
        except Interrupted:
            self.interrupted = True
            return
        if result.losses or result.examples:
            if self._trainer.world.is_first:
                self._save(step, result)
            self._log.record({"step": step, **self._progress(clock), **result.metrics()})
            self.done.append((step, result))

    def _measure(self, clock: Clock) -> Evaluation:
        losses: dict[str, float] = {}
        if self._held_out is not None:
            losses = validation_loss(self._trainer, self._held_out, batch_size=self._batch_size, clock=clock)
        if self._answers is None:
            return Evaluation((), losses=losses)
        pause = partial(raise_if_stopping, self._trainer.world)
        return replace(self._answers(self._trainer.model, self._chat, between_batches=pause), losses=losses)

    def after_step(self, step: Step, measured: dict[str, float]) -> None:
        """Log one optimizer step; evaluate if it is time."""
        self._log.training(step.clock.step, step.clock.epoch, {**self._progress(step.clock), **measured})
        try:
            self.run_if_due(step.clock.step + 1)
        except Exception:
            self.rescue(step)
            raise

    def _save(self, step: int, result: Evaluation) -> None:
        path = self._file(step)
        with writing(path):
            sync(result.save(path))
            sync(path.parent)
        self.hashes[str(step)] = sha256(path)

    def _file(self, step: int) -> Path:
        return self._path / f"step_{step}.json"

    def take_up(self, steps: list[int], hashes: Mapping[str, str]) -> None:
        """Read back the evaluations that a resumed run had done.

        One whose file is lost, or is not what was written, is set aside and said. Where the run stands at its step it
        is measured again; it is left out of the results otherwise.

        Args:
            steps: of the evaluations.
            hashes: step -> sha256 of its file.
        """
        lost: list[int] = self._trainer.world.first_decides(lambda: [s for s in steps if self._is_lost(s, hashes)])
        self.done = [(step, read_evaluation(self._file(step))) for step in steps if step not in lost]
        self.hashes = {str(step): hashes[str(step)] for step, _ in self.done if str(step) in hashes}

    def _is_lost(self, step: int, hashes: Mapping[str, str]) -> bool:
        path = self._file(step)
        try:
            read_evaluation(path)
            reason = None if hashes.get(str(step)) in (None, sha256(path)) else "it has changed (sha256)"
        except UserError as error:
            reason = str(error)
        if reason is not None:
            self._log.say(f"the evaluation of step {step} is left out, or made again where the run is at it: {reason}")
            with writing(path):
                if path.exists():
                    path.replace(path.with_name(f"{path.name}.set_aside"))
        return reason is not None
