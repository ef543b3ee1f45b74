"""The GSM8K converter against the published equation files, or against rows with their odd cases."""

import os
from collections import Counter
from pathlib import Path

import pytest
from degenerate import write_lines
from reading import reader

from cot_components.data.read.gsm8k import convert, equations, icot_line, main, with_equations
from cot_components.data.read.traces import Message, Trace, read_traces
from cot_components.data.rows.prepare import prepare_rows
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.errors import UserError
from cot_components.models.gpt2_bpe import compact_tokenizer

ROWS = {
    ("Ann has 3 cups.  She buys 4.", "She has 3+4 = <<3+4=7>>7 cups.\nThen 7*2=$<<7*2=14>>14.\n#### 14"): (
        "Ann has 3 cups.  She buys 4.||<<3+4=7>> <<7*2=14>> #### 14"
    ),
    ("How much?", "It is plain.\n#### 2,125"): "How much?|| #### 2,125",
    ("Half of 1?", "1/2 = <<1/2=.5>>.5\n#### .5"): "Half of 1?||<<1/2=.5>> #### .5",
    ("Sum\u00e9 of \u201c5\u201d?", "<<5=5>>5 < 6 << 7\n#### 5"): "Sum\u00e9 of \u201c5\u201d?||<<5=5>> #### 5",
    ("Debt?", "4-9=<<4-9=-5>>-5\n#### -5"): "Debt?||<<4-9=-5>> #### -5",
}
SHARED = os.environ.get("COT_SHARED_DATA")
NUM_ROWS, NUM_EMPTY = (7473, 95) if SHARED else (5, 1)


@pytest.fixture
def official(tmp_path):
    """The official training file, and the lines it becomes: those of the published train and valid, in any order."""
    if SHARED:
        files = [Path(SHARED) / "icot_gsm8k" / name for name in ("train_official_eq.txt", "valid.txt")]
        return Path(SHARED) / "gsm8k/train.jsonl", [line for f in files for line in f.read_text().split("\n")[:-1]]
    rows = ({"question": question, "answer": answer} for question, answer in ROWS)
    return write_lines(tmp_path / "train.jsonl", *rows), list(ROWS.values())


def test_conversion_gives_the_published_lines(official, tmp_path):
    source, published = official
    assert convert(source, tmp_path / "out.txt") == NUM_ROWS
    assert Counter((tmp_path / "out.txt").read_text().split("\n")[:-1]) == Counter(published)
    assert sum("|| ####" in line for line in published) == NUM_EMPTY
    assert convert(source, tmp_path / "out.txt", empty_thoughts="drop") == NUM_ROWS - NUM_EMPTY
    assert "|| ####" not in (tmp_path / "out.txt").read_text()


def test_converted_lines_read_back_as_the_same_traces(official, tmp_path):
    convert(official[0], tmp_path / "out.txt")
    converted = list(with_equations(read_traces(official[0], format="gsm8k")))
    for one, other in zip(converted, read_traces(tmp_path / "out.txt"), strict=True):
        assert (one.id, one.answer, one.messages[-1]) == (other.id, other.answer, other.messages[-1])
        assert one.messages[0].content.strip() == other.messages[0].content
    assert len(converted) == NUM_ROWS


def test_equations_are_the_annotations_alone():
    assert equations("a <<1+1=2>>2 b\n<<2*3=6>>6") == "<<1+1=2>> <<2*3=6>>"
    assert equations("1 < 2 and 3 > 2") == equations("") == ""


@pytest.mark.parametrize("question", ["a||b", "a #### b", "a\nb"])
def test_a_question_that_cannot_stand_on_a_line_is_named(question):
    trace = Trace(3, (Message("user", question), Message("assistant", "#### 1", thought="<<1=1>>")), "t.jsonl:4")
    with pytest.raises(ValueError, match=r"t\.jsonl:4: question or thought holds a separator"):
        icot_line(trace)


@pytest.mark.parametrize(
    ("answers", "settings", "message"),
    [
        (("a #### 1", "no mark"), {}, r"bad\.jsonl:2: '####'"),
        (("a #### 1", "a #### 1"), {}, r"bad\.jsonl:1: neither this row nor any after it has an equation"),
        (("a <<1=1>> #### 1",), {"empty_thoughts": "maybe"}, "empty_thoughts must be"),
    ],
)
def test_what_is_not_gsm8k_is_named(answers, settings, message, tmp_path):
    source = write_lines(tmp_path / "bad.jsonl", *({"question": "q", "answer": answer} for answer in answers))
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "out.txt", **settings)


def test_a_thought_inside_the_answer_is_no_empty_thought():
    question, inline = Message("user", "1+1?"), Message("assistant", "<think>so <<1+1=2>>2</think>#### 2")
    beside = Message("assistant", "#### 2", thought="so <<1+1=2>>2")
    traces = [Trace(i, (question, answer), f"t.jsonl:{i + 1}") for i, answer in enumerate([beside, inline])]
    assert [trace.messages[-1].thought for trace in with_equations(traces)] == ["<<1+1=2>>", None]
    chat = ICoTFormat(compact_tokenizer().text)
    for some in (traces, traces[1:]):
        with pytest.raises(UserError, match=r"^t\.jsonl:2: no thought beside the answer$"):
            prepare_rows(lambda report, some=some: with_equations(reader(some)(report)), chat)
    rows, report, _ = prepare_rows(
        lambda report: with_equations(reader(traces)(report)), chat, strict=False, max_dropped=0.5
    )
    assert rows.ids.tolist() == [0] and report.dropped == {"no thought beside the answer": ["t.jsonl:2"]}


def test_the_command_ends_in_one_sentence(tmp_path, capsys):
    source = str(write_lines(tmp_path / "in.jsonl", {"question": "q", "answer": "<<1=1>> #### 1"}))
    assert main([source, str(tmp_path / "out.txt")]) == 0
    assert capsys.readouterr() == ("1 lines\n", "")
    for arguments, said in (
        (["nope.jsonl", "out.txt"], "error: nope.jsonl: no such file or folder\n"),
        ([source, str(tmp_path)], f"error: {tmp_path}: Is a directory\n"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr() == ("", said)
