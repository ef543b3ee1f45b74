"""A run whose first rows do not begin as inference begins ends before it starts."""

import json
from dataclasses import replace

import pytest
from chats_for_tests import PLAIN, ask, chat
from tokenizers_like_models import MAKERS, write_like

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Trace
from cot_components.data.rows.first_rows import NUM_ROWS, check_first_rows
from cot_components.data.rows.prepare import RowSettings, encode_traces
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer


def traces(count: int, question: str = "How many hens?") -> list[Trace]:
    messages = [*ask(question, "<think>ask.</think>3", "And ducks?", "Answer: 7")]
    return [Trace(i, tuple(messages), f"data.jsonl:{i + 1}") for i in range(count)]


def rows_of(source: list[Trace], format: ChatFormat, turns: str = "last") -> Rows:
    parts = encode_traces(source, format, RowSettings(turns=turns), strict=True, report=DropReport())
    return Rows.concatenate(list(parts))


class ByParts(ChatFormat):
    """Texts encoded each by itself and without the blank that the tokenizer puts before them."""

    in_one_go = False


@pytest.fixture(scope="module")
def legacy(tmp_path_factory):
    return read_hf_tokenizer(write_like("legacy", tmp_path_factory.mktemp("legacy")))


@pytest.mark.parametrize("turns", ["last", "each"])
def test_good_rows_are_compared_and_the_reading_stops(legacy, turns):
    source = traces(40)
    rows = rows_of(source, chat(legacy), turns)
    again = iter(source)
    assert check_first_rows(again, rows, chat(legacy), turns=turns) == NUM_ROWS
    assert len(list(again)) == 40 - NUM_ROWS // (2 if turns == "each" else 1)


def test_the_first_difference_is_shown(legacy):
    source, right = traces(3), chat(legacy)
    rows = rows_of(source, ByParts(right.tokenizer, right.template, right.tags))
    with pytest.raises(UserError) as caught:
        check_first_rows(source, rows, right)
    message = str(caught.value)
    assert message.startswith("data.jsonl:1: the prompt's ids are not those of inference: from token 1 on 'How many")
    assert "template and tokenizer give ' How many" in message


def test_text_that_spells_a_control_token_is_not_compared(legacy):
    source = [*traces(2, "say <|end|>"), *traces(1)]
    source[2] = replace(source[2], id=2)
    rows = rows_of(source, chat(legacy))
    assert check_first_rows(source, rows, chat(legacy)) == 1


@pytest.mark.parametrize("kind", MAKERS)
def test_every_data_set_is_checked(kind, tmp_path, monkeypatch):
    folder = write_like(kind, tmp_path / "tokenizer", PLAIN)
    row = {"prompt": "How many hens?", "completion": "<think>\nask.\n</think>\n\nAnswer: 3"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    make = lambda: reasoning_dataset(hf_tokenizer(str(folder)), source=str(tmp_path / "data.jsonl"))  # noqa: E731
    assert len(make()) == 1
    monkeypatch.setattr("cot_components.data.text.chat.ChatFormat.inference_ids", lambda self, messages: [1, 2, 3])
    with pytest.raises(UserError, match=r"data\.jsonl:1: the prompt's ids"):
        make()
