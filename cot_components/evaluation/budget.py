"""A token budget for thoughts: a thought that exceeds it is closed, and the model goes on to its answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags


@dataclass(frozen=True)
class ThoughtBudget:
    """How long thoughts may be, and how they are closed.

    max_tokens: of the thought; one still open after this many tokens is closed for the model. A close tag that the
                model has begun counts towards them and is completed
    tags:       of the thought
    close_ids:  token ids of the close tag
    decode:     token ids to text, control tokens spelled out
    opened:     for each prompt, whether it ends inside the thought
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
    """Token ids of one of the tags; a single id if the tag is one token."""
    tokenizer = chat.tokenizer
    return (tokenizer.control[tag],) if tag in tokenizer.control else tuple(tokenizer.encode_text(tag))


class Thought:
    """The thought of one completion as it is generated, token by token; if it is opened again, it continues. A
    completion that never opens a thought is left alone.
    """

    def __init__(self, budget: ThoughtBudget, opened: bool) -> None:
        self._budget, self._inside, self._left = budget, opened, budget.max_tokens
        self._to_write: deque[int] = deque()
        longest = max(len(tag.encode()) for tag in (budget.tags.open, budget.tags.close))
        self._recent: deque[int] = deque(maxlen=2 * longest)  # a tag has a token per byte at most

    def write(self, chosen: int) -> int:
        """The next token: the model's choice, or the token of the close tag that must come here."""
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
        """The part of the close tag that the model has not written yet."""
        tag, recent = self._budget.close_ids, tuple(self._recent)
        begun = next(size for size in range(len(tag) - 1, -1, -1) if recent[len(recent) - size :] == tag[:size])
        return tag[begun:]
