"""Folders: links, READMEs that name files elsewhere, what `datasets` saved. Rows that changed are never cached ones."""

import gzip
import json
from pathlib import Path

import datasets
import pytest
from chats_for_tests import chat
from degenerate import GOOD, write_lines
from tokenizers_for_tests import make_tokenizer

from cot_components.data.read.places import source_files
from cot_components.data.read.traces import read_traces
from cot_components.data.rows.prepare import prepare_rows, source_key
from cot_components.data.sources import Source
from cot_components.errors import UserError

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n---\n"


def linked_folder(folder: Path) -> Path:
    (folder / "hub").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "hub/data").symlink_to("../elsewhere")
    return folder / "elsewhere/train-00000-of-00001.jsonl"


def linked_file(folder: Path) -> Path:
    (folder / "hub/data").mkdir(parents=True)
    (folder / "hub/data/train.jsonl").symlink_to("../../elsewhere.jsonl")
    return folder / "elsewhere.jsonl"


def named_by_the_readme(folder: Path) -> Path:
    (folder / "hub").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "hub/README.md").write_text(CARD.format(path="../elsewhere/rows.jsonl"))
    return folder / "elsewhere/rows.jsonl"


def named_by_its_whole_path(folder: Path) -> Path:
    (folder / "hub").mkdir()
    (folder / "hub/README.md").write_text(CARD.format(path=folder / "rows.jsonl"))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def byte_chat(tmp_path_factory):
    return chat(make_tokenizer("byte", tmp_path_factory.mktemp("byte")))


OUTSIDE = [linked_folder, linked_file, named_by_the_readme, named_by_its_whole_path]


@pytest.mark.parametrize("lay", OUTSIDE)
def test_rows_that_changed_outside_the_folder_are_read_again(lay, tmp_path, byte_chat):
    rows_file, cache, seen = lay(tmp_path), tmp_path / "cache", []
    for answer in ("first", "other", "other"):
        write_lines(rows_file, GOOD | {"response": answer})
        source = Source(source=str(tmp_path / "hub"))
        read = lambda report, source=source: source.read(report=report)  # noqa: E731
        rows = prepare_rows(read, byte_chat, cache_dir=cache, data_key=source.key()).rows
        tokens = rows.flat([0])
        seen.append(byte_chat.tokenizer.decode(tokens.labels[tokens.labels >= 0]))
    assert [text.removesuffix("<|end|>") for text in seen] == ["first", "other", "other"]
    assert len(list(cache.iterdir())) == 2
    assert [file.resolve() for file in source_files(tmp_path / "hub", "train", None)] == [rows_file]


def test_files_that_no_split_reads_leave_the_key_as_it_is(tmp_path):
    for name in ("train", "test"):
        write_lines(tmp_path / f"{name}.jsonl", GOOD)
    before = [source_key(tmp_path, split=split) for split in ("train", "test")]
    write_lines(tmp_path / "test.jsonl", GOOD, GOOD)
    (tmp_path / "notes.md").write_text("x")
    after = [source_key(tmp_path, split=split) for split in ("train", "test")]
    assert before[0] == after[0] and before[1] != after[1] and before[0] != before[1]


def test_a_readme_that_names_what_is_not_here_is_refused(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(CARD.format(path="nowhere.jsonl"))
    with pytest.raises(UserError, match=r"not a data set in hub layout: .*nowhere\.jsonl"):
        read_traces(tmp_path)
    far = type("Builder", (), {"config": type("Config", (), {"data_files": {"train": ["hf://datasets/a/b/x.jsonl"]}})})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args: far)
    for use in (read_traces, source_key):
        with pytest.raises(UserError, match=r"split 'train' names hf://datasets/a/b/x\.jsonl, which is no file"):
            use(tmp_path)


def saved(folder: Path, *names: str, **settings: object) -> Path:
    """What `save_to_disk` makes of a row for each name: one data set, or one for each split of that name."""
    rows = [datasets.Dataset.from_list([GOOD | {"instruction": name, "n": 1}], **settings) for name in names]
    if settings:
        rows[0].with_format("numpy", columns=["n"]).save_to_disk(folder)
    else:
        datasets.DatasetDict(dict(zip(names, rows, strict=True))).save_to_disk(folder)
    return folder


def prompts(folder: Path, **settings: str) -> list[tuple[str, str]]:
    return [(trace.where, trace.messages[0].content) for trace in read_traces(folder, **settings)]


def test_saved_data_sets_are_read_by_split(tmp_path):
    folder = saved(tmp_path / "dict", "train", "test")
    assert prompts(folder) == [(f"{folder}:1", "train")] and prompts(folder, split="test") == [(f"{folder}:1", "test")]
    with pytest.raises(UserError, match="no split 'dev'; there are: train, test"):
        read_traces(folder, split="dev")
    with pytest.raises(UserError, match="has no subset 'easy'"):
        read_traces(folder, subset="easy")
    keys = [source_key(folder, split=split) for split in ("train", "test")]
    assert None not in keys and keys[0] != keys[1]
    (folder / "test/state.json").write_text("{")
    with pytest.raises(UserError, match="not a data set that can be read"):
        source_key(folder)


@pytest.mark.parametrize("split", [None, datasets.Split.TEST])
def test_a_single_saved_data_set_is_read_whatever_its_columns_were_shown_as(split, tmp_path):
    folder = saved(tmp_path / "one", "q", split=split)
    assert prompts(folder) == [(f"{folder}:1", "q")]
    key = source_key(folder)
    if split is not None:
        assert prompts(folder, split="test") == prompts(folder)
    with pytest.raises(UserError, match="no split 'dev'; there are: train"):
        read_traces(folder, split="dev")
    files = source_files(folder, "train", None)
    assert [file.suffix for file in files] == [".arrow"]
    other = saved(tmp_path / "other", "r", split=split)
    assert source_key(other) != key


def test_turns_of_a_saved_data_set_are_those_of_json_lines(tmp_path):
    call = {"name": "pay", "arguments": {"who": "Ann"}}
    other = {"name": "move", "arguments": {"to": 3}}
    user = {"role": "user", "content": "q"}
    rows = [{"messages": [user, {"role": "assistant", "tool_calls": [c]}]} for c in (call, other)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    lines = write_lines(tmp_path / "x.jsonl", *rows)
    found = [trace.messages for trace in read_traces(tmp_path / "saved")]
    assert found == [trace.messages for trace in read_traces(lines)] and len(found) == 2
    assert json.dumps(other) in found[1][1].content


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl.gz", "train.json"])
def test_a_folder_may_hold_any_kind_of_file(name, tmp_path):
    texts = {
        "train.csv": b"prompt,completion\nq,a\n",
        "train.jsonl.gz": gzip.compress(json.dumps(GOOD).encode()),
        "train.json": json.dumps({"data": [GOOD]}, indent=1).encode(),
    }
    (tmp_path / name).write_bytes(texts[name])
    assert [prompt for _, prompt in prompts(tmp_path)] == ["q"]
    assert source_key(tmp_path) is not None
