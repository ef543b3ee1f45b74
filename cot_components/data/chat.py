"""From messages to parts: which text of a rendered conversation is prompt, thought, answer, or a tag."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from cot_components.data.agent_segments import with_calls
from cot_components.data.errors import RowError
from cot_components.data.formats import Message
from cot_components.data.segments import Segment, Tags, assistant_text, segment_text
from cot_components.data.templates import ChatTemplate, Shield
from cot_components.data.text_tokenizer import TextTokenizer, any_of
from cot_components.roles import Role

TAG_ROLES = (Role.THINK_OPEN, Role.THINK_CLOSE)


class Part(NamedTuple):
    """A stretch of a row with one role: plain text, or the id of a control token."""

    role: Role
    content: str | int


class Turn(NamedTuple):
    """One assistant turn, rendered: all before it, and what the model shall write, its end-of-turn token included."""

    prompt: list[Part]
    completion: list[Part]


@dataclass(frozen=True)
class ChatFormat:
    """How conversations become rows: tokenizer, chat template and think tags. Training and evaluation share one.

    Whatever a message says, only the template writes control tokens and tags: their texts inside a message are hidden
    from the template and come back as plain text. Earlier assistant turns lose their thoughts, as they do in use.
    """

    tokenizer: TextTokenizer
    template: ChatTemplate
    tags: Tags

    stops_per_answer = 1
    step_ends: ClassVar[tuple[int, ...]] = ()
    """Chat traces are not cut into steps."""

    def prompt(self, messages: Sequence[Message]) -> list[Part]:
        """What a model is given to answer `messages`: exactly the beginning of the row that `turn` makes.

        Ends with a think_open part where the template opens the thought itself. Raises RowError.
        """
        shield = self._shield(messages)
        history = self._history(messages, shield)
        prompt, opening = self._split_prompt(self.template.render(history, add_generation_prompt=True))
        parts = self._template_parts(prompt, Role.PROMPT, shield)
        return parts + self._template_parts(opening, Role.THINK_OPEN, shield)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `prompt`."""
        return part_ids(self.prompt(messages), self.tokenizer)

    @property
    def tag_ids(self) -> dict[str, int]:
        """Ids of the tags where each is one token of its own; empty where they are ordinary text."""
        return {tag: self.tokenizer.control[tag] for tag in astuple(self.tags) if tag in self.tokenizer.control}

    def opening(self, messages: Sequence[Message]) -> str:
        """What the template itself writes of the answer to `messages`: `<think>` and a line break, or nothing."""
        parts = [part for part in self.prompt(messages) if part.role is Role.THINK_OPEN]
        return self.tokenizer.decode(part_ids(parts, self.tokenizer))

    def turn(self, messages: Sequence[Message]) -> Turn:
        """The last of `messages`, an assistant's, as the template writes it after the prompt.

        The template may change white space around thought and answer, nothing else; what it writes after the
        end-of-turn token is cut. Raises RowError where roles would be uncertain.
        """
        *before, last = messages
        shield = self._shield(messages)
        history = self._history(before, shield)
        rendered_prompt = self.template.render(history, add_generation_prompt=True)
        prompt, opening = self._split_prompt(rendered_prompt)
        segments = self._segments(last, opened=bool(opening))
        answer = {"role": "assistant", "content": _content(segments, opening, shield)}
        full = self.template.render([*history, answer])
        if not full.startswith(rendered_prompt):
            raise RowError("the chat template writes the prompt differently once the answer follows")
        written, end_id = self._until_end(full[len(rendered_prompt) :])
        completion = [Segment(s.role, shield.restore(s.text)) for s in self._read_back(opening, written)]
        _compare(segments, completion)
        parts = [part for s in with_calls(completion, last.calls) for part in self._completion_parts(s)]
        return Turn(self._template_parts(prompt, Role.PROMPT, shield), [*parts, Part(Role.ANSWER, end_id)])

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: the tokenizer's, and the token this template ends an assistant's turn with."""
        probe = self.turn([Message("user", "a"), Message("assistant", f"{self.tags.open}b{self.tags.close}c")])
        end = probe.completion[-1].content
        return tuple(sorted({*self.tokenizer.stop_ids, int(end)}))

    def fingerprint(self) -> str:
        """sha256 over tokenizer, template and tags."""
        facts = (self.tokenizer.fingerprint(), self.template.source, *astuple(self.tags))
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
        return segment_text(text, self.tags, opened=opened and not text.lstrip().startswith(self.tags.open))

    def _history(self, messages: Sequence[Message], shield: Shield) -> list[dict[str, str]]:
        return [{"role": m.role, "content": shield.hide(self._without_thought(m))} for m in messages]

    def _without_thought(self, message: Message) -> str:
        if message.role != "assistant":
            return message.content
        text = assistant_text(message, self.tags)
        opened = self.tags.close in text and self.tags.open not in text  # written after a template that opened it
        answers = [s.text for s in segment_text(text, self.tags, opened=opened) if s.role is Role.ANSWER]
        return "".join(answers).lstrip("\n")

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

    def _until_end(self, rendered: str) -> tuple[str, int]:
        """What stands before the first control token, and its id; the end token's where the template writes none."""
        found = self._end_pattern.search(rendered)
        if found is not None:
            return rendered[: found.start()], self.tokenizer.control[found[0]]
        if self.tokenizer.eos_id is None:
            raise RowError("the chat template writes no end of turn and the tokenizer has no end token")
        return rendered, self.tokenizer.eos_id

    def _read_back(self, opening: str, written: str) -> list[Segment]:
        """Segments of a rendered turn, whose only tags are the template's and the trace's own."""
        tags = any_of([self.tags.open, self.tags.close])
        segments = [Segment(Role.THINK_OPEN, opening)] if opening else []
        inside = bool(opening)
        for piece in filter(None, tags.split(written)):
            if piece in (self.tags.open, self.tags.close):
                if inside == (piece == self.tags.open):
                    raise RowError("the chat template changes the think tags", f"{piece} stands in the wrong place")
                inside = piece == self.tags.open
                segments.append(Segment(Role.THINK_OPEN if inside else Role.THINK_CLOSE, piece))
            else:
                segments.append(Segment(Role.THOUGHT if inside else Role.ANSWER, piece))
        return segments

    def _completion_parts(self, segment: Segment) -> list[Part]:
        if segment.role in TAG_ROLES:
            pieces = filter(None, self.tokenizer.control_pattern.split(segment.text))
            return [Part(segment.role, self.tokenizer.control.get(piece, piece)) for piece in pieces]
        return [Part(segment.role, segment.text)]


def part_ids(parts: Sequence[Part], tokenizer: TextTokenizer) -> list[int]:
    """Token ids of parts, each text encoded by itself."""
    return [
        i
        for part in parts
        for i in ([part.content] if isinstance(part.content, int) else tokenizer.encode_text(part.content))
    ]


def _content(segments: Sequence[Segment], opening: str, shield: Shield) -> str:
    """An assistant message whose tags are the only readable ones; it begins with what the prompt holds of it."""
    text = "".join(s.text if s.role in TAG_ROLES else shield.hide(s.text) for s in segments)
    return opening + text.strip().removeprefix(opening.strip()).lstrip() if opening else text


def _compare(wanted: Sequence[Segment], written: Sequence[Segment]) -> None:
    """Raise RowError unless every thought and answer was written, up to white space around it, and no other thought.

    An answer without a thought may get an empty one.
    """
    pairs = [sum(s.role is Role.THINK_CLOSE for s in segments) for segments in (wanted, written)]
    if pairs[1] != pairs[0] and pairs != [0, 1]:
        raise RowError("the chat template changes the think tags", f"{pairs[1]} pairs in place of {pairs[0]}")
    for role in (Role.THOUGHT, Role.ANSWER):
        texts = [
            [s.text.strip() for s in segments if s.role is role and s.text.strip()] for segments in (wanted, written)
        ]
        if texts[0] != texts[1]:
            raise RowError(f"the chat template does not keep the {role.label} verbatim")
