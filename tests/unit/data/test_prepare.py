"""From traces to rows: which rows there are, what drops one, and a cache used exactly when nothing has changed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chats_for_tests import OPENS, REWRITES, chat
from degenerate import refuse_to_open
from tokenizers_for_tests import make_tokenizer

from cot_components.data.bad_rows import DropReport, RowError, TraceError
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.rows import prepare as prepare_module
from cot_components.data.rows.encode import encode_in_one_go
from cot_components.data.rows.prepare import TURN_SHIFT, RowSettings, prepare_rows, source_key
from cot_components.data.text.segments import Tags
from cot_components.errors import UserError
from cot_components.roles import Role


@pytest.fixture(scope="module")
def byte(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))


def trace(number: int, *contents: str, weight: float = 1.0) -> Trace:
    """User and assistant in turn; `weight` is that of the assistant's turns."""
    turns = [Message("assistant", c, weight=weight) if i % 2 else Message("user", c) for i, c in enumerate(contents)]
    return Trace(number, tuple(turns), f"data.jsonl:{number + 1}")


GOOD = [trace(i, f"question {i}", f"<think>thought {i}</think>answer {i}") for i in range(3)]


def reader(traces: Iterable[Trace]) -> Callable[[DropReport], list[Trace]]:
    def read(report: DropReport) -> list[Trace]:
        report.read += len(list(traces))
        return list(traces)

    return read


def test_every_trace_is_a_row(byte):
    rows, report, from_cache = prepare_rows(reader(GOOD), chat(byte))
    assert rows.ids.tolist() == [0, 1, 2]
    assert (report.read, report.kept, from_cache) == (3, 3, False)
    flat = rows.flat([1])
    assert byte.decode(flat.tokens) == "<|user|>question 1<|end|><|assistant|><think>thought 1</think>answer 1<|end|>"
    assert byte.decode(flat.tokens[flat.roles == Role.THOUGHT]) == "thought 1"
    assert byte.decode(flat.labels[flat.labels >= 0]) == "<think>thought 1</think>answer 1<|end|>"


def test_a_row_for_each_turn(byte):
    talk = trace(5, "q0", "<think>t0</think>a0", "q1", "a1", "q2", "<think>t2</think>a2")
    rows, report, _ = prepare_rows(reader([GOOD[0], talk]), chat(byte), RowSettings(turns="each"))
    assert rows.ids.tolist() == [0, 5, 5 + (1 << TURN_SHIFT), 5 + (2 << TURN_SHIFT)]
    assert (report.read, report.kept) == (4, 4)
    third = rows.flat([3])
    history = "<|user|>q0<|end|><|assistant|><think>t0</think>a0<|end|><|user|>q1<|end|><|assistant|>a1<|end|>"
    assert byte.decode(third.tokens[third.roles == Role.PROMPT]) == history + "<|user|>q2<|end|><|assistant|>"
    assert byte.decode(third.labels[third.labels >= 0]) == "<think>t2</think>a2<|end|>"
    last, _, _ = prepare_rows(reader([GOOD[0], talk]), chat(byte))
    assert last.ids.tolist() == [0, 5]
    np.testing.assert_array_equal(last.flat([1]).tokens, third.tokens)


def test_a_turn_that_shall_not_count_makes_no_row(byte):
    talk = trace(5, "q0", "a0", "q1", "a1", "q2", "a2")
    first = replace(talk.messages[1], weight=0.0)
    talk = replace(talk, messages=(talk.messages[0], first, *talk.messages[2:]))
    rows, report, _ = prepare_rows(reader([talk]), chat(byte), RowSettings(turns="each"))
    assert rows.ids.tolist() == [5 + (1 << TURN_SHIFT), 5 + (2 << TURN_SHIFT)]
    assert (report.read, report.num_dropped) == (2, 0)


BAD = {
    "no assistant turn": trace(7, "q"),
    "supervised turn has weight 0": trace(7, "q", "<think>t</think>a", weight=0.0),
    "never closed": trace(7, "q", "<think>t"),
    "half of a surrogate pair": trace(7, "q \udc00", "<think>t</think>a"),
    "longer than 60 tokens": trace(7, "q" * 60, "<think>t</think>a"),
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("turns", ["last", "each"])
def test_a_row_that_cannot_be_used(byte, reason, turns):
    traces, settings = [*GOOD, BAD[reason], *GOOD[:1]], RowSettings(turns=turns, max_seq_len=60)
    with pytest.raises(TraceError, match=rf"data\.jsonl:8.*{reason}"):
        prepare_rows(reader(traces), chat(byte), settings)
    rows, report, _ = prepare_rows(reader(traces), chat(byte), settings, strict=False, max_dropped=0.2)
    assert rows.ids.tolist() == [0, 1, 2, 0]
    assert (report.read, report.kept) == (5, 4)
    assert reason in report.summary() and "data.jsonl:8" in report.summary()
    with pytest.raises(UserError, match="1 of 5 rows were dropped"):
        prepare_rows(reader(traces), chat(byte), settings, strict=False, max_dropped=0.1)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_nothing_left_is_an_error(byte, tmp_path, cache):
    cache_dir = tmp_path / cache if cache else None
    with pytest.raises(UserError, match="1 of 1 rows were dropped and 0 are left"):
        prepare_rows(reader([BAD["never closed"]]), chat(byte), strict=False, max_dropped=1.0, cache_dir=cache_dir)


def test_one_text_without_an_encoding_drops_only_its_own_row(byte):
    def refuse_tabs(texts):
        if any("\t" in text for text in texts):
            raise RowError("tabs")
        return byte.encode_plain(texts)

    lacking = chat(replace(byte, encode_plain=refuse_tabs, places=None))
    traces = [*GOOD, trace(3, "q", "<think>\t</think>a"), trace(4, "q", "<think>t</think>a")]
    rows, report, _ = prepare_rows(reader(traces), lacking, strict=False, max_dropped=0.5)
    assert rows.ids.tolist() == [0, 1, 2, 4]
    assert report.dropped == {"tabs": ["data.jsonl:4"]}


def test_a_row_that_does_not_come_back_exactly_is_dropped(byte):
    lower = replace(byte, encode_plain=lambda texts: byte.encode_plain([text.lower() for text in texts]), places=None)
    traces = [trace(0, "Q", "<think>t</think>a"), trace(1, "q", "<think>T</think>a")]
    rows, report, _ = prepare_rows(reader(traces), chat(lower), strict=False, max_dropped=0.5)
    assert rows.ids.tolist() == [0]
    assert report.dropped == {"the tokenizer does not give the supervised text back exactly": ["data.jsonl:2"]}


def test_the_weight_of_a_turn_multiplies_its_supervised_tokens(byte):
    flat = prepare_rows(reader([trace(0, "q", "<think>t</think>a", weight=0.5)]), chat(byte)).rows.flat([0])
    assert set(flat.weights[flat.roles != Role.PROMPT].tolist()) == {0.5}
    assert set(flat.weights[flat.roles == Role.PROMPT].tolist()) == {1.0}


def test_many_traces_are_encoded_in_order(byte, monkeypatch):
    traces = [trace(i, f"{i}", f"<think>{i}</think>{i}") for i in range(20)]
    whole = prepare_rows(reader(traces), chat(byte)).rows
    monkeypatch.setattr(prepare_module, "CHUNK", 7)
    parts = prepare_rows(reader(traces), chat(byte)).rows
    assert whole.ids.tolist() == parts.ids.tolist() == list(range(20))
    np.testing.assert_array_equal(whole.tokens, parts.tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": "all"}, "turns must be one of last, each, got 'all'"),
        ({"too_long": "cut"}, "too_long must be one of drop, cut_thought, got 'cut'"),
        ({"max_seq_len": 1}, "max_seq_len must be at least 2, got 1"),
    ],
)
def test_settings_that_do_not_exist(settings, message):
    with pytest.raises(UserError, match=message):
        RowSettings(**settings)


@pytest.fixture
def encoded(monkeypatch):
    """Numbers of rows that were encoded, one entry per batch."""
    counts = []

    def counting(turns, tokenizer):
        counts.append(len(turns))
        return encode_in_one_go(turns, tokenizer)

    monkeypatch.setattr(prepare_module, "encode_in_one_go", counting)
    return counts


def test_the_second_time_nothing_is_encoded(byte, tmp_path, encoded):
    traces = [*GOOD, BAD["never closed"]]
    options = {"strict": False, "max_dropped": 0.5, "cache_dir": tmp_path / "cache"}
    first = prepare_rows(reader(traces), chat(byte), **options)
    second = prepare_rows(reader(traces), chat(byte), **options)
    assert (first.from_cache, second.from_cache, encoded) == (False, True, [3])
    assert second.report == first.report
    np.testing.assert_array_equal(second.rows.tokens, first.rows.tokens)
    in_memory = prepare_rows(reader(traces), chat(byte), strict=False, max_dropped=0.5)
    np.testing.assert_array_equal(in_memory.rows.tokens, first.rows.tokens)


def test_dropped_rows_of_the_cache_are_still_judged(byte, tmp_path):
    traces = [*GOOD, BAD["never closed"]]
    prepare_rows(reader(traces), chat(byte), strict=False, max_dropped=0.5, cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"data\.jsonl:8: .*never closed"):
        prepare_rows(reader(traces), chat(byte), cache_dir=tmp_path)
    with pytest.raises(UserError, match="1 of 4 rows were dropped"):
        prepare_rows(reader(traces), chat(byte), strict=False, max_dropped=0.1, cache_dir=tmp_path)


def test_a_strict_run_that_fails_leaves_no_cache(byte, tmp_path):
    with pytest.raises(TraceError):
        prepare_rows(reader([*GOOD, BAD["never closed"]]), chat(byte), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_made_again(byte, tmp_path, encoded):
    prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path)
    (tokens,) = tmp_path.glob("*/tokens.npy")
    tokens.write_bytes(tokens.read_bytes()[:-4])
    again = prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path)
    assert (again.from_cache, encoded) == (False, [3, 3])
    np.testing.assert_array_equal(again.rows.tokens, prepare_rows(reader(GOOD), chat(byte)).rows.tokens)


def test_anything_that_decides_the_rows_makes_another_cache(byte, tmp_path, encoded, monkeypatch):
    other_text = [*GOOD[:2], trace(2, "question 2", "<think>thought 2</think>answer 2.")]
    variants = [
        (GOOD, chat(byte), RowSettings()),
        (other_text, chat(byte), RowSettings()),
        (GOOD[:2], chat(byte), RowSettings()),
        ([replace(one, id=one.id + 1) for one in GOOD], chat(byte), RowSettings()),
        (
            [replace(one, messages=(one.messages[0], replace(one.messages[1], weight=0.5))) for one in GOOD],
            chat(byte),
            RowSettings(),
        ),
        (GOOD, chat(replace(byte, content_hash="other")), RowSettings()),
        (GOOD, chat(byte, REWRITES), RowSettings()),
        (GOOD, chat(byte, tags_as="token"), RowSettings()),
        (GOOD, chat(byte), RowSettings(turns="each")),
        (GOOD, chat(byte), RowSettings(max_seq_len=500)),
        (GOOD, chat(byte), RowSettings(max_seq_len=500, too_long="cut_thought")),
    ]
    for number, (traces, format, settings) in enumerate(variants):
        assert not prepare_rows(reader(traces), format, settings, cache_dir=tmp_path).from_cache, number
    for traces, format, settings in variants:
        assert prepare_rows(reader(traces), format, settings, cache_dir=tmp_path).from_cache
    assert len(encoded) == len(list(tmp_path.iterdir())) == len(variants)
    other_tags = [trace(0, "q", "<a>t</a>a")]
    assert not prepare_rows(reader(other_tags), chat(byte, tags=Tags("<a>", "</a>")), cache_dir=tmp_path).from_cache
    monkeypatch.setattr(prepare_module, "ENCODER_VERSION", 0)
    assert not prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path).from_cache


def test_a_key_spares_reading_the_data(byte, tmp_path):
    prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path, data_key="key")
    unread = prepare_rows(lambda report: pytest.fail("read"), chat(byte), cache_dir=tmp_path, data_key="key")
    assert unread.from_cache and unread.rows.ids.tolist() == [0, 1, 2]


def test_the_key_of_a_source_is_its_content_and_the_options(tmp_path):
    file, folder = tmp_path / "a.jsonl", tmp_path / "folder"
    file.write_text("a")
    (folder / "data").mkdir(parents=True)
    (folder / "data/x.jsonl").write_text("x")
    keys = [source_key(file), source_key(file, max_rows=1), source_key(folder)]
    file.write_text("b")
    keys.append(source_key(file))
    (folder / "data/x.jsonl").rename(folder / "data/y.jsonl")
    keys.append(source_key(folder))
    assert len(set(keys)) == len(keys) and None not in keys
    (tmp_path / "copy.jsonl").write_text("b")
    assert source_key(tmp_path / "copy.jsonl") == source_key(file)
    (tmp_path / "copy.txt").write_text("b")
    assert source_key(tmp_path / "copy.txt") != source_key(file), "the kind of file decides what its rows are"
    assert source_key("some/hub-name") is None


def test_a_source_that_cannot_be_read_has_no_key(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text("a")
    monkeypatch.setattr(Path, "open", refuse_to_open)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read \(Permission denied\)$"):
        source_key(file)
    with pytest.raises(UserError, match="File name too long"):
        source_key("x" * 300)


@pytest.mark.parametrize("share", [5, 1.01, -0.01, float("nan")])
def test_what_is_no_share_of_the_rows_is_refused_before_any_is_read(byte, share):
    with pytest.raises(UserError, match=rf"^dataset\.max_dropped must be .* from 0 to 1, got {share:g}; 0\.05 is 5 %$"):
        prepare_rows(lambda report: pytest.fail("read"), chat(byte), strict=False, max_dropped=share)
    with pytest.raises(UserError, match=r"dataset\.max_dropped"):
        DropReport(read=1).check(share)


def test_a_template_that_opens_the_thought_reaches_the_rows(byte):
    flat = prepare_rows(reader([trace(0, "q", "<think>\nt</think>a")]), chat(byte, OPENS)).rows.flat([0])
    assert byte.decode(flat.tokens[flat.roles == Role.THINK_OPEN]) == "<think>\n"
    assert byte.decode(flat.tokens[flat.roles == Role.THOUGHT]) == "t"
