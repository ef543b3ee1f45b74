"""The labelled agent corpus: every class is what the generator's freedom says it is."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import reader
from tiny_tokenizers import make_tokenizer

from cot_components.data.generated.dialogue_formats import FORMATS, Piece
from cot_components.data.generated.dialogues import (
    PHRASE_WORDS,
    agent_dialogues,
    agent_truth,
    as_traces,
    make_dialogues,
    reasoning_characters,
    split_of,
    true_groups,
)
from cot_components.data.read.calls import canonical_calls
from cot_components.data.rows.prepare import RowSettings, prepare_rows
from cot_components.data.rows.scores import scored_tokens
from cot_components.data.sources import Source
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import load_template
from cot_components.errors import UserError
from cot_components.evaluation.tool_calls import tool_calls
from cot_components.roles import Role


def train(count, **knobs):
    return make_dialogues(split="train", count=count, **knobs)


def encode(dialogues, tokenizer, turns="last"):
    template = load_template("chatml" if tokenizer.chat_template is None else None, tokenizer)
    chat = ChatFormat(tokenizer, template, Tags())
    return prepare_rows(reader(as_traces(dialogues)), chat, RowSettings(turns=turns)).rows


def test_dialogues_are_deterministic_and_a_longer_list_starts_with_the_shorter():
    short = train(20)
    assert train(60)[:20] == short != train(20, seed=1)
    assert [d.format for d in short[:12]] == [*FORMATS, *FORMATS]


def test_no_call_is_in_both_splits_whatever_the_seed():
    trained = {canonical_calls([d.call]) for d in train(800, diversity=4)}
    held_out = make_dialogues(split="held_out", count=800, seed=1, diversity=4)
    assert {split_of(d.call) for d in held_out} == {"held_out"}
    calls = {canonical_calls([d.call]) for d in held_out}
    assert not trained & calls and min(len(trained), len(calls)) > 300


@pytest.mark.parametrize("diversity", [1, 2, 24])
@pytest.mark.parametrize("name", FORMATS)
def test_every_output_holds_the_call_that_was_asked_for(name, diversity):
    dialogues = train(50, formats=[name], diversity=diversity)
    for dialogue, trace in zip(dialogues, as_traces(dialogues), strict=True):
        assert tool_calls(dialogue.text) == trace.answer == canonical_calls([dialogue.call])
        assert all(str(dialogue.call.arguments[key]) in dialogue.request for key in ("num", "who"))
    phrases = {dialogue.output[0].text for dialogue in dialogues}
    assert len(phrases) == 1 if diversity == 1 else len(phrases) > 5


def test_diversity_changes_phrases_alone():
    fixed, free = (train(40, diversity=diversity) for diversity in (1, 24))
    assert [(d.request, d.output[1:], d.call) for d in fixed] == [(d.request, d.output[1:], d.call) for d in free]
    assert fixed != free


def test_up_to_diversity_four_formats_share_no_word_of_a_phrase():
    words = defaultdict(set)
    for dialogue in train(400, diversity=4):
        text = dialogue.output[0].text.removeprefix("Thought: ")
        for place, word in enumerate(text.replace(".", " ").replace(":", " ").split()[:4]):
            words[dialogue.format, place].add(word)
    assert all(len(found) == 4 for found in words.values()) and len(words) == 24
    for place in range(4):
        assert len(set.union(*(words[name, place] for name in FORMATS))) == 24 == len(PHRASE_WORDS[place])


def test_published_reading_of_a_piece():
    pieces = [Piece("x "), Piece("Bob", ("Ben", "Bob", "Ann")), Piece("!"), Piece("10", ("10", "11"))]
    assert reasoning_characters(pieces).astype(int).tolist() == [0, 0, 1, 1, 0, 0, 0, 1]
    assert reasoning_characters([]).tolist() == []


@given(st.sampled_from(list(FORMATS)), st.integers(0, 50))
def test_a_character_is_reasoning_exactly_where_outputs_that_begin_alike_part(name, seed):
    """Against brute force over many outputs of a format with one fixed phrase."""
    dialogues = train(60, seed=seed, formats=[name])
    texts, truth = [d.text for d in dialogues], reasoning_characters(dialogues[0].output)
    for i in range(len(texts[0])):
        assert truth[i] or len({text[i : i + 1] for text in texts if text[:i] == texts[0][:i]}) == 1


@pytest.mark.parametrize("kind", ["byte", "llama3", "hf_qwen"])
@pytest.mark.parametrize("diversity", [1, 8])
def test_tokens_are_reasoning_where_one_of_their_characters_is(kind, diversity, tmp_path):
    tokenizer, dialogues = make_tokenizer(kind, tmp_path), train(24, diversity=diversity)
    rows = encode(dialogues, tokenizer)
    groups, scored = true_groups(rows, dialogues, tokenizer.decode), scored_tokens(rows)
    assert not groups[~scored].any() and 0.02 < groups[scored].mean() < 0.3
    for i, dialogue in enumerate(dialogues):
        truth, end = reasoning_characters(dialogue.output), 0
        places = range(rows.row_start[i], rows.row_start[i + 1])
        for place in (place for place in places if rows.roles[place] != Role.PROMPT):
            size = len(tokenizer.decode(rows.tokens[place : place + 1]))
            assert groups[place] == truth[end : end + size].any()
            end += size
        assert end > len(truth)  # the end-of-turn token


def test_reports_are_turns_of_their_own_and_results_are_never_supervised(byte):
    dialogues = train(12, report=True)
    rows = encode(dialogues, byte, turns="each")
    groups, told = true_groups(rows, dialogues, byte.decode), [i for i, row_id in enumerate(rows.ids) if row_id >> 40]
    assert (len(rows), len(told)) == (24, 12)
    for i in told:
        dialogue, here = dialogues[int(rows.ids[i]) % (1 << 40)], slice(rows.row_start[i], rows.row_start[i + 1])
        tokens = rows.tokens[here]
        reasoning = byte.decode(tokens[groups[here] == 1]).strip()
        assert reasoning == dialogue.report[1].text and reasoning in dialogue.result
        assert dialogue.result in byte.decode(tokens[rows.roles[here] == Role.PROMPT])
    assert [t.answer for t in as_traces(dialogues)] == [d.report[1].text for d in dialogues]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
        ({"formats": ["reakt"]}, "unknown format 'reakt'; did you mean 'react'"),
        ({"formats": []}, "need at least one format"),
        ({"count": -1}, "count of at least 0"),
        *(({"diversity": wrong}, f"diversity must lie between 1 and 24, got {wrong}") for wrong in (0, 25)),
    ],
)
def test_impossible_wishes_are_refused(knobs, message):
    with pytest.raises(UserError, match=message):
        make_dialogues(**{"split": "train", "count": 3, **knobs})


def test_a_used_up_format_says_so(monkeypatch):
    monkeypatch.setattr("cot_components.data.generated.dialogues.NUMBERS", range(100, 102))
    with pytest.raises(UserError, match=r"format 'python' has only about \d+ held_out dialogues"):
        make_dialogues(split="held_out", count=500, formats=["python"])


def test_drawn_dialogues_have_a_layout_of_their_own_and_no_phrase_of_the_fixed_formats():
    drawn = train(200, formats=["drawn"])
    assert drawn == train(200, formats=["drawn"])
    layouts = ["".join(piece.text for piece in dialogue.output if not piece.choices) for dialogue in drawn]
    assert len(set(layouts)) > 190 and not set(PHRASE_WORDS[0]) & set(" ".join(layouts).split())
    for dialogue in drawn:
        slots = {piece.text for piece in dialogue.output if piece.choices}
        assert slots == {dialogue.call.name, *map(str, dialogue.call.arguments.values())}


def test_a_subset_names_formats_and_diversity():
    wanted = make_dialogues(split="held_out", count=9, formats=["json", "tagged"], diversity=3)
    assert agent_dialogues("held_out", 9, "json tagged diversity:3") == wanted
    assert agent_dialogues("train", 9, None) == train(9)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("tagged diversity:²", "subset 'tagged diversity:²': diversity must be a whole number, got '²'"),
        ("tagged diversity:x", "subset 'tagged diversity:x': diversity must be a whole number, got 'x'"),
        ("tagged diversity:99", "diversity must lie between 1 and 24"),
        ("tagd", "unknown format 'tagd'; did you mean 'tagged'"),
        ("tagged variety:2", "unknown format 'variety:2'"),
    ],
)
def test_a_subset_that_names_neither_is_refused(subset, message):
    with pytest.raises(UserError, match=message):
        agent_dialogues("train", 3, subset)


def test_the_source_and_its_truth_belong_together(byte):
    source = {"subset": "tagged diversity:2", "max_rows": 7}
    dialogues = agent_dialogues("train", 7, source["subset"])
    traces = Source(source="generated_agents", **source).read()
    assert [(t.messages, t.answer) for t in traces] == [(t.messages, t.answer) for t in as_traces(dialogues)]
    rows = encode(dialogues, byte)
    truth = agent_truth(rows, byte.decode, **source)
    assert (truth == true_groups(rows, dialogues, byte.decode)).all() and truth.any()
    fewer, others = {"max_rows": 5}, {"subset": "json"}
    for settings, message in ((fewer, "row 5 is not among the 5"), (others, "row 0 has another text than dialogue 0")):
        with pytest.raises(UserError, match=message):
            agent_truth(rows, byte.decode, **{**source, **settings})
