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

    max_tokens: of the thought; one that has so many and is not closed is closed for the model. A close tag that the
                model has begun counts, and is finished
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
    """The thought of one completion while it is written, token by token; one that is opened again goes on. A completion
    that never opens a thought is left alone.
    """

    def __init__(self, budget: ThoughtBudget, opened: bool) -> None:
        self._budget, self._inside, self._left = budget, opened, budget.max_tokens
        self._to_write: deque[int] = deque()
        longest = max(len(tag.encode()) for tag in (budget.tags.open, budget.tags.close))
        self._recent: deque[int] = deque(maxlen=2 * longest)  # a tag has a token per byte at most

    def write(self, chosen: int) -> int:
        """The next token: the one that the model chose, or that of the close tag which has to stand here."""
        if self._inside and not self._left and not self._to_write:
            self._to_write.extend(self._rest_of_tag())
        token = self._to_write.popleft() if self._to_write else chosen
        self._recent.append(token)
        if self._inside:
            self._left = max(self._left - 1, 0)
        tags = self._budget.tags
        if (tags.close if self._inside else tags.open) in self._budget.decode(list(self._recent)):
            self._inside = not self._inside
            self._recent.clear()
        return token

    def _rest_of_tag(self) -> tuple[int, ...]:
        """The close tag without what the model has written of it."""
        tag, recent = self._budget.close_ids, tuple(self._recent)
        begun = next(size for size in range(len(tag) - 1, -1, -1) if recent[len(recent) - size :] == tag[:size])
        return tag[begun:]
