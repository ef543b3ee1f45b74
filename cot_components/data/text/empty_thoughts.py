"""Rows without a thought: `dataset.empty_thought` says what stands between their prompt and their answer.

| policy     | the prompt is rendered | a block with nothing between its tags                                          |
|------------|------------------------|--------------------------------------------------------------------------------|
| `template` | with thinking off      | is where the template writes it: part of the prompt, and not learnt, if its    |
|            |                        | generation prompt ends in it; else written, and learnt, by the model           |
| `none`     | with thinking on       | is nowhere; refused if the generation prompt opens a thought                   |
| `refuse`   | -                      | the row is a bad row                                                           |

A thought of nothing but blanks is none. With thinking on and off is what `SWITCHES` tell the template; one that reads
none of them writes the same prompt either way.
"""

from __future__ import annotations

from dataclasses import replace

from cot_components.data.bad_rows import RowError
from cot_components.data.read.messages import Message
from cot_components.data.text.segments import Tags

POLICIES = ("template", "none", "refuse")
SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates are told whether to ask for a thought."""


def thinks(message: Message, tags: Tags) -> bool:
    """Whether an assistant's message has a thought that is not blank, beside its content or inside."""
    if message.thought is not None:
        return bool(message.thought.strip())
    before, closed, _ = message.content.partition(tags.close)
    return bool(closed and before.replace(tags.open, "", 1).strip())


def opened_thought(prompt: str, tags: Tags) -> str:
    """The opening tag and the white space behind it where a rendered prompt ends in one."""
    bare = prompt.rstrip()
    return prompt[len(bare) - len(tags.open) :] if bare.endswith(tags.open) else ""


def behind_prompt(answer: Message, prompt: str, tags: Tags, policy: str) -> Message:
    """An assistant's message as it follows its rendered prompt: without a blank thought that has no place there.

    Raises RowError for an answer that the policy refuses, and for a thought behind a prompt that ends in a closed one.
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
