"""Random traces through the whole data path, random overrides through validation: 500 of each here, 10,000 with
HYPOTHESIS_PROFILE=nightly."""

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from chats import chat
from degenerate import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st
from tally import count
from tiny_runs import read
from tiny_tokenizers import make_tokenizer

from cot_components.clock import Clock
from cot_components.config import ConfigError
from cot_components.data.bad_rows import DropReport, RowError
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.prepare import RowSettings, encode_traces
from cot_components.data.rows.store import Rows
from cot_components.data.text.segments import Tags, segment_text
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.schedules import Schedule
from cot_components.transforms import Blur, ByRole
from cot_components.transforms.remove import Remove

MANY = settings(max_examples=max(500, settings.default.max_examples))
START = Clock(0, 0)

PIECES = ["<think>", "</think>", "<THINK>", "< think >", "<|end|>", "<|assistant|>", "<|pad|>", "\n", " ", "####"]
PIECES += ["12 + 5 = 17", "ok", HOSTILE, "\ufeff", "\U0001f600"]
free_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
mixed = st.lists(st.sampled_from(PIECES) | free_text, max_size=6).map("".join)
proper = st.tuples(free_text, free_text).map(lambda pair: f"<think>{pair[0]}</think>{pair[1]}")
responses = mixed | proper
thoughtful = st.lists(st.tuples(free_text, proper), min_size=1, max_size=4)


@functools.cache
def byte_chat():
    with tempfile.TemporaryDirectory() as folder:
        return chat(make_tokenizer("byte", Path(folder)))


def encoded(texts):
    """Rows of the pairs of prompt and response, and what was dropped."""
    count("inputs generated")
    messages = [(Message("user", prompt), Message("assistant", answer)) for prompt, answer in texts]
    traces = [Trace(id=i, where=f"test:{i}", messages=pair) for i, pair in enumerate(messages)]
    report = DropReport()
    parts = encode_traces(traces, byte_chat(), RowSettings(), strict=False, report=report)
    return Rows.concatenate(list(parts)), report


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
    rows, report = encoded(texts)
    assert len(rows) + report.num_dropped == len(texts)
    tokenizer = byte_chat().tokenizer
    for place, row_id in enumerate(rows.ids.tolist()):
        flat = rows.flat([place])
        supervised = np.isin(flat.roles, [int(role) for role in SUPERVISED_ROLES])
        control = np.isin(flat.tokens, list(tokenizer.control.values()))
        assert tokenizer.decode(flat.tokens[supervised & ~control]) == texts[row_id][1]
        assert ((flat.labels != IGNORE) <= supervised).all()
        assert control.sum() == 4  # the template's own; none came from the data


@MANY
@given(thoughtful, st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats(0, 3), st.integers(0, 6), st.integers(0, 5))
def test_transforms_keep_their_promises(texts, ratios, weight, amount, epoch):
    """Blur, removal, weights over any rows: strength 0 is the input, masks grow with the ratio, nothing else moves."""
    rows, _ = encoded(texts)
    if not len(rows):
        return
    flat, clock = rows.flat(range(len(rows))), Clock(epoch, epoch)
    less, more = (Blur(ratio=ratio, seed=3)(flat, clock).labels == IGNORE for ratio in sorted(ratios))
    assert (less <= more).all() and (Blur(ratio=0)(flat, clock).labels == flat.labels).all()
    is_thought = flat.roles == Role.THOUGHT
    assert is_thought[more & (flat.labels != IGNORE)].all()

    weighed = ByRole({"thought": weight})(flat, clock)
    assert (weighed.tokens == flat.tokens).all() and (weighed.labels == flat.labels).all()
    assert np.allclose(weighed.weights[is_thought], weight)

    shrunk = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=amount), smoothing=float("inf"))(flat, clock)
    assert thought_tokens(shrunk) == [max(tokens - amount * epoch, 0) for tokens in thought_tokens(flat)]
    assert (shrunk.tokens[shrunk.roles != Role.THOUGHT] == flat.tokens[~is_thought]).all()


def thought_tokens(flat):
    """Thought tokens of each row."""
    return [int((flat.roles[a:b] == Role.THOUGHT).sum()) for a, b in itertools.pairwise(flat.row_start.tolist())]


@MANY
@given(thoughtful, st.floats(0, 1))
def test_packed_and_padded_hold_the_same_targets(texts, ratio):
    rows, _ = encoded(texts)
    if not len(rows):
        return
    sizes = (None, int(rows.lengths.sum()))
    made = (Batches(rows, {"blur": Blur(ratio=ratio)}, pad_id=0, packed_tokens=size) for size in sizes)
    padded, packed = (batches.batch(range(len(rows)), START) for batches in made)

    def targets(batch):
        columns = (batch.tokens, batch.labels, batch.roles, batch.weights)
        return sorted(zip(*(column.flatten()[batch.rows].tolist() for column in columns), strict=True))

    assert targets(padded) == targets(packed) and padded.num_supervised == packed.num_supervised
    assert torch.all(padded.labels.flatten()[padded.rows] != IGNORE)


KEYS = ["batch_size", "seed", "dtype", "loss.eta", "optimizer.lr", "dataset.transforms.blur.ratio", "resume", "nope"]
KEYS.append("model")
VALUES = ["1", "-1", "null", "None", "nan", "1e400", "[1,2]", "{a:1}", "true", "''", "${seed}", "${nope}", "../..", "?"]


@MANY
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES) | free_text), max_size=3))
def test_any_overrides_end_in_a_config_or_one_sentence(pairs):
    """Nothing but `ConfigError` comes out of validation, and its message is one line."""
    count("inputs generated")
    try:
        config = read("bt_sft/quickstart", *(f"{key}={value}" for key, value in pairs))
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert config["output_dir"]
