"""Segments: the table of shapes, and random mixtures of tags and hostile text against a slow reference."""

import html
import pickle
import re
import unicodedata
from collections import Counter

import pytest
from degenerate import CLOSE, HOSTILE, OPEN, TAG_SHAPES
from hypothesis import example, given
from hypothesis import strategies as st

from cot_components.data.bad_rows import RowError
from cot_components.data.read.traces import Message
from cot_components.data.text.segments import KNOWN_OPENINGS, Tags, assistant_text, canonical, segment_text
from cot_components.errors import UserError
from cot_components.roles import Role

THINK, THOUGHT = Tags(), Tags("<|begin_of_thought|>", "<|end_of_thought|>")
MARKS = Tags("%%%", "####")
TAG_PAIRS = (THINK, Tags("<Thought>", "</Thought>"), THOUGHT, MARKS, Tags("\u25c1think\u25b7", "\u25c1/think\u25b7"))


def outcome(text, tags=THINK, *, opened=False):
    try:
        return segment_text(text, tags, opened=opened)
    except RowError as fault:
        return str(fault)


@pytest.mark.parametrize("opened", [False, True], ids=["ordinary", "opened"])
@pytest.mark.parametrize("shape", TAG_SHAPES, ids=lambda shape: shape.name)
def test_every_shape_has_its_outcome(shape, opened):
    found, expected = outcome(shape.text, opened=opened), shape.opened if opened else shape.ordinary
    other = outcome(shape.text.replace(OPEN, THOUGHT.open).replace(CLOSE, THOUGHT.close), THOUGHT, opened=opened)
    if isinstance(expected, str):
        assert isinstance(found, str) and expected in found
        if "almost" not in f"{shape.ordinary} {shape.opened}":
            assert other == found.replace(OPEN, THOUGHT.open).replace(CLOSE, THOUGHT.close)
    else:
        assert tuple((segment.role.label, segment.text) for segment in found) == expected
        assert [s.role for s in other] == [s.role for s in found]


IGNORABLE = [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164]
IGNORABLE += [0xFEFF, 0xFFA0, *range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F)]
IGNORABLE += [*range(0x2060, 0x2070), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4)]
IGNORABLE += [*range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)]
IGNORED = frozenset(map(chr, IGNORABLE)) | {"\\"}
LOOKALIKES = {
    **dict.fromkeys("\u2039\u2329\u276e\u27e8\u3008\u02c2\u1438", "<"),
    **dict.fromkeys("\u2044\u2215\u29f8", "/"),
    **dict.fromkeys("\u203a\u232a\u276f\u27e9\u3009\u02c3\u1433", ">"),
}


def slow_folded(text):
    """One character after the other, as a reader would overlook the differences."""
    parts = (part for character in html.unescape(text) for part in unicodedata.normalize("NFKD", character))
    return "".join(LOOKALIKES.get(p, p).casefold() for p in parts if not p.isspace() and p not in IGNORED)


def positions(text, tag):
    return [match.start() for match in re.finditer(f"(?={re.escape(tag)})", text)]


def reference(text, tags, *, opened):
    """Role by role from the positions of all tags, or None where the turn must be refused."""
    folded = slow_folded(text)
    for tag in (tags.open, tags.close):
        if len(positions(folded, slow_folded(tag))) != len(positions(text, tag)):
            return None
    kinds = {"open": tags.open, "close": tags.close}
    marks = sorted((i, kind) for kind, tag in kinds.items() for i in positions(text, tag))
    order = [kind for _, kind in marks]
    if order not in ([["close"]] if opened else [[], ["open", "close"]]):
        return None
    if not order:
        is_foreign = any(folded.startswith(opening) for opening in KNOWN_OPENINGS)
        return None if is_foreign or not text.strip() else [(Role.ANSWER, text)]
    start, end = (0 if opened else marks[0][0]), marks[-1][0]
    inside, behind = start if opened else start + len(tags.open), end + len(tags.close)
    if end < inside or text[:start].strip() or not text[behind:].strip():
        return None
    parts = (text[:start], text[start:inside], text[inside:end], text[end:behind], text[behind:])
    roles = (Role.ANSWER, Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER)
    return [(role, part) for role, part in zip(roles, parts, strict=True) if part]


def almost(tag):
    """Ways of writing a tag that are not the tag."""
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in tag)
    spelled = [tag.upper(), tag.swapcase(), wide, " ".join(tag), html.escape(tag)]
    return [*spelled, tag[:1] + "\u200b" + tag[1:], tag[:-1], tag[1:], tag + tag[-1]]


FRAGMENTS = [HOSTILE, "\n", " ", "a", "<", "</", ">", "think", "\u0338", "&lt;", "&", "\\", "\ufeff", "#", "%"]


def completions(tags):
    exact, fragments = st.sampled_from([tags.open, tags.close]), st.sampled_from(FRAGMENTS)
    free = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    other = st.one_of(fragments, free, fragments, st.sampled_from([*almost(tags.open), *almost(tags.close)]))
    plain = st.lists(st.one_of(fragments, free), max_size=3).map("".join)
    mixture = st.lists(st.one_of(exact, other), max_size=8).map("".join)
    whole = st.tuples(plain, plain).map(lambda parts: tags.open + parts[0] + tags.close + parts[1])
    rest = st.tuples(plain, plain).map(lambda parts: parts[0] + tags.close + parts[1])
    return st.one_of(mixture, whole, rest, plain)


def test_random_completions_get_the_reference_roles_or_are_refused():
    seen = Counter()

    @given(st.sampled_from(TAG_PAIRS).flatmap(lambda tags: st.tuples(st.just(tags), completions(tags))), st.booleans())
    @example((MARKS, "%%%%t####a"), False)
    @example((MARKS, "%%%t#####a"), False)
    @example((Tags("<a>", "><b>"), "<a><b>x"), False)
    @example((THINK, "no tag at all"), False)
    def run(tags_and_text, opened):
        tags, text = tags_and_text
        found, expected = outcome(text, tags, opened=opened), reference(text, tags, opened=opened)
        assert isinstance(found, str) if expected is None else found == expected
        seen["refused" if expected is None else "with thought" if len(expected) > 1 else "answer only"] += 1

    run()
    assert len(seen) == 3, seen


@given(st.text(), st.text().filter(str.strip))
def test_a_separate_thought_becomes_one_text_that_segments_as_written(thought, content):
    text = assistant_text(Message("assistant", content, thought=thought), THINK)
    assert text == f"<think>\n{thought}\n</think>\n\n{content}"
    assert assistant_text(Message("assistant", content), THINK) == content
    found = outcome(text)
    if isinstance(found, str):
        assert "think" in canonical(thought + content)
    else:
        assert [s.text for s in found] == ["<think>", f"\n{thought}\n", "</think>", f"\n\n{content}"]


def test_a_thought_beside_a_content_that_has_one_too_is_refused():
    message = Message("assistant", "<think>t</think>a", thought="u")
    assert "more than once" in str(outcome(assistant_text(message, THINK)))


@pytest.mark.parametrize("opening", KNOWN_OPENINGS)
def test_known_openings_are_in_canonical_form_and_noticed(opening):
    tags = Tags("<cot>", "</cot>")
    assert canonical(opening) == opening
    assert "starts with" in str(outcome(f"{' ' * 200}{opening.upper()}x", tags))
    assert outcome(f"I use {opening} here", tags) == [(Role.ANSWER, f"I use {opening} here")]


PAIRS = [("", "x"), ("x", ""), (" <a>", "</a>"), ("<a>", "</a>\n"), ("<a>", "<a>"), ("<a>", "<A>"), ("a", "/a")]


@pytest.mark.parametrize("pair", [*PAIRS, ("\u200b", "b"), (1, "b")])
def test_tags_that_cannot_be_told_apart_are_refused(pair):
    with pytest.raises(UserError, match=r"^tags"):
        Tags(*pair)


def test_tags_and_faults_survive_pickling():
    fault = RowError("a reason", "a detail")
    assert pickle.loads(pickle.dumps(THINK)) == THINK
    for error in (fault, fault.at("f:1")):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.reason, type(copy)) == (str(error), "a reason", type(error))
