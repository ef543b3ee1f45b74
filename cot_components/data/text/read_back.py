"""Check that a template preserves a turn: thought and answer must still be those of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cot_components.data.bad_rows import RowError
from cot_components.data.text.segments import Segment, Tags
from cot_components.data.text.text_tokenizer import any_of
from cot_components.roles import Role

TAG_ROLES = (Role.THINK_OPEN, Role.THINK_CLOSE)


def message_text(segments: Sequence[Segment], opening: str, hide: Callable[[str], str]) -> str:
    """An assistant message whose tags are the only readable ones; a thought without an opening tag in the data gets
    one."""
    text = "".join(s.text if s.role in TAG_ROLES else hide(s.text) for s in segments)
    opened = not has_thought(segments) or any(s.role is Role.THINK_OPEN for s in segments)
    return text if opened else opening + text


def behind_opening(text: str, opening: str) -> str:
    """The rest of a message when the prompt already ends in `opening`, a tag and white space around it."""
    if not opening or text.startswith(opening):
        return text.removeprefix(opening)
    return text.lstrip().removeprefix(opening.strip()).lstrip()


def read_back(text: str, tags: Tags, restore: Callable[[str], str], *, opened: bool) -> list[Segment]:
    """Segments of a rendered turn, whose only tags are the template's and the trace's own.

    opened: the text starts inside the thought

    Raises RowError for a tag in the wrong place.
    """
    segments, inside = [], opened
    for piece in filter(None, any_of([tags.open, tags.close]).split(text)):
        if piece in (tags.open, tags.close):
            if inside == (piece == tags.open):
                raise RowError("the chat template changes the think tags", f"{piece} is in the wrong place")
            inside = piece == tags.open
            segments.append(Segment(Role.THINK_OPEN if inside else Role.THINK_CLOSE, piece))
        else:
            segments.append(Segment(Role.THOUGHT if inside else Role.ANSWER, restore(piece)))
    return segments


def has_thought(segments: Sequence[Segment]) -> bool:
    """Whether these segments contain a closed thought."""
    return any(s.role is Role.THINK_CLOSE for s in segments)


def lost_thought(wanted: Sequence[Segment], written: Sequence[Segment]) -> bool:
    """Whether the answer was written and its thought was not."""
    lost = has_thought(wanted) and not has_thought(written)
    return lost and _texts(wanted, Role.ANSWER) == _texts(written, Role.ANSWER)


def compare(wanted: Sequence[Segment], written: Sequence[Segment]) -> None:
    """Raise RowError unless exactly the given thoughts and answers were written, up to surrounding white space.

    An answer without a thought may get an empty one.
    """
    pairs = [sum(s.role is Role.THINK_CLOSE for s in segments) for segments in (wanted, written)]
    if pairs[1] != pairs[0] and pairs != [0, 1]:
        raise RowError("the chat template changes the think tags", f"{pairs[1]} pairs instead of {pairs[0]}")
    for role in (Role.THOUGHT, Role.ANSWER):
        if _texts(wanted, role) != _texts(written, role):
            raise RowError(f"the chat template does not keep the {role.label} verbatim")


def _texts(segments: Sequence[Segment], role: Role) -> list[str]:
    return [s.text.strip() for s in segments if s.role is role and s.text.strip()]
