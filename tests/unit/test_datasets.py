"""The data set: what a stock loop gets, what our recipes get, several sources, and rows held out."""

from dataclasses import dataclass

import numpy as np
import pytest
from degenerate import write_lines
from thinking import THINKING
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
from cot_components.roles import IGNORE, SUPERVISED_ROLES, Role
from cot_components.training.validation import validation_data

BLUR = {"_component_": "cot_components.transforms.Blur", "ratio": 0.5, "redraw": "once"}
BY_ROLE = {"_component_": "cot_components.transforms.ByRole"}
START = Clock(0, 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return hf_tokenizer(str(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return str(write_hub_dataset(tmp_path_factory.mktemp("data"), train=40, held_out=12))


@pytest.fixture
def load(tokenizer, hub):
    return lambda **settings: reasoning_dataset(tokenizer, **{"source": hub, **settings})


def talks(folder, *answers, turns=1, **turn):
    """A file with a conversation for each answer, given in each of its turns."""
    one = {"role": "user", "content": "q"}
    rows = [{"messages": [one, {"role": "assistant", "content": answer, **turn}] * turns} for answer in answers]
    return str(write_lines(folder / "talks.jsonl", *rows))


def test_a_sample_is_what_a_stock_recipe_wants(load):
    data = load(transforms={"blur": BLUR})
    sample = data[3]
    assert set(sample) == {"tokens", "labels", "weights", "roles", "id"} and sample["id"] == 3
    assert all(label in (IGNORE, token) for token, label in zip(sample["tokens"], sample["labels"], strict=True))
    supervised = {Role(role) for role, label in zip(sample["roles"], sample["labels"], strict=True) if label != IGNORE}
    assert supervised == {*SUPERVISED_ROLES} - {Role.CALL}
    batch = padded_collate_sft([data[0], data[1]], padding_idx=data.chat.tokenizer.pad_id)
    assert batch["tokens"].shape == batch["labels"].shape and set(batch) == {"tokens", "labels"}
    assert data.batches().batch([5], START).labels[0, :-1].tolist() == data[5]["labels"][1:]
    assert data[-1] == data[len(data) - 1] != data[0]
    with pytest.raises(IndexError):
        data[len(data)]


def test_what_needs_epochs_is_refused_by_a_loop_that_counts_none(load, hub):
    redrawn = load(transforms={"blur": {**BLUR, "redraw": "epoch"}})
    weighted = load(source={"mine": {"source": hub, "weight": 0.5}})
    for data, message in (
        (redrawn, r"dataset\.transforms\.blur .*set redraw: once"),
        (weighted, r"dataset\.source: a"),
    ):
        for use in (len, lambda data: data[0]):
            with pytest.raises(UserError, match=message):
                use(data)
    first, second = (redrawn.batches().batch([0], Clock(epoch, 0)).labels.tolist() for epoch in (0, 1))
    assert first != second


def test_a_row_without_a_label_is_none_for_a_loop_that_divides_by_labels(load, tmp_path):
    path = talks(tmp_path, "<think>a</think>b", "b", "<think>c</think>d", "d")
    data = load(source=path, transforms={"only": {**BY_ROLE, "factors": {"answer": 0}}})
    assert len(data.rows) == 4 and [data[i]["id"] for i in range(len(data))] == [0, 2] and data[-1]["id"] == 2
    factors = dict.fromkeys(("answer", "thought", "think_open", "think_close"), 0)
    with pytest.raises(UserError, match="no row has a label left"):
        len(load(source=path, transforms={"only": {**BY_ROLE, "factors": factors}}))


@dataclass(frozen=True)
class Mute:
    def __call__(self, flat, clock):
        return flat.with_weights(np.where(flat.roles == Role.THOUGHT, 0, flat.weights))


def test_weights_of_the_data_and_of_transforms(load, tmp_path):
    path = talks(tmp_path, "<think>a</think>b", weight=0.5)
    assert set(load(source=path)[0]["weights"]) == {1.0, 0.5}
    muted = load(source=path, transforms={"mute": Mute()})[0]
    without_label = {role for role, label in zip(muted["roles"], muted["labels"], strict=True) if label == IGNORE}
    assert without_label == {Role.PROMPT, Role.THOUGHT}, "a loop that knows no weights still mutes"


def test_several_sources(load, hub):
    tasks = {"source": "generated", "max_rows": 10, "weight": 2.0}
    data = load(source={"mine": {"source": hub, "weight": 0.5}, "tasks": tasks})
    assert data.shares == ((0, 40, 0.5), (40, 50, 2.0))
    assert len(set(data.rows.ids.tolist())) == 50 == data.report.kept
    assert Plans(data.rows.lengths, batch_size=5, shares=data.shares).rows_per_epoch == 40


def test_a_share_is_held_out(load, hub):
    data = load(source={"a": hub, "b": {"source": "generated", "max_rows": 10}})
    train, held_out = data.split_off(0.2)
    assert (len(train), len(held_out)) == (40, 10)
    assert sorted([*train.rows.ids, *held_out.rows.ids]) == sorted(data.rows.ids)
    assert train.shares[0][1] == train.shares[1][0] and train.shares[1][1] == 40
    assert len(data.split_off(0.001)[1]) == 1 and len(data.split_off(0.999)[0]) == 1
    for share in (0.0, 1.0, 2.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            data.split_off(share)
    with pytest.raises(UserError, match="1 row cannot be split"):
        data.with_rows(data.rows.select([0])).split_off(0.5)


def test_a_share_of_mapped_rows_is_mapped(load, tmp_path):
    """The rest is as large as the data; it is written once, and found again by the next start."""

    def times():
        return {folder: folder.stat().st_mtime_ns for folder in tmp_path.iterdir()}

    data, in_memory = load(cache_dir=str(tmp_path)), load().split_off(0.2)
    for part, expected in zip(data.split_off(0.2), in_memory, strict=True):
        assert isinstance(part.rows.tokens, np.memmap) and part.rows.content_hash() == expected.rows.content_hash()
    before, again = times(), data.split_off(0.2)
    assert len(before) == 3 and times() == before
    assert again[0].rows.content_hash() == in_memory[0].rows.content_hash()
    next(folder for folder in before if "-" in folder.name).joinpath("tokens.npy").write_bytes(b"damaged")
    assert data.split_off(0.2)[0].rows.content_hash() == in_memory[0].rows.content_hash()


def test_turns_of_a_conversation_are_held_out_together(load, tmp_path):
    path = talks(tmp_path, *"abcdefgh", turns=3)
    data = load(source={"a": path, "b": path}, turns="each")
    parts = data.split_off(0.2)
    train, held_out = ({int(i) & ~TURN_BITS for i in part.rows.ids} for part in parts)
    assert not train & held_out and len(train | held_out) == 16
    assert len(data) == 48 and len(parts[1]) == 12, "a fifth of the rows, rounded up to whole conversations"
    two = data.with_rows(data.rows.select([0, 2, 3, 4, 5]))
    for share in (0.01, 0.3, 0.99):
        assert sorted(map(len, two.split_off(share))) == [2, 3], "of two conversations one is held out, one stays"
    with pytest.raises(UserError, match="a single conversation cannot be split"):
        data.with_rows(data.rows.select([0, 1, 2])).split_off(0.5)


def test_more_turns_than_an_id_can_number(load, tmp_path):
    settings = {"source": talks(tmp_path, "a", turns=258), "turns": "each"}
    with pytest.raises(UserError, match=r"talks\.jsonl:1, turn 256: more than 255 assistant turns before it"):
        load(**settings)
    data = load(**settings, strict=False)
    assert len(data) == 256 and data.report.num_dropped == 2


def test_validation_data(tokenizer, load, hub):
    node = {"_component_": "cot_components.datasets.reasoning_dataset", "source": hub}
    data = load()
    assert validation_data(node, None, data, tokenizer) == (data, None)
    test = f"{hub}/data/test-00000-of-00001.parquet"
    for what, rows in ((0.1, 4), ({"split": "test"}, 12), (test, 12)):
        assert len(validation_data(node, what, data, tokenizer)[1]) == rows


def test_validation_data_are_not_those_that_a_source_names(tokenizer, hub):
    """What a named source says itself goes first: its rows would be validation data, whatever dataset_val says."""
    node = {"_component_": "cot_components.datasets.reasoning_dataset", "source": {"mine": hub}}
    assert len(validation_data(node, {"split": "test"}, None, tokenizer)[1]) == 12
    node["source"]["other"] = {"source": hub, "split": "train"}
    with pytest.raises(UserError, match=r"dataset_val\.split would have no effect, because dataset\.source\.other"):
        validation_data(node, {"split": "test"}, None, tokenizer)
    assert len(validation_data(node, {"split": "test", "source": hub}, None, tokenizer)[1]) == 12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"packed": True}, r"dataset\.packed must be false"),
        ({"tags": {"start": "<t>"}}, r"unknown key 'dataset\.tags\.start'; valid: close, open"),
        ({"tags": {1: "a", "x": 2}}, r"unknown key 'dataset\.tags\.1'; valid: close, open"),
        ({"tags": {True: "<t>"}}, r"'dataset\.tags\.True'; YAML reads a bare on, off, yes or no as a truth value"),
        ({"transforms": {2: BLUR}}, r"dataset\.transforms\.2: a name must be text, in quotes"),
        ({"transforms": {True: BLUR}}, r"dataset\.transforms\.True: a name must be text; YAML reads a bare on"),
        ({"transforms": {"blur": {**BLUR, "ration": 1}}}, r"'dataset\.transforms\.blur\.ration'; did you mean 'ratio'"),
        ({"transforms": {"blur": {"ratio": 0.3}}}, r"transforms\.blur is not a transform: it needs a _component_"),
        ({"columns": {1: "a"}}, "columns: format 'auto' has no field 1; valid: answer"),
        ({"columns": {"response": ["a"]}}, r"columns\.response must be the name of a column, got \['a'\]"),
        ({"template": "no_such"}, "no_such"),
        ({"source": "/no/such/file.jsonl"}, "/no/such/file.jsonl"),
        ({"source": {}}, "names no source"),
        ({"source": {"a": 5}}, r"source\.a must be a path, a name or a mapping, got 5"),
        ({"source": {"a": {"source": "generated", True: 1}}}, r"unknown key 'dataset\.source\.a\.True'; YAML"),
        ({"source": {"a": {"source": "generated", "weight": 0}}}, "weight must be positive"),
        ({"source": {"a": {"source": "generated", "columns": {"prompt": "q"}}}}, "generated: columns has no effect"),
        ({"source": "generated", "format": "messages"}, "source generated: format has no effect"),
        ({"source": "generated", "max_rows": 0}, "max_rows must be at least 1"),
        ({"source": "generated_multiplication", "subset": "²"}, "subset must be the number of digits, got '²'"),
        ({"cache_dir": __file__}, r"test_datasets\.py is not a folder"),
        ({"too_long": "cut"}, "too_long must be one of"),
    ],
)
def test_bad_settings(load, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        load(**settings)


def test_an_unknown_key_of_a_source_is_an_error_of_the_config(load):
    with pytest.raises(ConfigError, match=r"unknown key 'dataset\.source\.a\.wait'; did you mean 'weight'\?"):
        load(source={"a": {"source": "generated", "wait": 1}})


def test_null_leaves_a_transform_out(load):
    assert list(load(transforms={"blur": None, "other": BLUR}).transforms) == ["other"]


def test_the_summary_says_when_there_is_no_thought(load, tmp_path):
    agents = {"source": "generated_agents", "subset": "tagged", "max_rows": 2}
    summaries = [load(**one).summary() for one in ({}, {"source": talks(tmp_path, "a")}, agents)]
    assert ["no row has a thought" in summary for summary in summaries] == [False, True, False]
    assert "40 rows read, 40 kept" in summaries[0] and "thought " in summaries[0] and "call " in summaries[2]


def test_rows_without_a_thought_are_counted_and_follow_the_policy(load, tmp_path):
    (tmp_path / "switched.jinja").write_text(THINKING["switched"], encoding="utf-8")
    source = talks(tmp_path, *("<think>t</think>a" if i % 2 else "a" for i in range(5)))
    settings = {"source": source, "template": str(tmp_path / "switched.jinja")}
    found = {policy: load(empty_thought=policy, **settings) for policy in ("template", "none")}
    assert all("3 of 5 rows have no thought (see dataset.empty_thought)" in data.summary() for data in found.values())
    starts = {policy: data.rows.roles.tolist().count(Role.PROMPT) for policy, data in found.items()}
    assert starts["template"] > starts["none"], "the empty thought is given"
    with pytest.raises(UserError, match=r"talks\.jsonl:1: .*dataset\.empty_thought"):
        load(empty_thought="refuse", **settings)
    assert load(empty_thought="refuse", strict=False, max_dropped=1.0, **settings).rows.ids.tolist() == [1, 3]


def test_tags_as_tokens(load):
    data = load(tags_as="token")
    assert (data.rows.roles == Role.THINK_OPEN).sum() == (data.rows.roles == Role.THINK_CLOSE).sum() == 40
    assert data.chat.tokenizer.decode(data[0]["tokens"]).count("<think>") == 1
