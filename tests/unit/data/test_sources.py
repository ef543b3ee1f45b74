"""Sources: JSON lists, text lines, Parquet, folders in hub layout, and the hub itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from degenerate import GOOD, HOSTILE, fault, refuse_to_open, write_lines
from hypothesis import given
from hypothesis import strategies as st
from lookalikes import write_magpie

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Message, Trace, read_traces
from cot_components.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


@given(
    st.lists(
        st.tuples(TEXTS, st.sampled_from(["", "\n", " \r\n\t\n"]), st.sampled_from([None, 1])), min_size=1, max_size=5
    ),
    st.sampled_from(["", "\n", "\n\n "]),
)
def test_rows_of_a_list_know_their_line(tmp_path_factory, rows, around):
    """The text is put together piece by piece, counting lines on the way."""
    path, text, lines = tmp_path_factory.getbasetemp() / "list.json", f"{around}[", []
    for i, (response, gap, indent) in enumerate(rows):
        text += gap
        lines.append(1 + text.count("\n"))
        text += json.dumps({"instruction": "q", "response": response}, indent=indent, ensure_ascii=False)
        text += gap + ("," if i + 1 < len(rows) else "]")
    path.write_bytes((text + around).encode())
    traces = list(read_traces(path))
    assert [(t.id, t.where, t.messages[1].content) for t in traces] == [
        (i, f"{path}:{line}", row[0]) for i, (line, row) in enumerate(zip(lines, rows, strict=True))
    ]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[\n{"instruction": "q", "response": "a"},\n{"instr', 3, "the JSON is broken here"),
        ('[\n{"instruction": "q", "response": "a"},\n]', 3, "the JSON is broken here"),
        ('[\n{"instruction": "q", "response": "a"}\n{}]', 2, "the list is broken after this row"),
        ('[\n{"instruction": "q",\n"response": "a"}', 3, "the list is broken after this row"),
        ('[{"instruction": "q", "response": "a"}]\n[]', 1, "text after the end of the list"),
        ('[{"instruction": "q", "response": "a"}, ' + "[" * 100_000, 1, "the JSON is broken here"),
        ("[,", 1, "the JSON is broken here"),
        ("[", 1, "the JSON is broken here"),
    ],
)
def test_a_broken_list_is_an_error_even_when_lenient(text, line, reason, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert fault(path, strict=False).startswith(f"{path}:{line}: {reason}")


def test_a_list_with_bad_bytes_names_their_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'[\n{"instruction": "q", "response": "a"},\n"\xff"]')
    assert fault(path, strict=False) == f"{path}:3: not UTF-8"


def test_rows_of_a_list_are_refused_one_by_one(tmp_path):
    path, report = tmp_path / "x.json", DropReport()
    path.write_text(
        json.dumps([GOOD, ["q"], GOOD | {"score": float("nan")}, GOOD | {"response": None}, GOOD], indent=0)
    )
    assert [trace.id for trace in read_traces(path, strict=False, report=report)] == [0, 4]
    assert list(report.dropped) == ["a row is not an object", "NaN is not JSON", "'response' is null"]


def test_json_files_may_hold_one_object_per_line(tmp_path):
    path = write_lines(tmp_path / "x.json", b"", GOOD, GOOD)
    assert [trace.where for trace in read_traces(path)] == [f"{path}:2", f"{path}:3"]


def test_text_lines_keep_odd_separators(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("q\u2028r||c\u0085d #### 1\r\n\n|| #### 2\nq|| #### 3".encode())
    report = DropReport()
    first, last = read_traces(path, strict=False, report=report)
    assert first.messages == (Message("user", "q\u2028r"), Message("assistant", "#### 1", thought="c\u0085d"))
    assert (last.id, last.where, last.answer, last.messages[1].thought) == (2, f"{path}:4", "3", "")
    assert report.dropped == {"the prompt is empty": [f"{path}:3"]}


@pytest.fixture(scope="session")
def magpie(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "magpie"
    write_magpie(folder)
    return folder


def test_a_folder_in_hub_layout_reads_shard_after_shard(magpie):
    traces = list(read_traces(magpie))
    assert [trace.id for trace in traces] == [0, 1, 2, 3, 4]
    places = [Path(trace.where.rpartition(":")[0]).name + trace.where[-2:] for trace in traces]
    assert places[0] == "train-00000-of-00002.parquet:1" and places[3] == "train-00001-of-00002.parquet:1"
    assert [trace.messages[0].content for trace in traces] == [f"What is {i} + 1?" for i in range(5)]
    with pytest.raises(UserError, match="no split 'test'; there are: train"):
        read_traces(magpie, split="test")


def test_a_parquet_null_is_a_null(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "a", "reasoning_content": "t"}]
    path, report = tmp_path / "x.parquet", DropReport()
    rows = [
        {"messages": turns, "answer": "5"},
        {"messages": None},
        {"messages": [turns[0] | {"content": None}, turns[1]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    (trace,) = read_traces(path, strict=False, report=report)
    assert trace == Trace(0, (Message("user", HOSTILE), Message("assistant", "a", thought="t")), f"{path}:1", "5")
    assert report.dropped == {
        "'messages' is null": [f"{path}:2"],
        "'content' of the user's turn is null": [f"{path}:3"],
    }
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a readable Parquet file" in fault(path, strict=False)


def test_readme_configs_and_file_names_decide_the_files(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: easy\n  data_files: easy.jsonl\n- config_name: hard\n  data_files:\n"
        "  - split: train\n    path: hard/*.jsonl\n  - split: dev\n    path: dev.jsonl\n---\n"
    )
    (tmp_path / "hard").mkdir()
    for name in ("easy", "hard/1", "hard/2", "dev"):
        write_lines(tmp_path / f"{name}.jsonl", GOOD | {"instruction": name})

    def prompts(**settings):
        return [(trace.id, trace.messages[0].content) for trace in read_traces(tmp_path, **settings)]

    assert prompts(subset="easy") == [(0, "easy")]
    assert prompts(subset="hard") == [(0, "hard/1"), (1, "hard/2")]
    assert prompts(subset="hard", split="dev") == [(0, "dev")]
    for subset in (None, "medium"):
        with pytest.raises(UserError, match=r"not a data set in hub layout: .*easy.*hard"):
            read_traces(tmp_path, subset=subset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a data set in hub layout"):
        read_traces(tmp_path / "empty")


def test_a_message_from_below_is_cut_to_one_readable_sentence(tmp_path):
    names = "".join(f"- config_name: {letter * 400}\n  data_files: x.jsonl\n" for letter in "ab")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{names}---\n")
    write_lines(tmp_path / "x.jsonl", GOOD)
    with pytest.raises(UserError, match=r"a\.\.\.$") as caught:
        read_traces(tmp_path)
    assert "\n" not in str(caught.value) and "b" * 400 not in str(caught.value)


def test_a_readme_whose_yaml_is_broken_is_named(tmp_path):
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: [\n---\n")
    write_lines(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(UserError, match=r"/README\.md: the YAML at its top cannot be read: .*line 3") as caught:
        read_traces(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_a_file_without_permission_is_named(kind, tmp_path, monkeypatch):
    path = tmp_path / f"x.{kind}"
    path.write_text("[]")
    monkeypatch.setattr(Path, "open", refuse_to_open)
    assert fault(path, strict=False) == f"{path}: cannot be read (Permission denied)"


def test_a_name_that_cannot_be_looked_up_is_named():
    for name in ("x" * 300, "x" * 300 + ".jsonl"):
        with pytest.raises(UserError, match=rf"^{name}: File name too long$"):
            read_traces(name)
    with pytest.raises(UserError, match=r"^~nobody-here/x\.jsonl: Could not determine home directory"):
        read_traces("~nobody-here/x.jsonl")


HUB_SCRIPT = """
import sys
from cot_components.data.read import traces
folder = sys.argv[1]
rows = traces.data_set_rows(f"{folder}/train", traces.hub_data_set(folder, "train", None))
read = [(t.id, t.where, t.messages) for t in traces._traces(folder, rows, "auto", {}, True, traces.DropReport())]
assert [r[1] for r in read] == [f"{folder}/train:{i + 1}" for i in range(5)], read
assert [(r[0], r[2]) for r in read] == [(t.id, t.messages) for t in traces.read_traces(folder)]
try:
    traces.read_traces("nobody/no-such-data-set")
except traces.UserError as error:
    print(error)
"""


def test_the_hub_path_reads_the_same_rows_and_fails_in_one_sentence_offline(magpie, tmp_path):
    """`datasets.load_dataset` itself, in a process that cannot reach the network and has a cache of its own."""
    settings = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, str(magpie)], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nobody/no-such-data-set: neither here nor to be had from the hub: ")
    assert len(done.stdout.splitlines()) == 1
