"""Rows without a thought: `dataset.empty_thought` decides what goes between their prompt and their answer.

| policy     | the prompt is rendered | a block with nothing between its tags                                          |
|------------|------------------------|--------------------------------------------------------------------------------|
| `template` | with thinking off      | is where the template writes it: part of the prompt, and not learnt, if its    |
|            |                        | generation prompt ends in it; else written, and learnt, by the model           |
| `none`     | with thinking on       | is nowhere; refused if the generation prompt opens a thought                   |
| `refuse`   | -                      | the row is a bad row                                                           |

A blank thought counts as none. Thinking is turned on and off by the `SWITCHES` passed to the template; a template that
reads none of them writes the same prompt either way.
"""

from __future__ import annotations

from dataclasses import replace

from cot_components.data.bad_rows import RowError
from cot_components.data.read.messages import Message
from cot_components.data.text.segments import Tags

POLICIES = ("template", "none", "refuse")
SWITCHES = ("enable_thinking", "thinking")
"""Variables that tell templates whether to ask for a thought."""


def thinks(message: Message, tags: Tags) -> bool:
    """Whether an assistant's message has a non-blank thought, separate from its content or inside it."""
    if message.thought is not None:
        return bool(message.thought.strip())
    before, closed, _ = message.content.partition(tags.close)
    return bool(closed and before.replace(tags.open, "", 1).strip())


def opened_thought(prompt: str, tags: Tags) -> str:
    """The opening tag and white space at the end of a rendered prompt, or ""."""
    bare = prompt.rstrip()
    return prompt[len(bare) - len(tags.open) :] if bare.endswith(tags.open) else ""


def behind_prompt(answer: Message, prompt: str, tags: Tags, policy: str) -> Message:
    """An assistant's message as it follows its rendered prompt, with a blank thought removed where the policy says so.

    Raises RowError for an answer the policy refuses, and for a thought after a prompt that ends in a closed one.
    """
    has_thought, block_given = thinks(answer, tags), prompt.rstrip().endswith(tags.close)
    if has_thought and block_given:
        raise RowError("the chat template closes a thought before that of the answer; set dataset.template")
    if not has_thought and policy == "refuse":
        raise RowError("the answer has no thought, and dataset.empty_thought is refuse")
    if has_thought or not (block_given or policy == "none"):
        return answer
    if answer.thought is not None:
        return replace(answer, thought=None)
    _, closed, rest = answer.content.partition(tags.close)
    return replace(answer, content=rest.lstrip("\n")) if closed else answer
