"""Prompts before the first step, what is made of the answers, and how many a second a finished run gives."""

import itertools
import json

import pytest
from chats import OPENS, PLAIN

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.datasets import chat_format, reasoning_dataset
from cot_components.errors import UserError
from cot_components.evaluation import AnswerEvaluation
from cot_components.evaluation.budget import tag_ids
from cot_components.models import hf_tokenizer
from cot_components.models.adapter import adapt
from cot_components.models.generate import decode_with
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.models.tiny import tiny_llama
from cot_components.tools import speed

GOOD = {"instruction": "1 2", "response": "#### 3"}
REFUSED = {**GOOD, "system": "Be brief."}
LONG = {**GOOD, "instruction": "1 " * 30}


@pytest.fixture(scope="module", name="chat")
def _chat():
    return ICoTFormat(compact_tokenizer().text)


def nothing(prompts, **_):
    """A model that says nothing."""
    return [([], False)] * len(prompts)


def evaluation_of(folder, *rows, **settings):
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AnswerEvaluation(source=str(path), **settings)


@pytest.mark.parametrize(
    ("bad", "reason"), [(REFUSED, "one question"), (LONG, "context"), ({**GOOD, "answer": r"\boxed{3"}, "reference")]
)
def test_rows_that_cannot_be_asked_or_judged_are_bad_rows(chat, tmp_path, bad, reason):
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
        speed, "decode_with", lambda model: lambda prompts, **_: calls.append(len(prompts)) or nothing(prompts)
    )
    monkeypatch.setattr(speed, "first_prompts", lambda *a, **b: (next(seconds), read(*a, **b))[1])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(seconds))
    assert speed.examples_per_second([run], rows=rows, batch_size=4) == [answered]
    assert calls == [answered] * 4


def test_a_run_whose_config_is_broken_is_one_sentence(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("seed: 1\nevaluation: [1\n")
    with pytest.raises(UserError, match=r"config\.yaml:3"):
        speed.load_run(tmp_path)


def test_rows_without_a_reference_have_a_speed(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "decode_with", lambda model: nothing)
    run = speed.Finished("run", None, chat, evaluation_of(tmp_path, {**GOOD, "response": "three"}, extractor="gsm8k"))
    table = speed.speed_table([run], [1.0], [2.0], rows=4, batch_size=4)
    assert [list(column.cells) for column in table.columns][2] == ["no reference"]


ON_REQUEST = PLAIN.replace("<|assistant|>{", "<|assistant|>{% if messages[0].content == 'think' %}<think>{% endif %}{")


@pytest.fixture(scope="module", name="bytes_")
def _bytes(tmp_path_factory):
    return hf_tokenizer(str(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def template(folder, source):
    path = folder / "template.jinja"
    path.write_text(source)
    return str(path)


def row(system, question, answer):
    turns = (("system", system), ("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


MIXED = [
    row("think" if n % 2 == 0 else "short", f"{n} + 1?", f"<think>{n}</think>" * (n % 2 == 0) + f"Answer: {n + 1}")
    for n in range(1, 5)
]


def test_sampled_answers_do_not_depend_on_the_order_of_rows(bytes_, tmp_path):
    chat, model = chat_format(bytes_, template=template(tmp_path, ON_REQUEST)), adapt(tiny_llama(384))
    how = {"max_new_tokens": 6, "temperature": 1.0, "num_samples": 2, "batch_size": 3, "seed": 4}
    found = []
    for rows in (MIXED, MIXED[::-1], [*MIXED[2:], *MIXED[:2]]):
        result = evaluation_of(tmp_path, *rows, **how)(decode_with(model), chat)
        found.append({(e.prompt[1]["content"], e.sample): e.completion for e in result.examples})
        assert result.cut_rate is not None
    assert found[0] == found[1] == found[2] and len(set(found[0].values())) > 4


@pytest.mark.parametrize("source", [PLAIN, OPENS])
def test_rows_are_held_out_where_no_prompt_is_trained_on(bytes_, tmp_path, source):
    rows = [{"instruction": f"{i} + 1?", "response": f"<think>{i}</think>Answer: {i + 1}"} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    data = reasoning_dataset(bytes_, source=str(tmp_path / "train.jsonl"), template=template(tmp_path, source))
    for tested, held_out, said in (
        (rows[4:], True, "none of 2 prompts"),
        (rows[2:], False, "2 of 4 prompts are in the training data (first: "),
    ):
        evaluation = evaluation_of(tmp_path, *tested)
        assert evaluation(nothing, data.chat).held_out is None and evaluation.overlap_summary() == ""
        evaluation.compare_with_training(data.rows, data.chat)
        assert evaluation(nothing, data.chat).held_out is held_out
        assert (
            list(evaluation.trained_on.values()) == ([] if held_out else [2, 3])
            and said in evaluation.overlap_summary()
        )


def test_answers_that_the_limit_cut_are_counted(bytes_, tmp_path):
    chat, model = chat_format(bytes_, template=template(tmp_path, PLAIN)), adapt(tiny_llama(384))
    result = evaluation_of(tmp_path, *MIXED, max_new_tokens=3)(decode_with(model), chat)
    assert [e.cut for e in result.examples] == [True] * 4 and result.metrics()["cut_rate"] == 1.0


@pytest.mark.parametrize(
    ("tags_as", "source", "num_tags", "opened"),
    [("text", OPENS, 3, True), ("token", OPENS, 1, True), ("text", PLAIN, 6, False)],
)
def test_a_thought_is_closed_at_its_budget(bytes_, tmp_path, tags_as, source, num_tags, opened):
    """Whether the tag is one token or several; a model that opens no thought is left alone."""
    chat = chat_format(bytes_, template=template(tmp_path, source), tags_as=tags_as)
    decode, written = decode_with(adapt(tiny_llama(chat.tokenizer.vocab_size))), []

    def kept(prompts, **how):
        written.append(decode(prompts, **how)[0][0])
        return [(written[-1], False)]

    results = [
        evaluation_of(tmp_path, MIXED[1], max_new_tokens=30, max_thought_tokens=budget)(kept, chat)
        for budget in (None, 4)
    ]
    assert [result.max_thought_tokens for result in results] == [None, 4]
    free, closed = written
    close = list(tag_ids(chat, "</think>"))
    assert closed == free if not opened else closed[:-1][: 4 + len(close)] == free[:4] + close
    assert ("</think>" in results[1].examples[0].completion) is opened
    tight = evaluation_of(tmp_path, MIXED[1], max_new_tokens=4 + num_tags, max_thought_tokens=4)
    with pytest.raises(UserError, match=rf"max_new_tokens is {4 + num_tags}, but .* {4 + num_tags} tokens"):
        tight.prompts(chat)
    assert evaluation_of(tmp_path, MIXED[1], max_new_tokens=5 + num_tags, max_thought_tokens=4).prompts(chat)


def test_a_budget_needs_thoughts_in_the_training_data(bytes_, tmp_path):
    with pytest.raises(UserError, match="max_thought_tokens must be a number from 0, or null, got -1"):
        evaluation_of(tmp_path, GOOD, max_thought_tokens=-1)
    evaluation = evaluation_of(tmp_path, GOOD, max_thought_tokens=3)
    chat = {"template": template(tmp_path, PLAIN), "tags": {"open": "<t>", "close": "</t>"}}
    data = reasoning_dataset(bytes_, source=str(tmp_path / "test.jsonl"), **chat)
    with pytest.raises(UserError, match="max_thought_tokens closes thoughts with </t>"):
        evaluation.compare_with_training(data.rows, data.chat)
