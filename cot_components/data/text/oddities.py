"""Signs that something is wrong with a text: it ends in the middle, repeats itself, contains stray tags."""

from __future__ import annotations

import re
from collections import Counter

from cot_components.data.text.segments import Tags

_OPEN_ENDED = (",", ";", ":", "(", "[", "{", "=", "+", "\\")
_BOX = re.compile(r"\\boxed\s*\{")
_SENTENCE = re.compile(r"[.!?]\s|\n")
_TAG = re.compile(
    r"</?(?:think|thinking|thought|reasoning|reflection|scratchpad|answer|solution|tool_call|tool_response)>"
    r"|<\|[^<>|\s]{1,40}\|>|\[/?think\]",
    re.IGNORECASE,
)
LEAST_SENTENCE, LEAST_TIMES, LEAST_SHARE = 20, 4, 0.3


def looks_cut(text: str) -> bool:
    """Whether an answer seems to stop in the middle: at punctuation that announces more, in a code fence or a box."""
    text = text.rstrip()
    boxes = list(_BOX.finditer(text))
    in_box = bool(boxes) and text.count("{", boxes[-1].start()) > text.count("}", boxes[-1].start())
    return text.endswith(_OPEN_ENDED) or text.count("```") % 2 == 1 or in_box


def goes_round(text: str) -> bool:
    """Whether one sentence (of 20 characters or more) occurs at least four times and makes up 30 % of the text."""
    sentences = Counter(s for part in _SENTENCE.split(text) if len(s := part.strip()) >= LEAST_SENTENCE)
    if not sentences:
        return False
    sentence, times = sentences.most_common(1)[0]
    return times >= LEAST_TIMES and times * len(sentence) >= LEAST_SHARE * len(text)


def stray_tags(text: str, tags: Tags) -> list[str]:
    """Tags in a text that look like those around thoughts, answers or calls, or like control tokens; not `tags`."""
    return [found for found in _TAG.findall(text) if found not in (tags.open, tags.close)]
