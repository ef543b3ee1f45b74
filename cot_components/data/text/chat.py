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
from cot_components.data.text.empty_thoughts import POLICIES, behind_prompt, opened_thought, thinks
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
from cot_components.errors import UserError
from cot_components.roles import Role


class Part(NamedTuple):
    """A stretch of a row with one role: plain text, or the id of a control token."""

    role: Role
    content: str | int


class Turn(NamedTuple):
    """One rendered assistant turn: the model's input, and the output to learn, including its end-of-turn token."""

    prompt: list[Part]
    completion: list[Part]


@dataclass(frozen=True)
class ChatFormat:
    """How conversations become rows: tokenizer, chat template and think tags. Training and evaluation share the object.

    empty_thought: what to do with answers without a thought, see `empty_thoughts`

    For prompts, `thinking` tells the template to ask for a thought (True) or for none (False); None sets no switch.

    Only the template can write control tokens: their texts inside a message are hidden from the template and restored
    as plain text, and so are tags, except an assistant's own. The template decides which thoughts of earlier turns stay
    in the prompt, as with `transformers`.
    """

    tokenizer: TextTokenizer
    template: ChatTemplate
    tags: Tags
    empty_thought: str = "template"

    in_one_go: ClassVar[bool] = True
    """Rows are encoded as inference encodes them, see `encode_in_one_go`."""
    stops_per_answer = 1
    step_ends: ClassVar[tuple[int, ...]] = ()
    """Chat traces are not cut into steps."""

    def __post_init__(self) -> None:
        if self.empty_thought not in POLICIES:
            raise UserError(f"dataset.empty_thought must be one of {', '.join(POLICIES)}, got {self.empty_thought!r}")

    def asks_to_think(self, answer: Message) -> bool:
        """Whether the row of this assistant's answer has the prompt that asks for a thought."""
        return self.empty_thought == "none" or thinks(answer, self.tags)

    def prompt(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[Part]:
        """The model's input for answering `messages`: exactly the prompt of the row that `turn` makes.

        Raises RowError.
        """
        shield = self._shield(messages)
        return self._template_parts(self._prompt(self._history(messages, shield), thinking), Role.PROMPT, shield)

    def prompt_ids(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int]:
        """Token ids of `prompt`, encoded in one go."""
        parts = self.prompt(messages, thinking=thinking)
        (encoded,) = self.tokenizer.encode_contents([[part.content for part in parts]])
        return encoded.ids

    def inference_ids(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int] | None:
        """The ids inference would use to answer `messages`: the template rendered and encoded in one go.

        None if a message spells a text that only the template may write, which inference would take for the template's.
        Raises RowError.
        """
        spelled = [(self._end_pattern if m.role == "assistant" else self._hidden).search(m.content) for m in messages]
        if any(spelled) or any(self._end_pattern.search(m.thought or "") for m in messages):
            return None
        history = self._history(messages, Shield([], any_of([])))
        (encoded,) = self.tokenizer.encode_rendered([self._prompt(history, thinking)])
        return encoded.ids

    @property
    def tag_ids(self) -> dict[str, int]:
        """Ids of the tags if each is a single token; empty if they are ordinary text."""
        return {tag: self.tokenizer.control[tag] for tag in astuple(self.tags) if tag in self.tokenizer.control}

    def opening(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """The beginning of the answer that the template itself writes: `<think>` and a line break, or nothing."""
        return opened_thought(self._prompt(self._history(messages, self._shield(messages)), thinking), self.tags)

    def turn(self, messages: Sequence[Message]) -> Turn:
        """The last of `messages`, an assistant's, after the prompt that inference would use.

        It is written by the template, which may change white space around thought and answer but nothing else. If the
        template removes the thought, or the answer changes how it writes the prompt, the turn is taken from the data
        instead (which is what a model has to write), with the template's end of turn. Everything after the end-of-turn
        token is cut. Raises RowError if roles would be ambiguous.
        """
        *before, last = messages
        shield, thinking = self._shield(messages), self.asks_to_think(last)
        history = self._history(before, shield)
        prompt = self._prompt(history, thinking)
        last = behind_prompt(last, prompt, self.tags, self.empty_thought)
        opening = opened_thought(prompt, self.tags)
        wanted = self._segments(last, opened=bool(opening))
        written = self._by_template(history, prompt, self._answer(last, wanted, opening, shield), thinking, shield)
        completion = self._read_back(written, opening, shield) if written else []
        added = self.empty_thought == "none" and has_thought(completion) and not has_thought(wanted)
        if written is None or added or lost_thought(wanted, completion):
            written = self._as_it_is(history, wanted, opening, shield)
            completion = self._read_back(written, opening, shield)
        compare(wanted, completion)
        parts = [part for s in with_calls(completion, last.calls) for part in self._completion_parts(s)]
        header = self._template_parts(written.header, Role.ANSWER, shield)
        return Turn(
            self._template_parts(prompt, Role.PROMPT, shield), [*header, *parts, Part(Role.ANSWER, written.end_id)]
        )

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
        """sha256 over tokenizer, template, tags and the policy for answers without a thought."""
        facts = (self.tokenizer.fingerprint(), self.template.fingerprint(), *astuple(self.tags), self.empty_thought)
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
        """A message as `transformers` would pass it to the template, with the thought where the template looks for
        it."""
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
        """The learnt turn as passed to the template: the thought's own tags are left readable."""
        if message.thought is not None and self.template.reads_thoughts:
            return self._beside(message, shield.hide)
        return {"role": message.role, "content": message_text(segments, opening, shield.hide)}

    def _prompt(self, history: list[dict[str, str]], thinking: bool | None) -> str:
        return self.template.render(history, add_generation_prompt=True, thinking=thinking)

    def _by_template(
        self, history: list[dict[str, str]], prompt: str, answer: dict[str, str], thinking: bool, shield: Shield
    ) -> _Written | None:
        """What the template writes after the prompt; None if the answer changes how it writes the prompt."""
        full = self.template.render([*history, answer], thinking=thinking)
        if not full.startswith(prompt):
            return None
        rest = full[len(prompt) :]
        header = self._header(history, prompt, thinking, shield) if self._end_pattern.match(rest) else ""
        if not header or not rest.startswith(header):
            return self._until_end(rest)
        return self._until_end(rest[len(header) :])._replace(header=header)

    def _header(self, history: list[dict[str, str]], prompt: str, thinking: bool, shield: Shield) -> str:
        """What the template writes between the prompt and an answer without a thought."""
        before, _ = self._around_answer(history, shield, thinking)
        return before[len(prompt) :] if before.startswith(prompt) else ""

    def _as_it_is(
        self, history: list[dict[str, str]], segments: list[Segment], opening: str, shield: Shield
    ) -> _Written:
        """The turn as it is in the data, with the template's end of turn."""
        if opening and not has_thought(segments):
            help = "write an empty one" if self.empty_thought == "template" else "change dataset.empty_thought"
            raise RowError(
                f"the chat template opens a thought the answer does not have; {help}, or set dataset.template"
            )
        end = self._end_of_turn(history, shield)
        text = behind_opening(message_text(segments, opening, shield.hide), opening)
        return _Written(text + end.text, end.end_id)

    def _end_of_turn(self, history: list[dict[str, str]], shield: Shield) -> _Written:
        """What the template writes after an assistant's text."""
        return self._until_end(self._around_answer(history, shield)[1])

    def _around_answer(
        self, history: list[dict[str, str]], shield: Shield, thinking: bool | None = None
    ) -> tuple[str, str]:
        """What the template writes before and after an assistant's text."""
        cover = shield.cover("answer")
        rendered = self.template.render([*history, {"role": "assistant", "content": cover}], thinking=thinking)
        before, found, after = rendered.rpartition(cover)
        if not found:
            raise RowError("the chat template does not write the assistant's text")
        return before, after

    def _template_parts(self, text: str, role: Role, shield: Shield) -> list[Part]:
        """Parts of text the template wrote: control tokens where it names them, the rest restored to plain text."""
        pieces = self.tokenizer.control_pattern.split(text)
        parts = [
            Part(role, self.tokenizer.control[piece]) if is_control else Part(role, shield.restore(piece))
            for piece, is_control in zip(pieces, itertools.cycle((False, True)), strict=False)
        ]
        return [part for part in parts if part.content != ""]

    def _until_end(self, rendered: str) -> _Written:
        """The text before the first control token, and that token's id; the end token's if the template writes none.

        Control tokens that are part of a tag do not count.
        """
        tags = astuple(self.tags)
        found = next((token for token in self._hidden.finditer(rendered) if token[0] not in tags), None)
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
    """Text of an assistant's turn, with shielded texts still hidden, and the id of the token that ends the turn.

    header: control tokens and text that the template writes before an answer without a thought
    """

    text: str
    end_id: int
    header: str = ""


def part_ids(parts: Sequence[Part], tokenizer: TextTokenizer) -> list[int]:
    """Token ids of parts, each text encoded separately."""
    return [
        i
        for part in parts
        for i in ([part.content] if isinstance(part.content, int) else tokenizer.encode_text(part.content))
    ]
