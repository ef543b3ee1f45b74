"""Where thoughts, calls and observations of an agent's turn begin and end. Only text after the thought is read here.

| written     | text                                       | segments                                                  |
|-------------|--------------------------------------------|-----------------------------------------------------------|
| tagged      | a `<tool_call>` JSON ... `</tool_call>` b  | answer, call (with both tags), answer                     |
|             | not JSON; not closed; closed, never opened | refused                                                   |
| react       | `Thought:` t                               | think_open (the label), thought                           |
|             | `Action:` name LF `Action Input:` input    | call (with both labels)                                   |
|             | `Observation:` o                           | observation, never supervised                             |
|             | `Final Answer:` a                          | answer (with its label)                                   |
|             | input that begins like JSON and is not     | refused                                                   |
|             | labels in an order that makes no sense; an | refused                                                   |
|             | observation last; text before the first    |                                                           |

A label stands at the start of a line. A label quoted inside a thought cannot be told from a real one, and is read as
real. Segments are never empty, and joined they give the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cot_components.data.bad_rows import RowError
from cot_components.data.read.calls import CALL_CLOSE, CALL_OPEN, REACT, TAGGED, parse_json, read_tagged
from cot_components.data.text.segments import Segment
from cot_components.roles import Role

_LABEL = re.compile(r"^[ \t]*(Thought|Action Input|Action|Observation|Final Answer):", re.M)
_STEP = ("Thought", "Action", "Final Answer")
_FOLLOWERS = {
    "": _STEP,
    "Thought": ("Action", "Final Answer"),
    "Action": ("Action Input", "Observation", ""),
    "Action Input": ("Observation", ""),
    "Observation": _STEP,
    "Final Answer": ("",),
}
"""Label -> labels that may come next; "" is the start and the end."""


def with_calls(segments: Sequence[Segment], style: str) -> list[Segment]:
    """The segments of a completion with its answers split at calls; `style` is `Message.calls`. Raises RowError."""
    if not style:
        return list(segments)
    return [part for s in segments for part in (call_segments(s.text, style) if s.role is Role.ANSWER else [s])]


def call_segments(text: str, style: str) -> list[Segment]:
    """Segments of text after a thought, with calls written in `style`. Raises RowError, see the module's table."""
    segments = {TAGGED: _tagged, REACT: _react}[style](text)
    return [segment for segment in segments if segment.text]


def _tagged(text: str) -> list[Segment]:
    segments, end = [], 0
    while (start := text.find(CALL_OPEN, end)) >= 0:
        segments.append(Segment(Role.ANSWER, text[end:start]))
        _, end = read_tagged(text, start)
        segments.append(Segment(Role.CALL, text[start:end]))
    segments.append(Segment(Role.ANSWER, text[end:]))
    if any(s.role is Role.ANSWER and CALL_CLOSE in s.text for s in segments):
        raise RowError(f"{CALL_CLOSE} without {CALL_OPEN}")
    return segments


def _react(text: str) -> list[Segment]:
    labels = list(_LABEL.finditer(text))
    names = [label[1] for label in labels]
    for name, following in zip(["", *names], [*names, ""], strict=True):
        if following not in _FOLLOWERS[name]:
            raise RowError("steps out of order", f"'{name}' before '{following}'")
    if text[: labels[0].start()].strip():
        raise RowError("text before the first step", repr(text[:40]))
    segments = [Segment(Role.ANSWER, text[: labels[0].start()])]
    for label, stop in zip(labels, [*(following.start() for following in labels[1:]), len(text)], strict=True):
        segments += _step(label, text[label.end() : stop])
    return segments


def _step(label: re.Match[str], body: str) -> list[Segment]:
    if label[1] == "Thought":
        return [Segment(Role.THINK_OPEN, label[0]), Segment(Role.THOUGHT, body)]
    if label[1] == "Action" and not body.strip():
        raise RowError("an action without a name")
    if label[1] == "Action Input" and body.lstrip().startswith(("{", "[")):
        parse_json(body)
    roles = {"Observation": Role.OBSERVATION, "Final Answer": Role.ANSWER}
    return [Segment(roles.get(label[1], Role.CALL), label[0] + body)]
