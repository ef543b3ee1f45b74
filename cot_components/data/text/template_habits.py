"""What a chat template adds to a conversation and leaves out of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cot_components.data.bad_rows import RowError
from cot_components.data.read.messages import Message
from cot_components.data.text.chat import ChatFormat

_SAID = "qzxj"
_ROLES = re.compile(r"\b(?:system|user|assistant|model)\b")


def adds(chat: ChatFormat, *, system: bool) -> str:
    """Text that the template itself puts before a user's first message, with or without a system prompt; usually "".

    Names of roles and control tokens are not counted.
    """
    messages = [*([Message("system", _SAID)] if system else []), Message("user", _SAID)]
    try:
        written = _written(chat, messages)
    except RowError:  # a template may refuse system prompts
        return ""
    bare = chat.tokenizer.control_pattern.sub(" ", written) if chat.tokenizer.control else written
    words = " ".join(_ROLES.sub(" ", bare.replace(_SAID, " ").replace(chat.tags.open, " ")).split())
    return words if sum(map(str.isalnum, words)) > 3 else ""


def loses_earlier_thought(chat: ChatFormat, messages: Sequence[Message]) -> bool:
    """Whether the prompt of the last message lacks the thought of an earlier assistant turn."""
    thoughts = [_thought(chat, message) for message in messages[:-1] if message.role == "assistant"]
    if not any(thoughts):
        return False
    try:
        written = _written(chat, messages[:-1])
    except RowError:
        return False
    return any(thought not in written for thought in thoughts if thought)


def _thought(chat: ChatFormat, message: Message) -> str:
    if message.thought is not None:
        return message.thought.strip()
    _, opened, rest = message.content.partition(chat.tags.open)
    return rest.partition(chat.tags.close)[0].strip() if opened else ""


def _written(chat: ChatFormat, messages: Sequence[Message]) -> str:
    return chat.tokenizer.joined([part.content for part in chat.prompt(messages)])
