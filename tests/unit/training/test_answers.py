"""Held-out prompts before the first step, and how many answers a second a finished run gives."""

import itertools
import json

import pytest
from chats_for_tests import PLAIN
from chats_for_tests import chat as chat_of
from tokenizers_for_tests import make_tokenizer

from cot_components.data.icot_text import ICoTFormat
from cot_components.errors import UserError
from cot_components.models.gpt2_tokenizer import compact_tokenizer
from cot_components.training import answers, speed
from cot_components.training.answers import AnswerEvaluation

GOOD = {"instruction": "1 2", "response": "#### 3"}
REFUSED = {**GOOD, "system": "Be brief."}
LONG = {**GOOD, "instruction": "1 " * 30}


@pytest.fixture(scope="module", name="chat")
def _chat():
    return ICoTFormat(compact_tokenizer().text)


def evaluation_of(folder, *rows, **settings):
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AnswerEvaluation(source=str(path), **settings)


@pytest.mark.parametrize(("bad", "reason"), [(REFUSED, "one question and one answer"), (LONG, "no room in a context")])
def test_prompts_that_cannot_be_answered_are_bad_rows(chat, tmp_path, bad, reason):
    with pytest.raises(UserError, match=rf"test\.jsonl:2: .*{reason}"):
        evaluation_of(tmp_path, GOOD, bad).prompts(chat, max_seq_len=20)
    lenient = evaluation_of(tmp_path, GOOD, bad, GOOD, strict=False)
    for _ in range(2):
        assert [where.rpartition(":")[2] for where, _ in lenient.prompts(chat, max_seq_len=20)] == ["1", "3"]
    assert len(lenient.traces) == 2 and "3 rows read, 2 kept, 1 dropped" in lenient.report.summary()
    with pytest.raises(UserError, match=r"no row of .* can be used"):
        evaluation_of(tmp_path, bad, strict=False).prompts(chat, max_seq_len=20)


@pytest.mark.parametrize(("rows", "answered"), [(2, 2), (5, 5), (64, 12)])
def test_what_was_answered_is_counted_and_reading_is_not_timed(chat, tmp_path, monkeypatch, rows, answered):
    """Two sources of six rows, of which the run's own evaluation takes one each; every call takes a second."""
    evaluation_of(tmp_path, *[GOOD] * 6)
    source = {"one": str(tmp_path / "test.jsonl"), "two": str(tmp_path / "test.jsonl")}
    run = speed.Finished("run", None, chat, AnswerEvaluation(source=source, max_rows=1, extractor="gsm8k"))
    seconds = itertools.count()
    read, calls = speed.first_prompts, []
    monkeypatch.setattr(
        answers, "generate", lambda model, prompts, **_: calls.append(len(prompts)) or [[]] * len(prompts)
    )
    monkeypatch.setattr(speed, "first_prompts", lambda *a, **b: (next(seconds), read(*a, **b))[1])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(seconds))
    assert speed.examples_per_second([run], rows=rows, batch_size=4) == [answered]
    assert calls == [answered] * 4


ON_REQUEST = PLAIN.replace(
    "<|assistant|>", "<|assistant|>{% if 'reason' in messages[0].content %}{{ '<think>' }}{% endif %}"
)


@pytest.mark.parametrize("order", [1, -1])
def test_the_opening_of_an_answer_is_that_of_its_own_prompt(tmp_path, monkeypatch, order):
    format = chat_of(make_tokenizer("byte", tmp_path / "byte"), ON_REQUEST)
    rows = [
        {"prompt": "plain 2 + 3?", "completion": "Answer: 5"},
        {"prompt": "reason 4 + 1?", "completion": "<think>4 and 1</think>Answer: 5"},
    ][::order]
    said = {"plain": "Answer: 5", "reason": "so</think>Answer: 5"}

    def answer(model, prompts, **_):
        texts = [format.tokenizer.decode(prompt) for prompt in prompts]
        return [format.tokenizer.encode_text(next(said[w] for w in said if w in text)) for text in texts]

    monkeypatch.setattr(answers, "generate", answer)
    result = evaluation_of(tmp_path, *rows)(None, format)
    assert [e.completion for e in result.examples] == ["Answer: 5", "<think>so</think>Answer: 5"][::order]
    assert result.answer_accuracy == 1.0


def test_a_run_whose_config_is_broken_is_one_sentence(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("seed: 1\nevaluation: [1\n")
    with pytest.raises(UserError, match=r"config\.yaml:3: no YAML: "):
        speed.load_run(tmp_path)


def test_rows_without_a_reference_have_a_speed(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "generate", lambda model, prompts, **_: [[]] * len(prompts))
    run = speed.Finished("run", None, chat, evaluation_of(tmp_path, {**GOOD, "response": "three"}, extractor="gsm8k"))
    table = speed.speed_table([run], [1.0], [2.0], rows=4, batch_size=4)
    assert [list(column.cells) for column in table.columns][2] == ["no reference"]
