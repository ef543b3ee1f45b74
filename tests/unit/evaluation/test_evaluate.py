"""The evaluation driver, with functions in place of a model; evaluations on disk, and what is said of a broken one."""

import dataclasses
import io
import json

import pytest
from evaluations import TAGS, TRACES, count_words, reply, run, trace
from rich.console import Console

from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Completion, Evaluation, evaluate
from cot_components.evaluation.saved import read_evaluation
from cot_components.evaluation.table import summary_table
from cot_components.evaluation.token_losses import PieceLoss, TokenLosses


def shown(**evaluations):
    console = Console(file=io.StringIO(), width=110)
    console.print(summary_table(**evaluations))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_model_that_says_the_reference_is_right():
    result = run(TRACES, [trace.messages[-1].content for trace in TRACES])
    assert result.answer_accuracy == result.format_rate == 1.0
    assert result.metrics().keys() == {"answer_accuracy", "format_rate", "thought_rate", "thought_tokens"}
    assert result.accuracy_interval[0] == pytest.approx(0.7575, abs=1e-4) and result.accuracy_interval[1] == 1.0
    assert result.thought_tokens > 5 and not result.unscored


def test_each_kind_of_completion_is_scored():
    traces = [trace(i, reply("x", i)) for i in range(6)]
    completions = [reply("one two", 0), reply("one", 9), "<think>one two three Answer: 2", "Answer: 3"]
    result = run(traces, [*completions, reply("", "4."), "<think>a</think>"])
    assert [e.correct for e in result.examples] == [True, False, False, True, True, False]
    assert [e.extracted for e in result.examples] == ["0", "9", None, "3", "4.", None]
    assert [e.format_ok for e in result.examples] == [True, True, False, False, True, False]
    assert [e.thought_tokens for e in result.examples] == [2, 1, 5, 0, 0, 1]
    assert [e.thinks for e in result.examples] == [True, True, True, False, False, True], "blanks are no thought"
    assert result.answer_accuracy == result.format_rate == 0.5 and result.thought_tokens == 1.5
    assert result.thought_rate == pytest.approx(4 / 6)


def test_without_any_thought_no_form_is_asked_for():
    traces = [trace(i, f"Answer: {i}") for i in range(2)]
    result = run(traces, ["Answer: 0", "Answer: 0"])
    assert result.metrics() == {"answer_accuracy": 0.5} and result.format_interval is None
    text = " ".join(shown(after=result))
    assert "answers correct" in text and "well formed" not in text
    assert run(traces, ["Answer: 0", reply("so", 1)]).format_rate == 0.5
    assert run([trace(0, "Answer: 0", thought="so")], ["Answer: 0"]).format_rate == 0.0


@pytest.mark.parametrize(("thinking", "formed"), [(True, [False, True]), (False, [True, False])])
def test_the_form_is_the_one_that_is_asked_for(thinking, formed):
    """Also where neither data nor completions have a thought: that none is written is what the rate tells."""
    traces = [trace(i, f"Answer: {i}") for i in range(2)]
    result = run(traces, ["Answer: 0", reply("so", 1)], thinking=thinking)
    assert [e.format_ok for e in result.examples] == formed and result.thought_rate == 0.5
    assert run(traces, ["Answer: 0"] * 2, thinking=thinking).metrics()["thought_rate"] == 0.0


def test_the_prompt_is_all_but_the_last_turn():
    seen = []
    said = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", reply("x", 1))]
    turns = tuple(Message(*turn) for turn in said)

    def generate(prompts):
        seen.extend(prompts)
        return [reply("x", 1)]

    result = evaluate([Trace(0, turns, "x:1")], generate, tags=TAGS, count_tokens=count_words)
    assert seen == [turns[:-1]]
    assert [m["role"] for m in result.examples[0].prompt] == ["system", "user", "assistant", "user"]
    assert result.answer_accuracy == 1.0


def test_a_trace_without_a_reference_is_named_and_not_counted():
    traces = [trace(0, reply("x", 0)), trace(1, "<think>x</think>a poem"), trace(2, reply("x", 2))]
    result = run(traces, [reply("x", 0), "<think>x</think>a poem", reply("x", 9)])
    assert result.unscored == ["data.jsonl:2"]
    assert result.answer_accuracy == 0.5 and result.format_rate == 1.0
    assert result.examples[1].correct is None
    nothing = run(traces[1:2], ["no idea"])
    assert nothing.answer_accuracy is None and nothing.accuracy_interval is None and nothing.majority_accuracy is None
    assert "answer_accuracy" not in nothing.metrics()


def test_several_samples():
    traces = [trace(0, reply("x", 5)), trace(1, reply("x", 6)), trace(2, "a poem")]
    seen = []

    def generate(prompts):
        seen.extend(prompts)
        return [reply("x", n) for n in ("5", "5.", "4", "6", "7", "7.0", "1", "1", "1")]

    result = evaluate(traces, generate, tags=TAGS, count_tokens=count_words, num_samples=3)
    assert [p[0].content for p in seen] == [f"question {i}" for i in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert [e.sample for e in result.examples] == [0, 1, 2] * 3
    assert result.answer_accuracy == pytest.approx(0.5)
    assert result.pass_at(3) == 1.0 and result.pass_at(1) == pytest.approx(0.5)
    assert result.majority_accuracy == 0.5
    assert result.metrics()["answer_any"] == 1.0 and result.metrics()["answer_majority"] == 0.5
    half_right = run(traces, [reply("x", 5)] * 3)
    assert result.accuracy_interval == half_right.accuracy_interval


def test_what_the_template_opened_belongs_to_the_model():
    inside = "one two</think>Answer: 5"
    result = run([trace(0, reply("x", 5))], [inside], prefix="<think>\n")
    assert result.format_rate == 1.0 and result.thought_tokens == 2 and result.answer_accuracy == 1.0
    assert result.examples[0].completion == "<think>\n" + inside
    assert run([trace(0, reply("x", 5))], [inside]).format_rate == 0.0


def test_completions_that_were_cut_are_counted(tmp_path):
    traces = [trace(i, reply("x", i)) for i in range(4)]
    result = run(traces, [Completion("<think>one", True), *(Completion(reply("x", i), False) for i in (1, 2, 3))])
    assert [e.cut for e in result.examples] == [True, False, False, False]
    assert result.cut_rate == result.metrics()["cut_rate"] == 0.25
    assert read_evaluation(result.save(tmp_path / "new.json")) == result
    assert "cut by max_new_tokens 25.0 %" in shown(after=result)
    partly = run(traces[:2], [Completion("<think>one", True), reply("x", 1)])
    assert partly.cut_rate == 1.0
    unknown = run(traces, [reply("x", i) for i in range(4)])
    assert unknown.cut_rate is None and not any("cut" in line for line in shown(after=unknown))


def test_an_evaluation_of_an_older_version_is_read(tmp_path):
    path = run(TRACES, [reply("x", 1)] * 12).save(tmp_path / "step_0.json")
    saved = json.loads(path.read_text())
    del saved["held_out"]
    for example in saved["examples"]:
        del example["cut"]
    path.write_text(json.dumps(saved))
    again = read_evaluation(path)
    assert again.cut_rate is None and again.held_out is None and "12 examples; 95 % intervals" in shown(after=again)


def test_rows_are_called_held_out_where_that_is_known():
    result = run(TRACES, [reply("x", 1)] * 12)
    for held_out, name in ((True, "12 held-out examples"), (False, "12 examples"), (None, "12 examples")):
        assert shown(after=dataclasses.replace(result, held_out=held_out))[-1].startswith(name)


def test_the_comparer_decides():
    traces = [trace(0, reply("x", "(x-1)(x+1)")), trace(1, reply("x", "x")), trace(2, reply("x", "7"))]
    said = [reply("x", "x^2 - 1"), reply("x", "y"), "nothing"]
    assert [e.correct for e in run(traces, said).examples] == [False, False, False]
    assert [e.correct for e in run(traces, said, comparer="math").examples] == [True, False, False]
    three = [*said[:1] * 2, reply("x", "(x-1)(x+1)")]
    assert run(traces[:1], three, comparer="math", num_samples=3).majority_accuracy == 1.0


def test_empty_completions_have_no_answer():
    traces = [trace(i, reply("x", i)) for i in range(3)]
    for extractor in ("answer_line", "boxed", "gsm8k", "last_number", "whole", ["boxed", "whole"]):
        result = run(traces, ["", " \n", "<think>"], extractor=extractor)
        assert [e.extracted for e in result.examples] == [None] * 3
        assert not any(e.correct for e in result.examples) and result.majority_accuracy in (None, 0.0)


@pytest.mark.parametrize("unknown", ["extractor", "comparer"])
def test_an_unknown_name_is_found_before_anything_is_generated(unknown):
    with pytest.raises(UserError, match=unknown):
        evaluate(TRACES, pytest.fail, tags=TAGS, count_tokens=count_words, **{unknown: "box"})


def test_one_completion_is_wanted_for_each_prompt():
    with pytest.raises(UserError, match="1 completions for 12 prompts"):
        run(TRACES, ["x"])


def test_the_table_before_and_after():
    losses = {"val_loss": 0.412, "val_loss_answer": 0.02}
    before = run(TRACES, ["<think>one two"] * 12, losses=dict.fromkeys(losses, 5.0))
    after = run(TRACES, [t.messages[-1].content for t in TRACES[:9]] + [reply("x", "no")] * 3, losses=losses)
    lines = shown(before=before, after=after)
    assert lines == [
        "before after",
        "answers correct 0.0 % 0.0 to 24.2 75.0 % 46.8 to 91.1",
        "well formed 0.0 % 0.0 to 24.2 100.0 % 75.8 to 100.0",
        "with a thought 100.0 % 100.0 %",
        f"thought, mean tokens 2.0 {after.thought_tokens:.1f}",
        "validation loss 5.000 0.412",
        "loss on answers 5.000 0.020",
        "12 examples; 95 % intervals",
    ]


def test_the_table_of_samples_and_of_what_could_not_be_scored():
    traces = [trace(0, reply("x", 5)), trace(1, "a poem")]
    lines = shown(sampled=run(traces, [reply("x", 5), "no", "a", "b"], num_samples=2))
    assert "any sample correct 100.0 %" in lines and "majority correct 100.0 %" in lines
    assert lines[-1] == "2 examples, 2 samples each; 1 without a reference answer, not in the accuracy; 95 % intervals"


def test_an_evaluation_of_losses_alone():
    only = Evaluation((), losses={"val_loss": 1.25})
    assert only.metrics() == {"val_loss": 1.25} and only.format_rate is None and only.thought_tokens is None
    lines = shown(before=only)
    assert "answers correct -" in lines and "validation loss 1.250" in lines
    with pytest.raises(UserError, match="no evaluation"):
        summary_table()


def test_save_and_read_back(tmp_path):
    result = run(TRACES, [reply("\u516d \x1b", "<&>")] * 12, losses={"val_loss": 0.5})
    by_token = TokenLosses(7, (PieceLoss("\x1b", "prompt", None), PieceLoss("6", "answer", 0.25)))
    result = dataclasses.replace(result, token_losses=(by_token,))
    path = result.save(tmp_path / "deep" / "step_0.json")
    again = read_evaluation(path)
    assert again == result and again.metrics() == result.metrics()
    assert json.loads(path.read_text())["metrics"]["val_loss"] == 0.5


OF_ALL = [{"examples": 3}, {"examples": [3]}, {"num_samples": "1"}, {"num_samples": 0}]
OF_ALL += [{"token_losses": [3]}, {"token_losses": [{"row_id": 0, "pieces": [["a", "answer", "low"]]}]}]
OF_ALL += [{"losses": [1]}, {"losses": {"val_loss": "low"}}, {"losses": {"val_loss": True}}]
OF_ONE = [{"completion": 3}, {"correct": "yes"}, {"thought_tokens": "3"}, {"more": 1}]
OF_ONE += [{"prompt": [{"role": "user"}]}, {"prompt": ["hello"]}, {"prompt": None}]


@pytest.mark.parametrize("change", [*OF_ALL, *[{"examples": change} for change in OF_ONE]])
def test_wrong_types_are_named_with_their_key(tmp_path, change):
    path = run(TRACES, [reply("6", "6")] * 12).save(tmp_path / "step_0.json")
    saved = json.loads(path.read_text())
    ((key, value),) = change.items()
    if isinstance(value, dict) and key == "examples":
        saved["examples"][1] |= value
        key = f"examples.{next(iter(value))}"
    else:
        saved[key] = value
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=rf"step_0\.json: not a saved evaluation.*({key}|an example)"):
        read_evaluation(path)
