"""A budget for thoughts: what is not closed when it is spent is closed, and the answer follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags


@dataclass(frozen=True)
class ThoughtBudget:
    """How long thoughts may be, and how they are closed.

    max_tokens: tokens of a thought that has not been closed before its close tag is written for the model; the tag's
                own do not count, those of a tag that the model has begun do
    tags:       of the thought
    close_ids:  token ids of the close tag
    decode:     token ids to text, control tokens spelled out
    opened:     of each prompt: whether it ends inside the thought
    """

    max_tokens: int
    tags: Tags
    close_ids: tuple[int, ...]
    decode: Callable[[list[int]], str]
    opened: tuple[bool, ...]

    def thought(self, index: int) -> Thought:
        """The thought of the completion of a prompt, before its first token."""
        return Thought(self, self.opened[index])


def tag_ids(chat: ChatFormat, tag: str) -> tuple[int, ...]:
    """Token ids of one of the tags: one id where it is a token of its own."""
    tokenizer = chat.tokenizer
    return (tokenizer.control[tag],) if tag in tokenizer.control else tuple(tokenizer.encode_text(tag))


class Thought:
    """One completion while it is written, token by token. One that never opens a thought is left alone."""

    def __init__(self, budget: ThoughtBudget, opened: bool) -> None:
        self._budget = budget
        self._left: int | None = budget.max_tokens if opened else None  # None: not opened yet
        self._closed = False
        self._to_write: deque[int] = deque()
        longest = max(len(tag.encode()) for tag in (budget.tags.open, budget.tags.close))
        self._recent: deque[int] = deque(maxlen=2 * longest)  # a tag has a token per byte at most

    def write(self, chosen: int) -> int:
        """The next token: the one that the model chose, or that of the close tag which has to stand here."""
        if self._closed:
            return chosen
        if self._left == 0 and not self._to_write:
            self._to_write.extend(self._rest_of_tag())
        if self._to_write:
            chosen = self._to_write.popleft()
            self._closed = not self._to_write
        else:
            self._read(chosen)
        return chosen

    def _read(self, token: int) -> None:
        self._recent.append(token)
        text = self._budget.decode(list(self._recent))
        self._closed = self._budget.tags.close in text
        if self._left is not None:
            self._left -= 1
        elif self._budget.tags.open in text:
            self._left = self._budget.max_tokens
            self._recent.clear()

    def _rest_of_tag(self) -> tuple[int, ...]:
        """The close tag without what the model has written of it."""
        tag, recent = self._budget.close_ids, tuple(self._recent)
        begun = next(size for size in range(len(tag) - 1, -1, -1) if recent[len(recent) - size :] == tag[:size])
        return tag[begun:]
