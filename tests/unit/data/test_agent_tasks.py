"""The labelled agent corpus: every class is what the generator's freedom says it is."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import make_tokenizer

from cot_components.data.generated.dialogue_formats import FORMATS, Piece
from cot_components.data.generated.dialogues import (
    PHRASE_WORDS,
    Dialogue,
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
from cot_components.data.rows.store import Rows
from cot_components.data.sources import Source
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import load_template
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.errors import UserError
from cot_components.evaluation.tool_calls import tool_calls
from cot_components.roles import Role

KINDS = ("byte", "llama3", "hf_qwen")


def encode(dialogues: list[Dialogue], tokenizer: TextTokenizer, turns: str = "last") -> Rows:
    traces = as_traces(dialogues)

    def read(report):
        report.read += len(traces)
        return traces

    template = load_template("chatml" if tokenizer.chat_template is None else None, tokenizer)
    return prepare_rows(read, ChatFormat(tokenizer, template, Tags()), RowSettings(turns=turns)).rows


def test_dialogues_are_deterministic_and_a_longer_list_starts_with_the_shorter():
    short, long = (make_dialogues(split="train", count=count) for count in (20, 60))
    assert long[:20] == short and make_dialogues(split="train", count=20, seed=1) != short
    assert [d.format for d in short[:12]] == [*FORMATS, *FORMATS]


def test_no_call_is_in_both_splits_whatever_the_seed():
    calls = {
        split: {canonical_calls([d.call]) for d in make_dialogues(split=split, count=800, seed=seed, diversity=4)}
        for split, seed in (("train", 0), ("held_out", 1))
    }
    assert not calls["train"] & calls["held_out"] and min(map(len, calls.values())) > 300
    assert all(split_of(d.call) == "held_out" for d in make_dialogues(split="held_out", count=50))


@pytest.mark.parametrize("diversity", [1, 2, 24])
@pytest.mark.parametrize("name", FORMATS)
def test_every_output_holds_the_call_that_was_asked_for(name, diversity):
    dialogues = make_dialogues(split="train", count=50, formats=[name], diversity=diversity)
    for dialogue, trace in zip(dialogues, as_traces(dialogues), strict=True):
        assert tool_calls(dialogue.text) == trace.answer == canonical_calls([dialogue.call])
        assert str(dialogue.call.arguments["num"]) in dialogue.request
        assert str(dialogue.call.arguments["who"]) in dialogue.request
    phrases = {dialogue.output[0].text for dialogue in dialogues}
    assert len(phrases) == 1 if diversity == 1 else len(phrases) > 5


def test_diversity_changes_phrases_alone():
    fixed, free = (make_dialogues(split="train", count=40, diversity=diversity) for diversity in (1, 24))
    assert [(d.request, d.output[1:], d.call) for d in fixed] == [(d.request, d.output[1:], d.call) for d in free]
    assert fixed != free


def test_up_to_diversity_four_formats_share_no_word_of_a_phrase():
    words = defaultdict(set)
    for dialogue in make_dialogues(split="train", count=400, diversity=4):
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
    dialogues = make_dialogues(split="train", count=60, seed=seed, formats=[name])
    texts = [d.text for d in dialogues]
    truth = reasoning_characters(dialogues[0].output)
    for i in range(len(texts[0])):
        following = {text[i : i + 1] for text in texts if text[:i] == texts[0][:i]}
        assert truth[i] or len(following) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("diversity", [1, 8])
def test_tokens_are_reasoning_where_one_of_their_characters_is(kind, diversity, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    dialogues = make_dialogues(split="train", count=24, diversity=diversity)
    rows = encode(dialogues, tokenizer)
    groups = true_groups(rows, dialogues, tokenizer.decode)
    assert not groups[~scored_tokens(rows)].any()
    checked = 0
    for i, dialogue in enumerate(dialogues):
        truth, end = reasoning_characters(dialogue.output), 0
        for place in range(rows.row_start[i], rows.row_start[i + 1]):
            if rows.roles[place] == Role.PROMPT:
                continue
            size = len(tokenizer.decode(rows.tokens[place : place + 1]))
            assert groups[place] == truth[end : end + size].any()
            end += size
            checked += 1
        assert end > len(truth)  # the end-of-turn token
    assert checked > 0 and 0.02 < groups[scored_tokens(rows)].mean() < 0.3


def test_reports_are_turns_of_their_own_and_results_are_never_supervised(tmp_path):
    tokenizer = make_tokenizer("byte", tmp_path)
    dialogues = make_dialogues(split="train", count=12, report=True)
    rows = encode(dialogues, tokenizer, turns="each")
    assert len(rows) == 24
    groups = true_groups(rows, dialogues, tokenizer.decode)
    told = [i for i, row_id in enumerate(rows.ids) if row_id >> 40]
    assert len(told) == 12
    for i in told:
        dialogue = dialogues[int(rows.ids[i]) % (1 << 40)]
        here = slice(rows.row_start[i], rows.row_start[i + 1])
        reasoning = tokenizer.decode(rows.tokens[here][groups[here] == 1])
        assert reasoning.strip() == dialogue.report[1].text and reasoning.strip() in dialogue.result
        prompt = tokenizer.decode(rows.tokens[here][rows.roles[here] == Role.PROMPT])
        assert dialogue.result in prompt
    traces = as_traces(dialogues)
    assert [t.answer for t in traces] == [d.report[1].text for d in dialogues]


def test_impossible_wishes_are_refused():
    for knobs, message in (
        ({"split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
        ({"formats": ["reakt"]}, "unknown format 'reakt'; did you mean 'react'"),
        ({"formats": []}, "need at least one format"),
        ({"count": -1}, "count of at least 0"),
        ({"diversity": 0}, "diversity must lie between 1 and 24, got 0"),
        ({"diversity": 25}, "diversity must lie between 1 and 24, got 25"),
    ):
        with pytest.raises(UserError, match=message):
            make_dialogues(**{"split": "train", "count": 3, **knobs})


def test_a_used_up_format_says_so(monkeypatch):
    monkeypatch.setattr("cot_components.data.generated.dialogues.NUMBERS", range(100, 102))
    with pytest.raises(UserError, match=r"format 'python' has only about \d+ held_out dialogues"):
        make_dialogues(split="held_out", count=500, formats=["python"])


def test_drawn_dialogues_have_a_layout_of_their_own_and_no_phrase_of_the_fixed_formats():
    drawn = make_dialogues(split="train", count=200, formats=["drawn"])
    assert drawn == make_dialogues(split="train", count=200, formats=["drawn"])
    layouts = {"".join(piece.text for piece in dialogue.output if not piece.choices) for dialogue in drawn}
    assert len(layouts) > 190
    phrases = set(PHRASE_WORDS[0])
    checked = 0
    for dialogue in drawn:
        slots = {piece.text for piece in dialogue.output if piece.choices}
        assert slots == {dialogue.call.name, *map(str, dialogue.call.arguments.values())}
        words = "".join(piece.text for piece in dialogue.output if not piece.choices).split()
        assert not phrases & set(words)
        checked += len(words)
    assert checked > 100


def test_a_subset_names_formats_and_diversity():
    wanted = make_dialogues(split="held_out", count=9, formats=["json", "tagged"], diversity=3)
    assert agent_dialogues("held_out", 9, "json tagged diversity:3") == wanted
    assert agent_dialogues("train", 9, None) == make_dialogues(split="train", count=9)
    for subset, message in (
        ("tagged diversity:²", "subset 'tagged diversity:²': diversity must be a whole number, got '²'"),
        ("tagged diversity:x", "subset 'tagged diversity:x': diversity must be a whole number, got 'x'"),
        ("tagged diversity:99", "diversity must lie between 1 and 24"),
        ("tagd", "unknown format 'tagd'; did you mean 'tagged'"),
        ("tagged variety:2", "unknown format 'variety:2'"),
    ):
        with pytest.raises(UserError, match=message):
            agent_dialogues("train", 3, subset)


def test_the_source_and_its_truth_belong_together(tmp_path):
    tokenizer = make_tokenizer("byte", tmp_path)
    traces = list(Source(source="generated_agents", subset="tagged diversity:2", max_rows=7).read())
    dialogues = agent_dialogues("train", 7, "tagged diversity:2")
    assert [(t.messages, t.answer) for t in traces] == [(t.messages, t.answer) for t in as_traces(dialogues)]
    rows = encode(dialogues, tokenizer)
    truth = agent_truth(rows, tokenizer.decode, subset="tagged diversity:2", max_rows=7)
    assert (truth == true_groups(rows, dialogues, tokenizer.decode)).all() and truth.any()
    for settings, message in (
        ({"subset": "tagged diversity:2", "max_rows": 5}, "row 5 is none of the 5 dialogues"),
        ({"subset": "json", "max_rows": 7}, "row 0 is another text than dialogue 0"),
    ):
        with pytest.raises(UserError, match=message):
            agent_truth(rows, tokenizer.decode, **settings)
