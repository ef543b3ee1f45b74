"""From messages to parts: which text of a rendered conversation is prompt, thought, answer, or a tag."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.read.turns import THOUGHT_KEYS
from cot_components.data.text.call_segments import with_calls
from cot_components.data.text.read_back import (
    TAG_ROLES,
    behind_opening,
    compare,
    has_thought,
    lost_thought,
    message_text,
    read_back,
)
from cot_components.data.text.segments import Segment, Tags, assistant_text, segment_text
from cot_components.data.text.templates import ChatTemplate, Shield
from cot_components.data.text.text_tokenizer import TextTokenizer, any_of
from cot_components.roles import Role


class Part(NamedTuple):
    """A stretch of a row with one role: plain text, or the id of a control token."""

    role: Role
    content: str | int


class Turn(NamedTuple):
    """One assistant turn, rendered: all before it, and what the model shall write, its end-of-turn token included.

    num_opening: parts at the start of the completion that the template writes: the prompt for a model ends behind them
    """

    prompt: list[Part]
    completion: list[Part]
    num_opening: int = 0

    @property
    def given(self) -> list[Part]:
        """What a model is given."""
        return self.prompt + self.completion[: self.num_opening]

    @property
    def written(self) -> list[Part]:
        """What the model writes itself."""
        return self.completion[self.num_opening :]


@dataclass(frozen=True)
class ChatFormat:
    """How conversations become rows: tokenizer, chat template and think tags. Training and evaluation share one.

    Whatever a message says, only the template writes control tokens: their texts inside a message are hidden from the
    template and come back as plain text; so are tags, but for an assistant's own. Which thoughts of earlier turns the
    prompt holds is the template's to decide, as it is for `transformers`.
    """

    tokenizer: TextTokenizer
    template: ChatTemplate
    tags: Tags

    in_one_go: ClassVar[bool] = True
    """Rows are encoded as inference encodes them, see `encode_in_one_go`."""
    stops_per_answer = 1
    step_ends: ClassVar[tuple[int, ...]] = ()
    """Chat traces are not cut into steps."""

    def prompt(self, messages: Sequence[Message]) -> list[Part]:
        """What a model is given to answer `messages`: exactly the beginning of the row that `turn` makes.

        Ends with a think_open part where the template opens the thought itself. Raises RowError.
        """
        shield = self._shield(messages)
        rendered = self.template.render(self._history(messages, shield), add_generation_prompt=True)
        return [part for parts in self._prompt_parts(rendered, shield) for part in parts]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `prompt`, encoded in one go."""
        (encoded,) = self.tokenizer.encode_contents([[part.content for part in self.prompt(messages)]])
        return encoded.ids

    def inference_ids(self, messages: Sequence[Message]) -> list[int] | None:
        """What inference gives a model to answer `messages`: the template rendered and encoded in one go.

        None where a person's text spells what only the template may write, which inference would take for the
        template's. Raises RowError.
        """
        spelled = [(self._end_pattern if m.role == "assistant" else self._hidden).search(m.content) for m in messages]
        if any(spelled) or any(self._end_pattern.search(m.thought or "") for m in messages):
            return None
        history = self._history(messages, Shield([], any_of([])))
        rendered = self.template.render(history, add_generation_prompt=True)
        (encoded,) = self.tokenizer.encode_rendered([rendered])
        return encoded.ids

    @property
    def tag_ids(self) -> dict[str, int]:
        """Ids of the tags where each is one token of its own; empty where they are ordinary text."""
        return {tag: self.tokenizer.control[tag] for tag in astuple(self.tags) if tag in self.tokenizer.control}

    def opening(self, messages: Sequence[Message]) -> str:
        """What the template itself writes of the answer to `messages`: `<think>` and a line break, or nothing."""
        return self.tokenizer.joined([part.content for part in self.prompt(messages) if part.role is Role.THINK_OPEN])

    def turn(self, messages: Sequence[Message]) -> Turn:
        """The last of `messages`, an assistant's, behind the prompt that inference gives.

        It stands there as the template writes it, which may change white space around thought and answer, nothing else.
        Where the template takes its thought out, or writes the prompt differently once the answer follows, it stands
        there as the data has it, for that is what a model writes, with the template's end of turn. What follows the
        end-of-turn token is cut. Raises RowError where roles would be uncertain.
        """
        *before, last = messages
        shield = self._shield(messages)
        history = self._history(before, shield)
        rendered = self.template.render(history, add_generation_prompt=True)
        prompt, opening = self._prompt_parts(rendered, shield)
        opened = self._split_prompt(rendered)[1]
        wanted = self._segments(last, opened=bool(opened))
        written = self._by_template(history, rendered, self._answer(last, wanted, opened, shield))
        completion = self._read_back(written, opened, shield) if written else []
        if written is None or lost_thought(wanted, completion):
            written = self._as_it_is(history, wanted, opened, shield)
            completion = self._read_back(written, opened, shield)
        compare(wanted, completion)
        parts = [part for s in with_calls(completion, last.calls) for part in self._completion_parts(s)]
        return Turn(prompt, [*opening, *parts, Part(Role.ANSWER, written.end_id)], len(opening))

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: the tokenizer's, and the token this template ends an assistant's turn with."""
        user = {"role": "user", "content": "a"}
        ends = set(self.tokenizer.stop_ids)
        for history in ([user], [{"role": "system", "content": "a"}, user]):
            try:
                ends.add(self._end_of_turn(history, Shield([], self._hidden)).end_id)
                break
            except RowError:  # a template may refuse a made-up conversation
                continue
        return tuple(sorted(ends))

    def fingerprint(self) -> str:
        """sha256 over tokenizer, template and tags."""
        facts = (self.tokenizer.fingerprint(), self.template.fingerprint(), *astuple(self.tags))
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    @cached_property
    def _hidden(self) -> re.Pattern[str]:
        return any_of([*self.tokenizer.control, self.tags.open, self.tags.close])

    @cached_property
    def _end_pattern(self) -> re.Pattern[str]:
        return any_of([text for text in self.tokenizer.control if text not in (self.tags.open, self.tags.close)])

    def _shield(self, messages: Sequence[Message]) -> Shield:
        return Shield([m.content + (m.thought or "") for m in messages], self._hidden)

    def _segments(self, message: Message, *, opened: bool) -> list[Segment]:
        text = assistant_text(message, self.tags)
        closes = self.tags.close in text and not text.lstrip().startswith(self.tags.open)
        return segment_text(text, self.tags, opened=opened and closes)

    def _history(self, messages: Sequence[Message], shield: Shield) -> list[dict[str, str]]:
        return [self._earlier(message, shield) for message in messages]

    def _earlier(self, message: Message, shield: Shield) -> dict[str, str]:
        """A message as `transformers` would hand it to the template, a thought where the template looks for it."""
        if message.role != "assistant":
            return {"role": message.role, "content": shield.hide(message.content)}
        if message.thought is not None and self.template.reads_thoughts:
            return self._beside(message, lambda text: shield.hide(text, self._end_pattern))
        text = assistant_text(message, self.tags)
        return {"role": message.role, "content": shield.hide(text, self._end_pattern)}

    def _beside(self, message: Message, hide: Callable[[str], str]) -> dict[str, str]:
        thought = dict.fromkeys(THOUGHT_KEYS, hide(message.thought or ""))
        return {"role": message.role, "content": hide(message.content), **thought}

    def _answer(self, message: Message, segments: list[Segment], opening: str, shield: Shield) -> dict[str, str]:
        """The turn that is learnt, as the template gets it: tags are readable where they are the thought's."""
        if message.thought is not None and self.template.reads_thoughts:
            return self._beside(message, shield.hide)
        return {"role": message.role, "content": message_text(segments, opening, shield.hide)}

    def _by_template(self, history: list[dict[str, str]], prompt: str, answer: dict[str, str]) -> _Written | None:
        """What the template writes behind the prompt; None where it writes the prompt differently once that follows."""
        full = self.template.render([*history, answer])
        return self._until_end(full[len(prompt) :]) if full.startswith(prompt) else None

    def _as_it_is(
        self, history: list[dict[str, str]], segments: list[Segment], opening: str, shield: Shield
    ) -> _Written:
        """The turn as the data has it, and the template's end of turn."""
        if opening and not has_thought(segments):
            raise RowError("the chat template opens a thought that the answer does not have; set dataset.template")
        end = self._end_of_turn(history, shield)
        text = behind_opening(message_text(segments, opening, shield.hide), opening)
        return _Written(text + end.text, end.end_id)

    def _end_of_turn(self, history: list[dict[str, str]], shield: Shield) -> _Written:
        """What the template writes behind an assistant's text."""
        cover = shield.cover("answer")
        rendered = self.template.render([*history, {"role": "assistant", "content": cover}])
        _, found, after = rendered.rpartition(cover)
        if not found:
            raise RowError("the chat template does not write the assistant's text")
        return self._until_end(after)

    def _prompt_parts(self, rendered: str, shield: Shield) -> tuple[list[Part], list[Part]]:
        prompt, opening = self._split_prompt(rendered)
        return (
            self._template_parts(prompt, Role.PROMPT, shield),
            self._template_parts(opening, Role.THINK_OPEN, shield),
        )

    def _split_prompt(self, rendered: str) -> tuple[str, str]:
        """Prompt, and the opening tag with the white space around it where the template ends in one."""
        bare = rendered.rstrip()
        cut = len(bare) - len(self.tags.open) if bare.endswith(self.tags.open) else len(rendered)
        return rendered[:cut], rendered[cut:]

    def _template_parts(self, text: str, role: Role, shield: Shield) -> list[Part]:
        """Parts of text the template wrote: control tokens where it names them, the rest restored to plain text."""
        pieces = self.tokenizer.control_pattern.split(text)
        parts = [
            Part(role, self.tokenizer.control[piece]) if is_control else Part(role, shield.restore(piece))
            for piece, is_control in zip(pieces, itertools.cycle((False, True)), strict=False)
        ]
        return [part for part in parts if part.content != ""]

    def _until_end(self, rendered: str) -> _Written:
        """What stands before the first control token, and its id; the end token's where the template writes none."""
        found = self._end_pattern.search(rendered)
        if found is not None:
            return _Written(rendered[: found.start()], self.tokenizer.control[found[0]])
        if self.tokenizer.eos_id is None:
            raise RowError("the chat template writes no end of turn and the tokenizer has no end token")
        return _Written(rendered, self.tokenizer.eos_id)

    def _read_back(self, written: _Written, opening: str, shield: Shield) -> list[Segment]:
        return read_back(written.text, self.tags, shield.restore, opened=bool(opening))

    def _completion_parts(self, segment: Segment) -> list[Part]:
        if segment.role in TAG_ROLES:
            pieces = filter(None, self.tokenizer.control_pattern.split(segment.text))
            return [Part(segment.role, self.tokenizer.control.get(piece, piece)) for piece in pieces]
        return [Part(segment.role, segment.text)]


class _Written(NamedTuple):
    """Text of an assistant's turn, people's texts in it still hidden, and the id of the token that ends the turn."""

    text: str
    end_id: int


def part_ids(parts: Sequence[Part], tokenizer: TextTokenizer) -> list[int]:
    """Token ids of parts, each text encoded by itself."""
    return [
        i
        for part in parts
        for i in ([part.content] if isinstance(part.content, int) else tokenizer.encode_text(part.content))
    ]
