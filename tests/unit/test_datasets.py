"""The data set: what a stock loop gets, what our recipes get, several sources, and rows held out."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from torchtune.data import padded_collate_sft

from cot_components.clock import Clock
from cot_components.config import ConfigError
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.generated.tasks import write_hub_dataset
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.prepare import TURN_BITS
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer
from cot_components.roles import IGNORE, Role
from cot_components.training.validation import validation_data

BLUR = {"_component_": "cot_components.transforms.Blur", "ratio": 0.5, "redraw": "once"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return hf_tokenizer(str(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_hub_dataset(tmp_path_factory.mktemp("data"), train=40, held_out=12)


def test_a_sample_is_what_a_stock_recipe_wants(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub), transforms={"blur": BLUR})
    sample = data[3]
    assert set(sample) == {"tokens", "labels", "weights", "roles", "id"} and sample["id"] == 3
    assert all(label in (IGNORE, token) for token, label in zip(sample["tokens"], sample["labels"], strict=True))
    supervised = {Role(role) for role, label in zip(sample["roles"], sample["labels"], strict=True) if label != IGNORE}
    assert supervised == {Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER}
    batch = padded_collate_sft([data[0], data[1]], padding_idx=data.chat.tokenizer.pad_id)
    assert batch["tokens"].shape == batch["labels"].shape and set(batch) == {"tokens", "labels"}


def test_indexing_and_batches_agree(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub), transforms={"blur": BLUR})
    batch = data.batches().batch([5], Clock(0, 0))
    assert batch.labels[0, :-1].tolist() == data[5]["labels"][1:]


def test_a_mask_for_every_epoch_needs_a_loop_that_counts_them(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub), transforms={"blur": {**BLUR, "redraw": "epoch"}})
    for use in (lambda: data[0], lambda: len(data)):
        with pytest.raises(UserError, match=r"dataset\.transforms\.blur changes from epoch to epoch.*set redraw: once"):
            use()
    first, second = (data.batches().batch([0], Clock(epoch, 0)).labels.tolist() for epoch in (0, 1))
    assert first != second


def test_a_loop_without_epochs_takes_each_row_once(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source={"mine": {"source": str(hub), "weight": 0.5}})
    for use in (lambda: data[0], lambda: len(data)):
        with pytest.raises(UserError, match=r"dataset\.source: a weight says how often .* takes each once; remove it"):
            use()


def test_a_row_without_a_label_is_none_for_a_loop_that_divides_by_labels(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["<think>a</think>b", "b", "<think>c</think>d", "d"]
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    only_thoughts = {"_component_": "cot_components.transforms.ByRole", "factors": {"answer": 0}}
    data = reasoning_dataset(tokenizer, source=str(path), transforms={"only": only_thoughts})
    assert len(data.rows) == 4 and [data[i]["id"] for i in range(len(data))] == [0, 2] and data[-1]["id"] == 2
    factors = dict.fromkeys(("answer", "thought", "think_open", "think_close"), 0)
    nothing = reasoning_dataset(tokenizer, source=str(path), transforms={"only": {**only_thoughts, "factors": factors}})
    with pytest.raises(UserError, match="no row has a label left"):
        len(nothing)


@dataclass(frozen=True)
class Mute:
    def __call__(self, flat, clock):
        return flat.with_weights(np.where(flat.roles == Role.THOUGHT, 0, flat.weights))


def test_weights_of_the_data_and_of_transforms(tokenizer, tmp_path):
    message = {"role": "assistant", "content": "<think>a</think>b", "weight": 0.5}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "q"}, message]}) + "\n")
    data = reasoning_dataset(tokenizer, source=str(path))
    assert set(data[0]["weights"]) == {1.0, 0.5}
    muted = reasoning_dataset(tokenizer, source=str(path), transforms={"mute": Mute()})[0]
    without_label = [Role(role) for role, label in zip(muted["roles"], muted["labels"], strict=True) if label == IGNORE]
    assert (
        Role.THOUGHT in without_label and Role.ANSWER not in without_label
    )  # a loop that knows no weights still mutes


def test_several_sources(tokenizer, hub):
    sources = {
        "mine": {"source": str(hub), "weight": 0.5},
        "tasks": {"source": "generated", "max_rows": 10, "weight": 2.0},
    }
    data = reasoning_dataset(tokenizer, source=sources)
    assert data.shares == ((0, 40, 0.5), (40, 50, 2.0))
    assert len(set(data.rows.ids.tolist())) == 50 == data.report.kept
    plans = Plans(data.rows.lengths, batch_size=5, shares=data.shares)
    assert plans.rows_per_epoch == 40
    with pytest.raises(ConfigError, match=r"unknown key 'dataset\.source\.mine\.wait'; did you mean 'weight'\?"):
        reasoning_dataset(tokenizer, source={"mine": {"source": str(hub), "wait": 1}})
    with pytest.raises(UserError, match="weight must be positive"):
        reasoning_dataset(tokenizer, source={"mine": {"source": str(hub), "weight": 0}})


def test_a_share_is_held_out(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source={"a": str(hub), "b": {"source": "generated", "max_rows": 10}})
    train, held_out = data.split_off(0.2)
    assert len(held_out) == 10 and len(train) == 40
    assert set(train.rows.ids.tolist()) | set(held_out.rows.ids.tolist()) == set(data.rows.ids.tolist())
    assert train.shares[0][1] == train.shares[1][0] and train.shares[1][1] == 40
    assert len(data.split_off(0.001)[1]) == 1 and len(data.split_off(0.999)[0]) == 1
    for share in (0.0, 1.0, 2.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            data.split_off(share)
    with pytest.raises(UserError, match="1 row cannot be split"):
        held_out._only(held_out.rows.ids == held_out.rows.ids[0]).split_off(0.5)


def test_a_share_of_mapped_rows_is_mapped(tokenizer, hub, tmp_path):
    """The rest is as large as the data; it is written once, and found again by the next start."""
    data = reasoning_dataset(tokenizer, source=str(hub), cache_dir=str(tmp_path))
    in_memory = reasoning_dataset(tokenizer, source=str(hub)).split_off(0.2)
    for part, expected in zip(data.split_off(0.2), in_memory, strict=True):
        assert isinstance(part.rows.tokens, np.memmap) and part.rows.content_hash() == expected.rows.content_hash()
    folders = {folder: folder.stat().st_mtime_ns for folder in tmp_path.iterdir()}
    assert len(folders) == 3
    again = data.split_off(0.2)
    assert {folder: folder.stat().st_mtime_ns for folder in tmp_path.iterdir()} == folders
    assert again[0].rows.content_hash() == in_memory[0].rows.content_hash()
    next(folder for folder in folders if "-" in folder.name).joinpath("tokens.npy").write_bytes(b"damaged")
    assert data.split_off(0.2)[0].rows.content_hash() == in_memory[0].rows.content_hash()


def test_validation_data(tokenizer, hub):
    node = {"_component_": "cot_components.datasets.reasoning_dataset", "source": str(hub)}
    data = reasoning_dataset(tokenizer, source=str(hub))
    assert validation_data(node, None, data, tokenizer) == (data, None)
    assert len(validation_data(node, 0.1, data, tokenizer)[1]) == 4
    assert len(validation_data(node, {"split": "test"}, data, tokenizer)[1]) == 12
    path = str(hub / "data" / "test-00000-of-00001.parquet")
    assert len(validation_data(node, path, data, tokenizer)[1]) == 12


def test_validation_data_are_not_those_that_a_source_names(tokenizer, hub):
    """What a named source says itself goes first: its rows would be validation data, whatever dataset_val says."""
    node = {"_component_": "cot_components.datasets.reasoning_dataset", "source": {"mine": str(hub)}}
    assert len(validation_data(node, {"split": "test"}, None, tokenizer)[1]) == 12
    node["source"]["other"] = {"source": str(hub), "split": "train"}
    with pytest.raises(UserError, match=r"dataset_val\.split would not be read, because dataset\.source\.other has"):
        validation_data(node, {"split": "test"}, None, tokenizer)
    assert len(validation_data(node, {"split": "test", "source": str(hub)}, None, tokenizer)[1]) == 12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"packed": True}, "dataset.packed must be false"),
        ({"tags": {"start": "<t>"}}, r"unknown key 'dataset\.tags\.start'; valid: close, open"),
        ({"tags": {1: "a", "x": 2}}, r"unknown key 'dataset\.tags\.1'; valid: close, open"),
        ({"tags": {True: "<t>"}}, r"'dataset\.tags\.True'; YAML reads a bare on, off, yes or no as a truth value"),
        ({"transforms": {2: BLUR}}, r"dataset\.transforms\.2: a name must be text, in quotes"),
        ({"transforms": {True: BLUR}}, r"dataset\.transforms\.True: a name must be text; YAML reads a bare on"),
        ({"source": {"mine": {"source": "generated", True: 1}}}, r"unknown key 'dataset\.source\.mine\.True'; YAML"),
        ({"columns": {1: "a"}}, "columns: format 'auto' has no field 1; valid: answer"),
        ({"columns": {"response": ["a"]}}, r"columns\.response must be the name of a column, got \['a'\]"),
        (
            {"transforms": {"blur": {**BLUR, "ration": 1}}},
            r"unknown key 'dataset\.transforms\.blur\.ration'; did you mean 'ratio'",
        ),
        ({"template": "no_such"}, "no_such"),
        ({"source": "/no/such/file.jsonl"}, "/no/such/file.jsonl"),
        ({"source": {}}, "names no source"),
        ({"source": {"a": 5}}, "source.a must be a path, a name or a mapping, got 5"),
        ({"source": "generated", "max_rows": 0}, "max_rows must be at least 1"),
        ({"transforms": {"blur": {"ratio": 0.3}}}, r"transforms\.blur is no transform: it needs a _component_"),
        ({"cache_dir": __file__}, "test_datasets.py is not a folder"),
        ({"too_long": "cut"}, "too_long must be one of"),
        ({"source": "generated_multiplication", "subset": "²"}, "subset must be the number of digits, got '²'"),
        ({"source": "generated", "format": "messages"}, "source generated: format is not read"),
        (
            {"source": {"a": {"source": "generated", "columns": {"prompt": "q"}}}},
            "source generated: columns is not read",
        ),
    ],
)
def test_bad_settings(tokenizer, hub, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        reasoning_dataset(tokenizer, **{"source": str(hub), **settings})


def test_null_leaves_a_transform_out(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub), transforms={"blur": None, "other": BLUR})
    assert list(data.transforms) == ["other"]


def test_rows_count_from_both_ends(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub))
    assert data[-1] == data[len(data) - 1] != data[0]
    with pytest.raises(IndexError):
        data[len(data)]


def test_turns_of_a_conversation_are_held_out_together(tokenizer, tmp_path):
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(8)))
    data = reasoning_dataset(tokenizer, source={"a": str(path), "b": str(path)}, turns="each")
    assert len(data) == 48
    parts = data.split_off(0.2)
    conversations = [{int(i) & ~TURN_BITS for i in part.rows.ids} for part in parts]
    assert not conversations[0] & conversations[1] and len(conversations[0] | conversations[1]) == 16
    assert len(parts[1]) == 12, "a fifth of the rows, rounded up to whole conversations"
    for share in (0.01, 0.3, 0.99):
        two = data._only(np.isin(data.rows.ids & ~TURN_BITS, data.rows.ids[:6]) & (data.rows.ids != data.rows.ids[1]))
        assert sorted(map(len, two.split_off(share))) == [2, 3], "of two conversations one is held out, one stays"
    one = data._only(data.rows.ids & ~TURN_BITS == data.rows.ids[0])
    with pytest.raises(UserError, match="a single conversation cannot be split"):
        one.split_off(0.5)


def test_more_turns_than_an_id_can_number(tokenizer, tmp_path):
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(258) for role in ("user", "assistant")]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    read = lambda **options: reasoning_dataset(tokenizer, source=str(tmp_path / "talk.jsonl"), turns="each", **options)  # noqa: E731
    with pytest.raises(UserError, match=r"talk\.jsonl:1, turn 256: more than 255 assistant turns before it"):
        read()
    data = read(strict=False)
    assert len(data) == 256 and data.report.num_dropped == 2


def test_the_cache_is_used_and_keyed(tokenizer, hub, tmp_path):
    load = lambda **settings: reasoning_dataset(tokenizer, source=str(hub), cache_dir=str(tmp_path), **settings)  # noqa: E731
    first = load()
    again = load()
    assert again.rows.tokens.tolist() == first.rows.tokens.tolist() and len(list(tmp_path.iterdir())) == 1
    load(max_seq_len=200)
    load(turns="each")
    assert len(list(tmp_path.iterdir())) == 3


def test_the_summary_says_when_there_is_no_thought(tokenizer, hub, tmp_path):
    summary = reasoning_dataset(tokenizer, source=str(hub)).summary()
    assert "40 rows read, 40 kept" in summary and "thought " in summary and "no row has a thought" not in summary
    path = tmp_path / "plain.jsonl"
    path.write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    assert "no row has a thought" in reasoning_dataset(tokenizer, source=str(path)).summary()
    calls = reasoning_dataset(tokenizer, source="generated_agents", subset="tagged", max_rows=2).summary()
    assert "call " in calls and "no row has a thought" not in calls


def test_tags_as_tokens(tokenizer, hub):
    data = reasoning_dataset(tokenizer, source=str(hub), tags_as="token")
    roles = data.rows.roles
    assert (roles == Role.THINK_OPEN).sum() == (roles == Role.THINK_CLOSE).sum() == 40
    assert data.chat.tokenizer.decode(data[0]["tokens"]).count("<think>") == 1
