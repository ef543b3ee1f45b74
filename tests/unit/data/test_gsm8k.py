"""The GSM8K converter against the published equation files, or against rows with their odd cases."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

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


def official_and_published(tmp_path: Path) -> tuple[Path, list[str]]:
    """The official training file, and the lines it becomes: those of the published train and valid, in any order."""
    if "COT_SHARED_DATA" in os.environ:
        shared = Path(os.environ["COT_SHARED_DATA"])
        files = [shared / "icot_gsm8k" / name for name in ("train_official_eq.txt", "valid.txt")]
        return shared / "gsm8k" / "train.jsonl", [line for file in files for line in file.read_text().split("\n")[:-1]]
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in ROWS))
    return source, list(ROWS.values())


def test_conversion_gives_the_published_lines(tmp_path):
    source, published = official_and_published(tmp_path)
    count = convert(source, tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().split("\n")[:-1]
    assert Counter(lines) == Counter(published)
    assert count == len(lines) == (7473 if "COT_SHARED_DATA" in os.environ else 5)


def test_rows_with_an_empty_thought_are_kept_or_dropped(tmp_path):
    source, published = official_and_published(tmp_path)
    empty = sum("|| ####" in line for line in published)
    assert empty == (95 if "COT_SHARED_DATA" in os.environ else 1)
    assert convert(source, tmp_path / "out.txt", empty_thoughts="drop") == len(published) - empty
    assert "|| ####" not in (tmp_path / "out.txt").read_text()


def test_converted_lines_read_back_as_the_same_traces(tmp_path):
    source, _ = official_and_published(tmp_path)
    convert(source, tmp_path / "out.txt")
    converted = list(with_equations(read_traces(source, format="gsm8k")))
    read = list(read_traces(tmp_path / "out.txt"))
    assert len(read) == len(converted) > 0
    for one, other in zip(converted, read, strict=True):
        assert one.id == other.id and one.answer == other.answer
        assert one.messages[-1] == other.messages[-1]
        assert one.messages[0].content.strip() == other.messages[0].content


def test_equations_are_the_annotations_alone():
    assert equations("a <<1+1=2>>2 b\n<<2*3=6>>6") == "<<1+1=2>> <<2*3=6>>"
    assert equations("1 < 2 and 3 > 2") == equations("") == ""


@pytest.mark.parametrize("question", ["a||b", "a #### b", "a\nb"])
def test_a_question_that_cannot_stand_on_a_line_is_named(question):
    trace = Trace(3, (Message("user", question), Message("assistant", "#### 1", thought="<<1=1>>")), "t.jsonl:4")
    with pytest.raises(ValueError, match=r"t\.jsonl:4: question or thought holds a separator"):
        icot_line(trace)


def test_what_is_not_gsm8k_is_named(tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"question": "q", "answer": "a #### 1"}\n{"question": "q", "answer": "no mark"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: '####'"):
        convert(source, tmp_path / "out.txt")
    source.write_text('{"question": "q", "answer": "a #### 1"}\n' * 2)
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: neither this row nor any after it has an equation"):
        convert(source, tmp_path / "out.txt")
    with pytest.raises(ValueError, match="empty_thoughts must be"):
        convert(source, tmp_path / "out.txt", empty_thoughts="maybe")


def test_a_thought_inside_the_answer_is_no_empty_thought():
    question, inline = Message("user", "1+1?"), Message("assistant", "<think>so <<1+1=2>>2</think>#### 2")
    beside = Message("assistant", "#### 2", thought="so <<1+1=2>>2")
    traces = [Trace(i, (question, answer), f"t.jsonl:{i + 1}") for i, answer in enumerate([beside, inline])]
    assert [trace.messages[-1].thought for trace in with_equations(traces)] == ["<<1+1=2>>", None]
    chat = ICoTFormat(compact_tokenizer().text)

    def read(report, first=0):
        report.read += len(traces[first:])
        return with_equations(traces[first:])

    with pytest.raises(UserError, match=r"^t\.jsonl:2: no thought beside the answer$"):
        prepare_rows(read, chat)
    with pytest.raises(UserError, match=r"^t\.jsonl:2: no thought beside the answer$"):
        prepare_rows(lambda report: read(report, first=1), chat)
    rows, report, _ = prepare_rows(read, chat, strict=False, max_dropped=0.5)
    assert rows.ids.tolist() == [0] and report.dropped == {"no thought beside the answer": ["t.jsonl:2"]}


def test_the_command_ends_in_one_sentence(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"question": "q", "answer": "<<1=1>> #### 1"}\n')
    assert main([str(tmp_path / "in.jsonl"), str(tmp_path / "out.txt")]) == 0
    assert capsys.readouterr() == ("1 lines\n", "")
    for source, target, said in [
        ("nope.jsonl", "out.txt", "error: nope.jsonl: no such file or folder\n"),
        (str(tmp_path / "in.jsonl"), str(tmp_path), f"error: {tmp_path}: Is a directory\n"),
    ]:
        assert main([source, target]) == 2
        assert capsys.readouterr() == ("", said)
