"""Random traces through the whole data path, random overrides through validation: 500 of each here, 10,000 with
HYPOTHESIS_PROFILE=nightly."""

import functools
import itertools

import numpy as np
import torch
from chats_for_tests import chat
from degenerate import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_for_tests import read
from tally import count

from cot_components.clock import Clock
from cot_components.config import ConfigError
from cot_components.data.bad_rows import DropReport, RowError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.prepare import RowSettings, encode_traces
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags, segment_text
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.schedules import Schedule
from cot_components.transforms import Blur, ByRole
from cot_components.transforms.remove import Remove

ROLES = [int(role) for role in SUPERVISED_ROLES]
MANY = settings(max_examples=max(500, settings.default.max_examples))

PIECES = ["<think>", "</think>", "<THINK>", "< think >", "<|end|>", "<|assistant|>", "<|pad|>", "\n", " ", "####"]
WORDS = ["12 + 5 = 17", "ok", HOSTILE, "\ufeff", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")]
free_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
piece = st.one_of(st.sampled_from(PIECES + WORDS), free_text)
mixed = st.lists(piece, max_size=6).map("".join)
proper = st.tuples(free_text, free_text).map(lambda pair: f"<think>{pair[0]}</think>{pair[1]}")
responses = st.one_of(mixed, proper)


@functools.cache
def byte_chat() -> ChatFormat:
    import tempfile
    from pathlib import Path

    from cot_components.models.tokenizers import as_text_tokenizer, hf_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_byte_tokenizer(Path(folder))
        return chat(as_text_tokenizer(hf_tokenizer(folder)))


def encoded(texts: list[tuple[str, str]]) -> tuple[Rows, DropReport, list[int]]:
    report, messages = (
        DropReport(),
        [(Message("user", prompt), Message("assistant", answer)) for prompt, answer in texts],
    )
    traces = [Trace(id=i, where=f"test:{i}", messages=pair) for i, pair in enumerate(messages)]
    rows = Rows.concatenate(list(encode_traces(traces, byte_chat(), RowSettings(), strict=False, report=report)))
    return rows, report, rows.ids.tolist()


@MANY
@given(responses, st.booleans())
def test_segments_join_to_the_text_or_there_is_a_reason(text, opened):
    count("inputs generated")
    try:
        segments = segment_text(text, Tags(), opened=opened)
    except RowError as fault:
        assert fault.reason
        return
    assert "".join(segment.text for segment in segments) == text
    assert all(segment.role in SUPERVISED_ROLES for segment in segments)


@MANY
@given(st.lists(st.tuples(free_text, responses), min_size=1, max_size=4))
def test_no_trace_gets_wrong_labels(texts):
    """A row is exact or dropped with a reason: what is supervised decodes to the response, no more and no less."""
    count("inputs generated")
    rows, report, ids = encoded(texts)
    assert len(ids) + report.num_dropped == len(texts)
    tokenizer, control = byte_chat().tokenizer, set(byte_chat().tokenizer.control.values())
    for place, row_id in enumerate(ids):
        flat = rows.flat([place])
        text_ids = [
            t for t, r in zip(flat.tokens, flat.roles, strict=True) if r in SUPERVISED_ROLES and t not in control
        ]
        assert tokenizer.decode([int(t) for t in text_ids]) == texts[row_id][1]
        assert ((flat.labels != IGNORE) <= np.isin(flat.roles, ROLES)).all()
        inside = [t for t in flat.tokens.tolist() if t in control]
        assert len(inside) == 4  # the template's own; none came from the data


@MANY
@given(
    st.lists(st.tuples(free_text, proper), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 3),
    st.integers(0, 6),
    st.integers(0, 5),
)
def test_transforms_keep_their_promises(texts, low, high, weight, amount, epoch):
    """Blur, removal, weights over any rows: strength 0 is the input, masks grow with the ratio, nothing else moves."""
    count("inputs generated")
    rows, _, ids = encoded(texts)
    if not ids:
        return
    flat, clock = rows.flat(range(len(ids))), Clock(epoch, epoch)
    low, high = min(low, high), max(low, high)
    less, more = (Blur(ratio=ratio, seed=3)(flat, clock).labels == IGNORE for ratio in (low, high))
    assert (less <= more).all() and (Blur(ratio=0)(flat, clock).labels == flat.labels).all()
    assert (flat.roles[more & (flat.labels != IGNORE)] == Role.THOUGHT).all()

    weighed = ByRole({"thought": weight})(flat, clock)
    assert (weighed.tokens == flat.tokens).all() and (weighed.labels == flat.labels).all()
    assert np.allclose(weighed.weights[flat.roles == Role.THOUGHT], weight)

    shrunk = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=amount), smoothing=float("inf"))(flat, clock)
    thought, left = thought_tokens(flat), thought_tokens(shrunk)
    assert left == [max(count - amount * epoch, 0) for count in thought]
    kept = flat.roles != Role.THOUGHT
    assert (shrunk.tokens[shrunk.roles != Role.THOUGHT] == flat.tokens[kept]).all()


def thought_tokens(flat: Flat) -> list[int]:
    """Thought tokens of each row."""
    ends = flat.row_start.tolist()
    return [int((flat.roles[a:b] == Role.THOUGHT).sum()) for a, b in itertools.pairwise(ends)]


@MANY
@given(st.lists(st.tuples(free_text, proper), min_size=1, max_size=4), st.floats(0, 1))
def test_packed_and_padded_hold_the_same_targets(texts, ratio):
    count("inputs generated")
    rows, _, ids = encoded(texts)
    if not ids:
        return
    everything = range(len(ids))
    transforms = {"blur": Blur(ratio=ratio)}
    padded = Batches(rows, transforms, pad_id=0).batch(everything, Clock(0, 0))
    packed = Batches(rows, transforms, pad_id=0, packed_tokens=int(rows.lengths.sum())).batch(everything, Clock(0, 0))

    def targets(batch):
        columns = (batch.tokens, batch.labels, batch.roles, batch.weights)
        taken = [column.flatten()[batch.rows].tolist() for column in columns]
        return sorted(zip(*taken, strict=True))

    assert targets(padded) == targets(packed) and padded.num_supervised == packed.num_supervised
    assert torch.equal(padded.labels.flatten()[padded.rows] != IGNORE, torch.ones(len(padded.rows), dtype=torch.bool))


KEYS = [
    "batch_size",
    "seed",
    "dtype",
    "loss.eta",
    "optimizer.lr",
    "dataset.transforms.blur.ratio",
    "resume",
    "nope",
    "model",
]
VALUES = ["1", "-1", "null", "None", "nan", "1e400", "[1,2]", "{a:1}", "true", "''", "${seed}", "${nope}", "../..", "?"]


@MANY
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.sampled_from(VALUES), free_text)), max_size=3))
def test_any_overrides_end_in_a_config_or_one_sentence(pairs):
    """Nothing but `ConfigError` comes out of validation, and its message is one line."""
    count("inputs generated")
    overrides = [f"{key}={value}" for key, value in pairs]
    try:
        config = read("bt_sft/quickstart", *overrides)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert config["output_dir"]
