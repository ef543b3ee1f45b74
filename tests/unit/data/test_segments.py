"""Segments: the table of shapes, and random mixtures of tags and hostile text against a slow reference."""

import html
import pickle
import unicodedata
from collections import Counter

import pytest
from degenerate import CLOSE, HOSTILE, OPEN, TAG_SHAPES
from hypothesis import example, given
from hypothesis import strategies as st

from cot_components.data.bad_rows import RowError
from cot_components.data.read.traces import Message
from cot_components.data.text.segments import KNOWN_OPENINGS, Segment, Tags, assistant_text, canonical, segment_text
from cot_components.errors import UserError
from cot_components.roles import Role

TAG_PAIRS = (
    Tags(),
    Tags("<Thought>", "</Thought>"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("%%%", "####"),
    Tags("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)


def outcome(text: str, tags: Tags, *, opened: bool) -> list[Segment] | str:
    try:
        return segment_text(text, tags, opened=opened)
    except RowError as fault:
        return str(fault)


@pytest.mark.parametrize("opened", [False, True], ids=["ordinary", "opened"])
@pytest.mark.parametrize("shape", TAG_SHAPES, ids=lambda shape: shape.name)
def test_every_shape_has_its_outcome(shape, opened):
    found = outcome(shape.text, Tags(), opened=opened)
    expected = shape.opened if opened else shape.ordinary
    if isinstance(expected, str):
        assert isinstance(found, str) and expected in found
    else:
        assert not isinstance(found, str), found
        assert tuple((segment.role.label, segment.text) for segment in found) == expected


def test_the_shapes_hold_for_other_tags_too():
    tags = Tags("<|begin_of_thought|>", "<|end_of_thought|>")
    checked = 0
    for shape in TAG_SHAPES:
        if "almost" in f"{shape.ordinary} {shape.opened}":
            continue
        for opened in (False, True):
            text = shape.text.replace(OPEN, tags.open).replace(CLOSE, tags.close)
            ours, theirs = outcome(text, tags, opened=opened), outcome(shape.text, Tags(), opened=opened)
            if isinstance(theirs, str):
                assert ours == theirs.replace(OPEN, tags.open).replace(CLOSE, tags.close)
            else:
                assert [s.role for s in ours] == [s.role for s in theirs]
            checked += 1
    assert checked > 40


IGNORABLE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0xAD,
    0x34F,
    0x61C,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x3164,
    0xFEFF,
    0xFFA0,
]
IGNORABLE += [*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)]
IGNORABLE += [*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)]
IGNORABLE += [*range(0xE0000, 0xE1000)]
IGNORED = frozenset(map(chr, IGNORABLE))


def slow_folded(text: str) -> str:
    """One character after the other, as a reader would overlook the differences."""
    folded = ""
    for character in html.unescape(text):
        for part in unicodedata.normalize("NFKD", character):
            if part.isspace() or part in IGNORED or part == "\\":
                continue
            for group, plain in (("\u2039\u2329\u276e\u27e8\u3008\u02c2\u1438", "<"), ("\u2044\u2215\u29f8", "/")):
                part = plain if part in group else part
            part = ">" if part in "\u203a\u232a\u276f\u27e9\u3009\u02c3\u1433" else part
            folded += part.casefold()
    return folded


def positions(text: str, tag: str) -> list[int]:
    return [i for i in range(len(text)) if text.startswith(tag, i)]


def reference(text: str, tags: Tags, *, opened: bool) -> list[tuple[Role, str]] | None:
    """Role by role from the positions of all tags, or None where the turn must be refused."""
    folded = slow_folded(text)
    for tag in (tags.open, tags.close):
        if len(positions(folded, slow_folded(tag))) != len(positions(text, tag)):
            return None
    marks = [(i, "open") for i in positions(text, tags.open)] + [(i, "close") for i in positions(text, tags.close)]
    order = [kind for _, kind in sorted(marks)]
    if order not in ([["close"]] if opened else [[], ["open", "close"]]):
        return None
    if not order:
        is_foreign = any(slow_folded(text).startswith(opening) for opening in KNOWN_OPENINGS)
        return None if is_foreign or not text.strip() else [(Role.ANSWER, text)]
    start, end = (0 if opened else min(marks)[0]), max(marks)[0]
    inside = start if opened else start + len(tags.open)
    if end < inside or text[:start].strip() or not text[end + len(tags.close) :].strip():
        return None
    roles = [Role.ANSWER] * len(text)
    roles[start:inside] = [Role.THINK_OPEN] * (inside - start)
    roles[inside:end] = [Role.THOUGHT] * (end - inside)
    roles[end : end + len(tags.close)] = [Role.THINK_CLOSE] * len(tags.close)
    grouped: list[tuple[Role, str]] = []
    for role, character in zip(roles, text, strict=True):
        if grouped and grouped[-1][0] == role:
            grouped[-1] = (role, grouped[-1][1] + character)
        else:
            grouped.append((role, character))
    return grouped


def almost(tag: str) -> list[str]:
    """Ways of writing a tag that are not the tag."""
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in tag)
    spaced, escaped = " ".join(tag), html.escape(tag)
    return [
        tag.upper(),
        tag.swapcase(),
        wide,
        spaced,
        escaped,
        tag[:1] + "\u200b" + tag[1:],
        tag[:-1],
        tag[1:],
        tag + tag[-1],
    ]


def completions(tags: Tags) -> st.SearchStrategy[str]:
    exact = st.sampled_from([tags.open, tags.close])
    fragments = st.sampled_from(
        [HOSTILE, "\n", " ", "a", "<", "</", ">", "think", "\u0338", "&lt;", "&", "\\", "\ufeff", "#", "%"]
    )
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
    @example((TAG_PAIRS[3], "%%%%t####a"), False)
    @example((TAG_PAIRS[3], "%%%t#####a"), False)
    @example((Tags("<a>", "><b>"), "<a><b>x"), False)
    @example((TAG_PAIRS[0], "no tag at all"), False)
    def run(tags_and_text, opened):
        tags, text = tags_and_text
        found, expected = outcome(text, tags, opened=opened), reference(text, tags, opened=opened)
        if expected is None:
            assert isinstance(found, str)
            seen["refused"] += 1
        else:
            assert found == expected
            assert "".join(segment.text for segment in found) == text
            seen["with thought" if len(expected) > 1 else "answer only"] += 1

    run()
    assert min(seen[kind] for kind in ("refused", "with thought", "answer only")) > 0, seen


@given(st.text(), st.text().filter(str.strip))
def test_a_separate_thought_becomes_one_text_that_segments_as_written(thought, content):
    text = assistant_text(Message("assistant", content, thought=thought), Tags())
    assert text == f"<think>\n{thought}\n</think>\n\n{content}"
    assert assistant_text(Message("assistant", content), Tags()) == content
    found = outcome(text, Tags(), opened=False)
    if isinstance(found, str):
        assert "think" in canonical(thought + content)
    else:
        assert [s.text for s in found] == ["<think>", f"\n{thought}\n", "</think>", f"\n\n{content}"]


def test_a_thought_beside_a_content_that_has_one_too_is_refused():
    message = Message("assistant", "<think>t</think>a", thought="u")
    assert "more than once" in str(outcome(assistant_text(message, Tags()), Tags(), opened=False))


@pytest.mark.parametrize("opening", KNOWN_OPENINGS)
def test_known_openings_are_in_canonical_form_and_noticed(opening):
    assert canonical(opening) == opening
    tags = Tags("<cot>", "</cot>")
    assert "starts with" in str(outcome(f"{' ' * 200}{opening.upper()}x", tags, opened=False))
    assert outcome(f"I use {opening} here", tags, opened=False) == [(Role.ANSWER, f"I use {opening} here")]


@pytest.mark.parametrize(
    "pair",
    [
        ("", "x"),
        ("x", ""),
        (" <a>", "</a>"),
        ("<a>", "</a>\n"),
        ("<a>", "<a>"),
        ("<a>", "<A>"),
        ("a", "/a"),
        ("\u200b", "b"),
        (1, "b"),
    ],
)
def test_tags_that_cannot_be_told_apart_are_refused(pair):
    with pytest.raises(UserError, match=r"^tags"):
        Tags(*pair)


def test_tags_and_faults_survive_pickling():
    fault = RowError("a reason", "a detail")
    assert pickle.loads(pickle.dumps(Tags())) == Tags()
    for error in (fault, fault.at("f:1")):
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error) and copy.reason == "a reason" and type(copy) is type(error)
