"""Real reasoning data (or its look-alikes) through real tokenizers: what is dropped, and each kept row's text."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lookalikes import DATA_SETS, shared_data
from tokenizers_for_tests import make_tokenizer

from cot_components.data.bad_rows import DropReport
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.rows.prepare import RowSettings, prepare_rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.templates import load_template
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.roles import Role

THINKING = {data_set.path.split("/")[0]: data_set for data_set in DATA_SETS if data_set.path.startswith("think_")}
INEXACT = "the tokenizer does not give the supervised text back exactly"
NORMALISING = ("hf_qwen", "qwen2_5")
END_OF_TURN = {"byte": "<|end|>", "llama3": "<|eot_id|>", "hf_qwen": "<|im_end|>", "qwen2_5": "<|im_end|>"}


def chat_of(kind: str, tags_as: str, name: str, folder: Path) -> ChatFormat:
    tokenizer, tags = make_tokenizer(kind, folder / kind), THINKING[name].tags
    template = load_template("chatml" if kind == "hf_qwen" else None, tokenizer)
    return ChatFormat(with_tag_tokens(tokenizer, tags) if tags_as == "token" else tokenizer, template, tags)


def traces_of(name: str, folder: Path, max_rows: int | None) -> list[Trace]:
    data_set = THINKING[name]
    path = shared_data(folder) / data_set.path
    return list(read_traces(path, format=data_set.format, columns=data_set.columns, max_rows=max_rows))


def reader(traces: list[Trace]) -> Callable[[DropReport], list[Trace]]:
    def read(report: DropReport) -> list[Trace]:
        report.read += len(traces)
        return traces

    return read


KINDS = [
    ("byte", "text", None),
    ("hf_qwen", "token", 200),
    ("llama3", "token", None),
    ("llama3", "text", 50),
    ("qwen2_5", "text", 50),
]


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize(("kind", "tags_as", "max_rows"), KINDS)
def test_every_row_is_exact_or_dropped(name, kind, tags_as, max_rows, tmp_path):
    data_set, traces = THINKING[name], traces_of(name, tmp_path, max_rows)
    chat = chat_of(kind, tags_as, name, tmp_path)
    rows, report, _ = prepare_rows(reader(traces), chat, strict=False, max_dropped=0.5)
    texts = {trace.id: trace.messages[-1].content for trace in traces}
    inexact = [i for i, text in texts.items() if kind in NORMALISING and unicodedata.normalize("NFC", text) != text]
    assert report.read == min(data_set.expected.rows, max_rows or data_set.expected.rows)
    dropped = {reason: len(places) for reason, places in report.dropped.items()}
    assert dropped == ({INEXACT: len(inexact)} if inexact else {})
    assert rows.ids.tolist() == [i for i in texts if i not in inexact]

    supervised = {}
    for index, row_id in enumerate(rows.ids.tolist()):
        flat = rows.flat([index])
        text = texts[row_id].strip() if kind == "llama3" else texts[row_id]  # its template strips
        assert chat.tokenizer.decode(flat.labels[flat.labels >= 0]) == text + END_OF_TURN[kind]
        before, _, after = text.partition(data_set.tags.open)
        thought, _, answer = after.partition(data_set.tags.close)
        wanted = {
            Role.THINK_OPEN: data_set.tags.open,
            Role.THOUGHT: thought,
            Role.THINK_CLOSE: data_set.tags.close,
            Role.ANSWER: before + answer + END_OF_TURN[kind],
        }
        for role, part in wanted.items():
            roles = (Role.ANSWER, Role.CALL) if role is Role.ANSWER else (role,)
            assert chat.tokenizer.decode(flat.tokens[np.isin(flat.roles, roles)]) == part
            for one in roles:
                supervised[one.label] = supervised.get(one.label, 0) + int((flat.roles == one).sum())
        num_thought = int((flat.roles == Role.THOUGHT).sum())
        assert flat.counters[flat.roles == Role.THOUGHT].tolist() == list(range(num_thought))
    prompt = int(rows.lengths.sum()) - sum(supervised.values())
    assert rows.tokens_by_role() == {"prompt": prompt, **{role: n for role, n in supervised.items() if n}}
    assert len(rows) > 0 and prompt > 0 and (supervised["call"] > 0) == (name == "think_toolrl")
    if tags_as == "token":
        assert supervised["think_open"] == supervised["think_close"] == len(rows)


@pytest.mark.parametrize("name", THINKING)
def test_cut_rows_keep_everything_but_the_middle_of_the_thought(name, tmp_path):
    read = reader(traces_of(name, tmp_path, max_rows=60))
    chat = chat_of("byte", "text", name, tmp_path)
    whole = prepare_rows(read, chat).rows
    limit = int(sorted(whole.lengths)[len(whole) // 2])
    rows, report, _ = prepare_rows(
        read, chat, RowSettings(max_seq_len=limit, too_long="cut_thought"), strict=False, max_dropped=0.9
    )
    assert all(reason == f"longer than {limit} tokens even without its thought" for reason in report.dropped)
    position = {row_id: index for index, row_id in enumerate(whole.ids.tolist())}
    num_cut = 0
    for index, row_id in enumerate(rows.ids.tolist()):
        cut, full = rows.flat([index]), whole.flat([position[row_id]])
        assert len(cut.tokens) <= limit
        kept = np.isin(full.counters, cut.counters)
        assert cut.tokens.tolist() == full.tokens[kept].tolist()
        assert cut.roles.tolist() == full.roles[kept].tolist()
        missing = full.counters[~kept]
        assert (np.diff(missing) == 1).all()
        num_cut += len(missing) > 0
    assert num_cut > 0
