"""From traces to rows: which rows there are, what drops one, and a cache used exactly when nothing has changed."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chats import OPENS, REWRITES, chat
from degenerate import refuse_to_open
from lookalikes import DATA_SETS, shared_data
from reading import reader
from tiny_tokenizers import make_tokenizer

from cot_components.data.bad_rows import RowError, TraceError
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace, read_traces
from cot_components.data.rows import prepare as prepare_module
from cot_components.data.rows.prepare import TURN_SHIFT, RowSettings, prepare_rows, source_key
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import load_template
from cot_components.errors import UserError
from cot_components.models.think_tokens import with_tag_tokens
from cot_components.roles import Role


def trace(number, *contents, weight=1.0):
    """User and assistant in turn; `weight` is that of the assistant's turns."""
    turns = [Message("assistant", c, weight=weight) if i % 2 else Message("user", c) for i, c in enumerate(contents)]
    return Trace(number, tuple(turns), f"data.jsonl:{number + 1}")


GOOD = [trace(i, f"question {i}", f"<think>thought {i}</think>answer {i}") for i in range(3)]
TALK = trace(5, "q0", "<think>t0</think>a0", "q1", "a1", "q2", "<think>t2</think>a2")
EACH = RowSettings(turns="each")


def labels_of(flat, tokenizer):
    return tokenizer.decode(flat.labels[flat.labels >= 0])


def test_every_trace_is_a_row(byte):
    rows, report, from_cache = prepare_rows(reader(GOOD), chat(byte))
    assert rows.ids.tolist() == [0, 1, 2]
    assert (report.read, report.kept, from_cache) == (3, 3, False)
    flat = rows.flat([1])
    assert byte.decode(flat.tokens) == "<|user|>question 1<|end|><|assistant|><think>thought 1</think>answer 1<|end|>"
    assert byte.decode(flat.tokens[flat.roles == Role.THOUGHT]) == "thought 1"
    assert labels_of(flat, byte) == "<think>thought 1</think>answer 1<|end|>"


def test_a_row_for_each_turn(byte):
    rows, report, _ = prepare_rows(reader([GOOD[0], TALK]), chat(byte), EACH)
    assert rows.ids.tolist() == [0, 5, 5 + (1 << TURN_SHIFT), 5 + (2 << TURN_SHIFT)]
    assert (report.read, report.kept) == (4, 4)
    third = rows.flat([3])
    history = "<|user|>q0<|end|><|assistant|><think>t0</think>a0<|end|><|user|>q1<|end|><|assistant|>a1<|end|>"
    assert byte.decode(third.tokens[third.roles == Role.PROMPT]) == history + "<|user|>q2<|end|><|assistant|>"
    assert labels_of(third, byte) == "<think>t2</think>a2<|end|>"
    last = prepare_rows(reader([GOOD[0], TALK]), chat(byte)).rows
    assert last.ids.tolist() == [0, 5] and last.flat([1]).tokens.tolist() == third.tokens.tolist()


def test_a_turn_that_shall_not_count_makes_no_row(byte):
    muted = (TALK.messages[0], replace(TALK.messages[1], weight=0.0), *TALK.messages[2:])
    rows, report, _ = prepare_rows(reader([replace(TALK, messages=muted)]), chat(byte), EACH)
    assert rows.ids.tolist() == [5 + (1 << TURN_SHIFT), 5 + (2 << TURN_SHIFT)]
    assert (report.read, report.num_dropped) == (2, 0)


BAD = {
    "no assistant turn": trace(7, "q"),
    "supervised turn has weight 0": trace(7, "q", "<think>t</think>a", weight=0.0),
    "never closed": trace(7, "q", "<think>t"),
    "half of a surrogate pair": trace(7, "q \udc00", "<think>t</think>a"),
    "longer than 60 tokens": trace(7, "q" * 60, "<think>t</think>a"),
}
UNCLOSED = BAD["never closed"]


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("turns", ["last", "each"])
def test_a_row_that_cannot_be_used(byte, reason, turns):
    read, settings = reader([*GOOD, BAD[reason], GOOD[0]]), RowSettings(turns=turns, max_seq_len=60)
    with pytest.raises(TraceError, match=rf"data\.jsonl:8.*{reason}"):
        prepare_rows(read, chat(byte), settings)
    rows, report, _ = prepare_rows(read, chat(byte), settings, strict=False, max_dropped=0.2)
    assert rows.ids.tolist() == [0, 1, 2, 0]
    assert (report.read, report.kept) == (5, 4)
    assert reason in report.summary() and "data.jsonl:8" in report.summary()
    with pytest.raises(UserError, match="1 of 5 rows were dropped"):
        prepare_rows(read, chat(byte), settings, strict=False, max_dropped=0.1)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_nothing_left_is_an_error(byte, tmp_path, cache):
    with pytest.raises(UserError, match="1 of 1 rows were dropped and 0 are left"):
        options = {"strict": False, "max_dropped": 1.0, "cache_dir": cache and tmp_path / cache}
        prepare_rows(reader([UNCLOSED]), chat(byte), **options)


def test_a_text_without_an_encoding_or_an_inexact_one_drops_only_its_own_row(byte):
    def encode(texts):
        if any("\t" in text for text in texts):
            raise RowError("tabs")
        return byte.encode_plain([text.lower() for text in texts])

    lacking = chat(replace(byte, encode_plain=encode, places=None))
    thoughts = [*"ab", "\t", "T", "c"]
    traces = [trace(i, "Q", f"<think>{thought}</think>a") for i, thought in enumerate(thoughts)]
    rows, report, _ = prepare_rows(reader(traces), lacking, strict=False, max_dropped=0.5)
    assert rows.ids.tolist() == [0, 1, 4]
    assert report.dropped == {"tabs": ["data.jsonl:3"], INEXACT: ["data.jsonl:4"]}


def test_the_weight_of_a_turn_multiplies_its_supervised_tokens(byte):
    flat = prepare_rows(reader([trace(0, "q", "<think>t</think>a", weight=0.5)]), chat(byte)).rows.flat([0])
    assert set(flat.weights[flat.roles != Role.PROMPT].tolist()) == {0.5}
    assert set(flat.weights[flat.roles == Role.PROMPT].tolist()) == {1.0}


def test_a_template_that_opens_the_thought_reaches_the_rows(byte):
    flat = prepare_rows(reader([trace(0, "q", "<think>\nt</think>a")]), chat(byte, OPENS)).rows.flat([0])
    assert byte.decode(flat.tokens[flat.roles == Role.PROMPT]).endswith("<think>\n"), "given, so without a label"
    assert not (flat.roles == Role.THINK_OPEN).any()
    assert byte.decode(flat.tokens[flat.roles == Role.THOUGHT]) == "t"


def test_many_traces_are_encoded_in_order(byte, monkeypatch):
    traces = [trace(i, f"{i}", f"<think>{i}</think>{i}") for i in range(20)]
    whole = prepare_rows(reader(traces), chat(byte)).rows
    monkeypatch.setattr(prepare_module, "CHUNK", 7)
    assert whole.content_hash() == prepare_rows(reader(traces), chat(byte)).rows.content_hash()
    assert whole.ids.tolist() == list(range(20))


@pytest.mark.parametrize("settings", [{"turns": "all"}, {"too_long": "cut"}, {"max_seq_len": 1}])
def test_settings_that_do_not_exist(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))} must be .*, got"):
        RowSettings(**settings)


@pytest.mark.parametrize("share", [5, 1.01, -0.01, float("nan")])
def test_what_is_no_share_of_the_rows_is_refused_before_any_is_read(byte, share):
    with pytest.raises(UserError, match=rf"^dataset\.max_dropped must be .* from 0 to 1, got {share:g}; 0\.05 is 5 %$"):
        prepare_rows(lambda report: pytest.fail("read"), chat(byte), strict=False, max_dropped=share)


def test_the_second_time_nothing_is_encoded(byte, tmp_path):
    options = {"strict": False, "max_dropped": 0.5}
    first, second = (
        prepare_rows(reader([*GOOD, UNCLOSED]), chat(byte), **options, cache_dir=tmp_path) for _ in range(2)
    )
    in_memory = prepare_rows(reader([*GOOD, UNCLOSED]), chat(byte), **options)
    assert (first.from_cache, second.from_cache) == (False, True) and second.report == first.report
    assert first.rows.content_hash() == second.rows.content_hash() == in_memory.rows.content_hash()
    with pytest.raises(UserError, match=r"data\.jsonl:8: .*never closed"):
        prepare_rows(reader([*GOOD, UNCLOSED]), chat(byte), cache_dir=tmp_path)
    with pytest.raises(UserError, match="1 of 4 rows were dropped"):
        prepare_rows(reader([*GOOD, UNCLOSED]), chat(byte), strict=False, max_dropped=0.1, cache_dir=tmp_path)


def test_a_strict_run_that_fails_leaves_no_cache(byte, tmp_path):
    with pytest.raises(TraceError):
        prepare_rows(reader([*GOOD, UNCLOSED]), chat(byte), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_made_again(byte, tmp_path):
    whole = prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path).rows.content_hash()
    (tokens,) = tmp_path.glob("*/tokens.npy")
    tokens.write_bytes(tokens.read_bytes()[:-4])
    again = prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path)
    assert not again.from_cache and again.rows.content_hash() == whole


def test_anything_that_decides_the_rows_makes_another_cache(byte, tmp_path, monkeypatch):
    half = [replace(one, messages=(one.messages[0], replace(one.messages[1], weight=0.5))) for one in GOOD]
    other_text = [*GOOD[:2], trace(2, "question 2", "<think>thought 2</think>answer 2.")]
    others = (GOOD, other_text, GOOD[:2], [replace(one, id=one.id + 1) for one in GOOD], half)
    formats = (chat(replace(byte, content_hash="other")), chat(byte, REWRITES), chat(byte, tags_as="token"))
    limits = (EACH, RowSettings(max_seq_len=500), RowSettings(max_seq_len=500, too_long="cut_thought"))
    variants = [(traces, chat(byte), None) for traces in others]
    variants += [*((GOOD, format, None) for format in formats), *((GOOD, chat(byte), limit) for limit in limits)]
    variants.append(([trace(0, "q", "<a>t</a>a")], chat(byte, tags=Tags("<a>", "</a>")), None))
    for from_cache in (False, True):
        for number, (traces, format, settings) in enumerate(variants):
            found = prepare_rows(reader(traces), format, settings, cache_dir=tmp_path)
            assert found.from_cache is from_cache, number
    assert len(list(tmp_path.iterdir())) == len(variants)
    monkeypatch.setattr(prepare_module, "ENCODER_VERSION", 0)
    assert not prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path).from_cache


def test_a_key_spares_reading_the_data(byte, tmp_path):
    prepare_rows(reader(GOOD), chat(byte), cache_dir=tmp_path, data_key="key")
    unread = prepare_rows(lambda report: pytest.fail("read"), chat(byte), cache_dir=tmp_path, data_key="key")
    assert unread.from_cache and unread.rows.ids.tolist() == [0, 1, 2]


def test_the_key_of_a_source_is_its_content_and_the_options(tmp_path, monkeypatch):
    file, folder = tmp_path / "a.jsonl", tmp_path / "folder"
    file.write_text("a")
    (folder / "data").mkdir(parents=True)
    (folder / "data/x.jsonl").write_text("x")
    keys = [source_key(file), source_key(file, max_rows=1), source_key(folder)]
    for name in ("a.jsonl", "copy.jsonl", "copy.txt"):
        (tmp_path / name).write_text("b")
    (folder / "data/x.jsonl").rename(folder / "data/y.jsonl")
    keys += [source_key(file), source_key(folder), source_key(tmp_path / "copy.txt")]
    assert len(set(keys)) == len(keys) and None not in keys, "the kind of file decides what its rows are, too"
    assert source_key(tmp_path / "copy.jsonl") == source_key(file) and source_key("some/hub-name") is None
    monkeypatch.setattr(Path, "open", refuse_to_open)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read \(Permission denied\)$"):
        source_key(file)


THINKING = {data_set.path.split("/")[0]: data_set for data_set in DATA_SETS if data_set.path.startswith("think_")}
INEXACT = "the tokenizer does not decode the supervised text back exactly"
END_OF_TURN = {"byte": "<|end|>", "llama3": "<|eot_id|>", "hf_qwen": "<|im_end|>", "qwen2_5": "<|im_end|>"}
KINDS = [
    *(("byte", "text", None), ("hf_qwen", "token", 200)),
    *(("llama3", "token", None), ("llama3", "text", 50), ("qwen2_5", "text", 50)),
]


def shared_traces(name, folder, max_rows):
    data_set = THINKING[name]
    path = shared_data(folder) / data_set.path
    return list(read_traces(path, format=data_set.format, columns=data_set.columns, max_rows=max_rows))


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize(("kind", "tags_as", "max_rows"), KINDS)
def test_every_row_of_real_data_is_exact_or_dropped(name, kind, tags_as, max_rows, tmp_path):
    traces, tags = shared_traces(name, tmp_path, max_rows), THINKING[name].tags
    plain, end = make_tokenizer(kind, tmp_path / kind), END_OF_TURN[kind]
    tokenizer = with_tag_tokens(plain, tags) if tags_as == "token" else plain
    chat = ChatFormat(tokenizer, load_template("chatml" if kind == "hf_qwen" else None, plain), tags)
    rows, report, _ = prepare_rows(reader(traces), chat, strict=False, max_dropped=0.5)
    texts = {trace.id: trace.messages[-1].content for trace in traces}
    normalising = kind in ("hf_qwen", "qwen2_5")
    inexact = [i for i, text in texts.items() if normalising and unicodedata.normalize("NFC", text) != text]
    assert {reason: len(places) for reason, places in report.dropped.items()} == (
        {INEXACT: len(inexact)} if inexact else {}
    )
    assert rows.ids.tolist() == [i for i in texts if i not in inexact] != []
    for index, row_id in enumerate(rows.ids.tolist()):
        flat = rows.flat([index])
        text = texts[row_id].strip() if kind == "llama3" else texts[row_id]  # its template strips
        assert labels_of(flat, tokenizer) == text + end
        before, _, after = text.partition(tags.open)
        thought, _, answer = after.partition(tags.close)
        wanted = [((Role.THINK_OPEN,), tags.open), ((Role.THOUGHT,), thought), ((Role.THINK_CLOSE,), tags.close)]
        for roles, part in (*wanted, ((Role.ANSWER, Role.CALL), before + answer + end)):
            assert tokenizer.decode(flat.tokens[np.isin(flat.roles, roles)]) == part
        assert flat.counters[flat.roles == Role.THOUGHT].tolist() == list(range((flat.roles == Role.THOUGHT).sum()))
    counts = rows.tokens_by_role()
    assert counts["prompt"] > 0 and ("call" in counts) == (name == "think_toolrl")
    assert tags_as == "text" or counts["think_open"] == counts["think_close"] == len(rows)


@pytest.mark.parametrize("name", THINKING)
def test_cut_rows_keep_everything_but_the_middle_of_the_thought(name, tmp_path, byte):
    read, format = reader(shared_traces(name, tmp_path, 60)), chat(byte, tags=THINKING[name].tags)
    whole, num_cut = prepare_rows(read, format).rows, 0
    limit = int(sorted(whole.lengths)[len(whole) // 2])
    settings = RowSettings(max_seq_len=limit, too_long="cut_thought")
    rows, report, _ = prepare_rows(read, format, settings, strict=False, max_dropped=0.9)
    assert set(report.dropped) <= {f"longer than {limit} tokens even without its thought"}
    for index, row_id in enumerate(rows.ids.tolist()):
        cut, full = rows.flat([index]), whole.flat([whole.ids.tolist().index(row_id)])
        kept = np.isin(full.counters, cut.counters)
        assert len(cut.tokens) <= limit and cut.tokens.tolist() == full.tokens[kept].tolist()
        assert cut.roles.tolist() == full.roles[kept].tolist()
        assert (np.diff(full.counters[~kept]) == 1).all()
        num_cut += not kept.all()
    assert num_cut > 0
