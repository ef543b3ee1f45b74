"""Evaluations inside a run: when they are due, what they measure, and where they are logged and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cot_components.clock import Clock
from cot_components.data.rows.batches import Step
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.text.chat import ChatFormat
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.questions import AnswerEvaluation
from cot_components.evaluation.saved import read_evaluation
from cot_components.evaluation.token_losses import TokenLosses
from cot_components.files import sha256, sync, writing
from cot_components.models.generate import Decoder, decode_with
from cot_components.runs.layout import EVALUATIONS
from cot_components.runs.signals import Interrupted, raise_if_stopping
from cot_components.stages import Stages
from cot_components.training.loop import Trainer
from cot_components.training.run_log import RunLog
from cot_components.training.validation import answers_right, losses_by_token, validation_loss


class Evaluations:
    """The evaluations of one run, in order.

    Args:
        trainer: model and losses.
        chat: how prompts are rendered.
        held_out: data for the validation loss, or None.
        answers: how to generate and score, or None.
        log: where results go.
        batch_size: rows per forward pass of the validation loss.
        stages: the curriculum: the clock of validation rows, its entries in every record, its measurements.
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
        stages: Stages,
    ) -> None:
        self.stages = stages
        self._trainer, self._chat, self._held_out, self._answers = trainer, chat, held_out, answers
        self._log, self._batch_size = log, batch_size
        self._at_start = True
        self._every: int | None = None
        self._path = log.folder / EVALUATIONS
        self.done: list[tuple[int, Evaluation]] = []
        self.hashes: dict[str, str] = {}  # step -> sha256 of its file, on the first process
        self.interrupted = False  # on every process or on none
        self.rescue: Callable[[Step], None] = lambda step: None  # saves a step whose evaluation failed

    def begin(self, step: int, *, at_start: bool, every: int | None) -> None:
        """Set when to evaluate: before the first step or not, and every `every` steps (None: only after the last). Then
        evaluate the state before `step`, if that is due and was not measured before an interruption.
        """
        self._at_start, self._every = at_start, every
        if self._answers is not None and self._answers.report.num_dropped:
            self._log.say(f"evaluation: {self._answers.report.summary()}")
        if self._answers is not None and (said := self._answers.overlap_summary()):
            self._log.say(said)
        self.run_if_due(step)

    def run_if_due(self, step: int) -> None:
        """Evaluate the state before optimizer step `step` if that is due and not yet done; log and save the result.

        If a signal interrupts it, nothing is recorded, and the resumed run repeats it.
        """
        regular = step == self._log.total_steps or (self._every and step % self._every == 0)
        due = self._at_start if step == 0 else regular
        if not due or any(done == step for done, _ in self.done):
            return
        clock = self.stages.held_out_clock(max(step - 1, 0))  # as the last step saw them
        world = self._trainer.world
        decode = decode_with(self._trainer.model, partial(raise_if_stopping, world), progress=world.is_first)
        try:
            result = self._measure(clock, decode)
        except Interrupted:
            self.interrupted = True
            return
        if result.losses or result.examples:
            if self._trainer.world.is_first:
                self._save(step, result)
            self._log.record({"step": step, **self.stages.progress(clock), **result.metrics(), **decode.speed()})
            self.done.append((step, result))

    def _measure(self, clock: Clock, decode: Decoder) -> Evaluation:
        losses: dict[str, float] = {}
        by_token: tuple[TokenLosses, ...] = ()
        if self._held_out is not None:
            losses = validation_loss(self._trainer, self._held_out, batch_size=self._batch_size, clock=clock)
            by_token = losses_by_token(self._trainer, self._held_out, clock=clock)
        answered = Evaluation(()) if self._answers is None else self._answers(decode, self._chat)
        return replace(answered, losses=losses, token_losses=by_token)

    def after_step(self, step: Step, measured: dict[str, float]) -> None:
        """Log one optimizer step; take the curriculum's measurement and evaluate, if due."""
        self._log.training(step.clock.step, step.clock.epoch, {**self.stages.progress(step.clock), **measured})
        self._pace(step.clock.step + 1)
        try:
            self.run_if_due(step.clock.step + 1)
        except Exception:
            self.rescue(step)
            raise

    def _pace(self, step: int) -> None:
        """Tell the curriculum the share of right validation answers after `step` steps, if it measures."""
        if self._held_out is None or not self.stages.measures(step):
            return
        clock = self.stages.held_out_clock(step - 1)
        right = answers_right(self._trainer, self._held_out, batch_size=self._batch_size, clock=clock)
        self._log.record({"step": step, **self.stages.progress(clock), "teacher_forced_accuracy": right})
        if said := self.stages.decide(step, right):
            self._log.say(said)

    def _save(self, step: int, result: Evaluation) -> None:
        path = self._file(step)
        with writing(path):
            sync(result.save(path))
            sync(path.parent)
        self.hashes[str(step)] = sha256(path)

    def _file(self, step: int) -> Path:
        return self._path / f"step_{step}.json"

    def take_up(self, steps: list[int], hashes: Mapping[str, str]) -> None:
        """Read the evaluations that a resumed run has already done.

        One whose file is missing or changed is set aside and reported. If the run resumes at its step, it is repeated;
        otherwise it is left out of the results.

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
            self._log.say(f"the evaluation of step {step} is left out, or repeated if the run resumes at it: {reason}")
            with writing(path):
                if path.exists():
                    path.replace(path.with_name(f"{path.name}.set_aside"))
        return reason is not None
