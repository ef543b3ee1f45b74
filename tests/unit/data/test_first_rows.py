"""A run whose first rows do not begin as inference begins ends before it starts."""

import json
from dataclasses import replace

import pytest
from chats import PLAIN, ask, chat
from reading import reader
from tiny_tokenizers import MAKERS, write_like

from cot_components.data.read.traces import Trace
from cot_components.data.rows.first_rows import NUM_ROWS, check_first_rows
from cot_components.data.rows.prepare import RowSettings, prepare_rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer


def traces(count, question="How many hens?"):
    messages = tuple(ask(question, "<think>ask.</think>3", "And ducks?", "Answer: 7"))
    return [Trace(i, messages, f"data.jsonl:{i + 1}") for i in range(count)]


def rows_of(source, format, turns="last"):
    return prepare_rows(reader(source), format, RowSettings(turns=turns)).rows


class ByParts(ChatFormat):
    """Texts encoded each by itself and without the blank that the tokenizer puts before them."""

    in_one_go = False


@pytest.fixture(scope="module")
def legacy(tmp_path_factory):
    return chat(read_hf_tokenizer(write_like("legacy", tmp_path_factory.mktemp("legacy"))))


@pytest.mark.parametrize(("turns", "per_trace"), [("last", 1), ("each", 2)])
def test_good_rows_are_compared_and_the_reading_stops(legacy, turns, per_trace):
    source = traces(40)
    again = iter(source)
    assert check_first_rows(again, rows_of(source, legacy, turns), legacy, turns=turns) == NUM_ROWS
    assert len(list(again)) == 40 - NUM_ROWS // per_trace


def test_the_first_difference_is_shown(legacy):
    rows = rows_of(traces(3), ByParts(legacy.tokenizer, legacy.template, legacy.tags))
    shown = r"^data\.jsonl:1: .* from token 1 on 'How many.*template and tokenizer give ' How many"
    with pytest.raises(UserError, match=shown):
        check_first_rows(traces(3), rows, legacy)


def test_text_that_spells_a_control_token_is_not_compared(legacy):
    source = [*traces(2, "say <|end|>"), replace(traces(1)[0], id=2)]
    assert check_first_rows(source, rows_of(source, legacy), legacy) == 1


@pytest.mark.parametrize("kind", MAKERS)
def test_every_data_set_is_checked(kind, tmp_path, monkeypatch):
    tokenizer, path = hf_tokenizer(str(write_like(kind, tmp_path / "tokenizer", PLAIN))), tmp_path / "data.jsonl"
    row = {"prompt": "How many hens?", "completion": "<think>\nask.\n</think>\n\nAnswer: 3"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert len(reasoning_dataset(tokenizer, source=str(path))) == 1
    monkeypatch.setattr(ChatFormat, "inference_ids", lambda self, messages, thinking: [1, 2, 3])
    with pytest.raises(UserError, match=r"data\.jsonl:1: the prompt's ids"):
        reasoning_dataset(tokenizer, source=str(path))
