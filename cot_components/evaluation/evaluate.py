"""Evaluation by generation: accuracy, format, and length of thought.

Nothing here knows a model: `generate` turns prompts into completions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cot_components.data.bad_rows import RowError
from cot_components.errors import UserError
from cot_components.evaluation.comparers import Comparer, find_comparer, normalise
from cot_components.evaluation.extract import (
    Extractor,
    extract_answer,
    find_extractor,
    format_ok,
    split_completion,
    unwrap,
)
from cot_components.evaluation.statistics import majority, pass_at_k, wilson_interval
from cot_components.evaluation.token_losses import TokenLosses

if TYPE_CHECKING:
    from cot_components.data.read.formats import Message
    from cot_components.data.read.traces import Trace
    from cot_components.data.text.segments import Tags


class Completion(NamedTuple):
    """A model's output, and whether it was cut off before it ended by itself; None if unknown."""

    text: str
    cut: bool | None = None


Generate = Callable[[list[tuple["Message", ...]]], Sequence["str | Completion"]]
"""Prompts (the turns before the last assistant turn) to completions, in the same order; free to batch them."""


@dataclass(frozen=True)
class Example:
    """One completion.

    where:         place of the trace in its source
    sample:        0 to `num_samples` - 1
    prompt:        turns as `{"role": ..., "content": ...}`
    completion:    the model's text, with the part that the template had already opened
    extracted:     its answer, or None
    reference:     the right answer, or None if none can be found in the trace
    correct:       whether they match; None without a reference
    format_ok:     one thought, then an answer; or only an answer if the prompt asks for no thought; None if the prompt
                   asks for neither and neither data nor completions have thoughts
    thought_tokens: tokens of the thought, 0 without one; None as above
    cut:           whether `max_new_tokens` or the model's context ended it; None if not recorded
    thinks:        whether it has a non-blank thought; None as for `format_ok`, or if not recorded
    """

    where: str
    sample: int
    prompt: tuple[dict[str, str], ...]
    completion: str
    extracted: str | None
    reference: str | None
    correct: bool | None
    format_ok: bool | None
    thought_tokens: int | None
    cut: bool | None = None
    thinks: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """Completions of prompts and their statistics. Rates are in [0, 1], and None if no example determines them.

    examples: all samples of a trace one after the other
    num_samples: completions per trace
    losses: validation losses by name (`val_loss`, `val_loss_thought` ...), when the caller measured them
    held_out: whether no prompt is one of the training data; None where nobody compared them
    max_thought_tokens: after which thoughts were closed; None where they were not
    token_losses: of a few validation rows, token by token, when the caller measured them
    """

    examples: tuple[Example, ...]
    num_samples: int = 1
    losses: Mapping[str, float] = field(default_factory=dict)
    held_out: bool | None = None
    max_thought_tokens: int | None = None
    token_losses: tuple[TokenLosses, ...] = ()

    @cached_property
    def by_trace(self) -> list[tuple[Example, ...]]:
        """The samples of each trace."""
        n = self.num_samples
        return [self.examples[i : i + n] for i in range(0, len(self.examples), n)]

    @cached_property
    def scored(self) -> list[tuple[Example, ...]]:
        """The samples of each trace that has a reference answer."""
        return [samples for samples in self.by_trace if samples[0].reference is not None]

    @property
    def unscored(self) -> list[str]:
        """Places of the traces without a reference answer: they count for format and length, not for accuracy."""
        return [samples[0].where for samples in self.by_trace if samples[0].reference is None]

    @property
    def answer_accuracy(self) -> float | None:
        """Share of correct answers, over traces and samples."""
        return _mean([bool(example.correct) for samples in self.scored for example in samples])

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the accuracy; its count is the number of traces, because samples of one trace are not
        independent."""
        accuracy = self.answer_accuracy
        return None if accuracy is None else wilson_interval(accuracy, len(self.scored))

    def pass_at(self, k: int) -> float | None:
        """Share of traces that `k` samples answer at least once (unbiased, see `pass_at_k`)."""
        return _mean([pass_at_k(sum(bool(s.correct) for s in samples), len(samples), k) for samples in self.scored])

    @property
    def majority_accuracy(self) -> float | None:
        """Share of traces whose most frequent answer is correct."""
        return _mean([_majority_is_correct(samples) for samples in self.scored])

    @property
    def format_rate(self) -> float | None:
        """Share of completions in the requested format, see `Example.format_ok`."""
        return _mean([example.format_ok for example in self.examples if example.format_ok is not None])

    @property
    def thought_rate(self) -> float | None:
        """Share of completions with a non-blank thought, closed or not."""
        return _mean([example.thinks for example in self.examples if example.thinks is not None])

    @property
    def format_interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the format rate, by the count of traces."""
        return None if self.format_rate is None else wilson_interval(self.format_rate, len(self.by_trace))

    @property
    def cut_rate(self) -> float | None:
        """Share of completions that were cut off, so that their answer is unknown."""
        return _mean([example.cut for example in self.examples if example.cut is not None])

    @property
    def thought_tokens(self) -> float | None:
        """Mean length of the thought; a completion without one counts as 0."""
        return _mean([example.thought_tokens for example in self.examples if example.thought_tokens is not None])

    def metrics(self) -> dict[str, float]:
        """The metrics that go to the run log."""
        values: dict[str, float | None] = {"answer_accuracy": self.answer_accuracy}
        if self.num_samples > 1:
            values |= {"answer_any": self.pass_at(self.num_samples), "answer_majority": self.majority_accuracy}
        values |= {"cut_rate": self.cut_rate, "format_rate": self.format_rate}
        values |= {"thought_rate": self.thought_rate, "thought_tokens": self.thought_tokens}
        values |= self.losses
        return {name: value for name, value in values.items() if value is not None}

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON; `read_evaluation` reads it back."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metrics": self.metrics(), **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        return path


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _majority_is_correct(samples: tuple[Example, ...]) -> bool:
    votes = [None if s.extracted is None else normalise(s.extracted) for s in samples]
    vote = majority(votes)
    return vote is not None and bool(samples[votes.index(vote)].correct)


def reference_answer(trace: Trace, tags: Tags, extractor: str | Sequence[str] | Extractor) -> str | None:
    """The right answer of a trace: the reference in its data, else the answer in its last turn; None if there is
    neither.

    Raises:
        RowError: the data's reference is in a box or after `####`, and that is empty or never ends.
    """
    if trace.answer is not None and normalise(answer := unwrap(trace.answer)):
        return answer
    found = extract_answer(trace.messages[-1].content, tags, extractor)
    return found if found is not None and normalise(found) else None


def _placed_reference(trace: Trace, tags: Tags, extract: Extractor) -> str | None:
    try:
        return reference_answer(trace, tags, extract)
    except RowError as fault:
        raise fault.at(trace.where) from None


def evaluate(
    traces: Sequence[Trace],
    generate: Generate,
    *,
    tags: Tags,
    count_tokens: Callable[[str], int],
    extractor: str | Sequence[str] | Extractor = "answer_line",
    comparer: str | Comparer = "exact",
    num_samples: int = 1,
    prefix: str | Callable[[Sequence[Message]], str] = "",
    losses: Mapping[str, float] | None = None,
    thinking: bool | None = None,
) -> Evaluation:
    """Let a model answer prompts and score the answers.

    Args:
        traces: their last turn is the reference, the turns before it the prompt.
        generate: prompts to completions; gets every prompt `num_samples` times in a row.
        tags: tags of the thought.
        count_tokens: tokens of a text, for the length of thoughts.
        extractor: how the answer is found, see `extract.EXTRACTORS`.
        comparer: when an answer is right, see `comparers.COMPARERS`.
        num_samples: completions per prompt; more than one makes sense only for a `generate` that samples.
        prefix: what the chat template writes at the start of the assistant's turn (`<think>`), counted as the model's;
            or a function of the prompt that returns it.
        losses: validation losses to keep with the result.
        thinking: whether the prompts ask for a thought (True) or for none (False); None if they ask for neither.

    Raises:
        UserError: no traces, `num_samples` below 1, unknown extractor or comparer, a reference that cannot be read
            (with its place), or a number of completions other than that of prompts.
    """
    if not traces:
        raise UserError("nothing to evaluate: there are no traces")
    if num_samples < 1:
        raise UserError(f"num_samples must be at least 1, got {num_samples}")
    extract, is_right = find_extractor(extractor), find_comparer(comparer)
    referenced = [(trace, _placed_reference(trace, tags, extract)) for trace in traces]
    repeated = [pair for pair in referenced for _ in range(num_samples)]
    completions = _completions(generate, [trace.messages[:-1] for trace, _ in repeated], prefix)
    thoughts = [split_completion(completion.text, tags)[0] for completion in completions]
    shown = [trace.messages[-1] for trace in traces]
    taught = [turn.thought or split_completion(turn.content, tags)[0] for turn in shown]
    with_thoughts = thinking is not None or any(thought is not None for thought in [*thoughts, *taught])
    examples = []
    for i, (completion, thought) in enumerate(zip(completions, thoughts, strict=True)):
        (trace, reference), extracted = repeated[i], extract_answer(completion.text, tags, extract)
        examples.append(
            Example(
                where=trace.where,
                sample=i % num_samples,
                prompt=tuple({"role": m.role, "content": m.content} for m in trace.messages[:-1]),
                completion=completion.text,
                extracted=extracted,
                reference=reference,
                correct=None if reference is None else extracted is not None and is_right(extracted, reference),
                format_ok=format_ok(completion.text, tags, thinking=thinking is not False) if with_thoughts else None,
                thought_tokens=(0 if thought is None else count_tokens(thought)) if with_thoughts else None,
                cut=completion.cut,
                thinks=bool(thought and thought.strip()) if with_thoughts else None,
            )
        )
    return Evaluation(tuple(examples), num_samples, dict(losses or {}))


def _completions(
    generate: Generate, prompts: list[tuple[Message, ...]], prefix: str | Callable[[Sequence[Message]], str]
) -> list[Completion]:
    """The completions of the prompts, each after its prefix."""
    generated = [Completion(one) if isinstance(one, str) else one for one in generate(prompts)]
    if len(generated) != len(prompts):
        raise UserError(f"generate returned {len(generated)} completions for {len(prompts)} prompts")
    prefixes = [prefix if isinstance(prefix, str) else prefix(prompt) for prompt in prompts]
    return [Completion(begin + text, cut) for begin, (text, cut) in zip(prefixes, generated, strict=True)]
