"""Folders: hub layout, links, READMEs, what `datasets` saved, the hub. Rows that changed are never cached ones."""

import gzip
import json
import os
import subprocess
import sys

import datasets
import pytest
from chats import chat
from degenerate import GOOD, write_lines
from lookalikes import write_magpie
from reading import prompts

from cot_components.data.read.places import source_files
from cot_components.data.read.traces import read_traces
from cot_components.data.rows.prepare import prepare_rows, source_key
from cot_components.data.sources import Source
from cot_components.errors import UserError

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n---\n"


@pytest.fixture(scope="session")
def magpie(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "magpie"
    write_magpie(folder)
    return folder


def test_a_folder_in_hub_layout_reads_shard_after_shard(magpie):
    shards = [f"train-0000{i}-of-00002.parquet" for i in (0, 1)]
    places = [*(f"{shards[0]}:{row}" for row in (1, 2, 3)), *(f"{shards[1]}:{row}" for row in (1, 2))]
    assert prompts(magpie) == [(place, f"What is {i} + 1?") for i, place in enumerate(places)]
    assert [trace.id for trace in read_traces(magpie)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no split 'test'; there are: train"):
        read_traces(magpie, split="test")


def test_a_hub_data_set_has_the_rows_of_its_files(magpie, tmp_path, monkeypatch):
    load = datasets.load_dataset
    cache = {"cache_dir": str(tmp_path)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset, split: load(str(magpie), split=split, **cache))
    hub, files = list(read_traces("user/magpie")), list(read_traces(magpie))
    assert [t.where for t in hub] == [f"user/magpie/train:{i + 1}" for i in range(5)]
    assert [(t.id, t.messages) for t in hub] == [(t.id, t.messages) for t in files]


def test_the_hub_fails_in_one_sentence_offline(tmp_path):
    """`datasets.load_dataset` itself, in a process that cannot reach the network and has a cache of its own."""
    script = "from cot_components.data.read.traces import read_traces\nread_traces('nobody/no-such-data-set')"
    settings = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | settings, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "UserError: nobody/no-such-data-set: not found on this machine and not available from the hub: " in last


def test_readme_configs_and_file_names_decide_the_files(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: easy\n  data_files: easy.jsonl\n- config_name: hard\n  data_files:\n"
        "  - split: train\n    path: hard/*.jsonl\n  - split: dev\n    path: dev.jsonl\n---\n"
    )
    (tmp_path / "hard").mkdir()
    for name in ("easy", "hard/1", "hard/2", "dev"):
        write_lines(tmp_path / f"{name}.jsonl", GOOD | {"instruction": name})
    assert prompts(tmp_path, subset="easy") == [("easy.jsonl:1", "easy")]
    assert prompts(tmp_path, subset="hard") == [("1.jsonl:1", "hard/1"), ("2.jsonl:1", "hard/2")]
    assert [trace.id for trace in read_traces(tmp_path, subset="hard")] == [0, 1]
    assert prompts(tmp_path, subset="hard", split="dev") == [("dev.jsonl:1", "dev")]
    for subset in (None, "medium"):
        with pytest.raises(UserError, match=r"not a data set in hub layout: .*easy.*hard"):
            read_traces(tmp_path, subset=subset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a data set in hub layout"):
        read_traces(tmp_path / "empty")


LONG = "".join(f"- config_name: {letter * 400}\n  data_files: x.jsonl\n" for letter in "ab")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (CARD.format(path="nowhere.jsonl"), r"not a data set in hub layout: .*nowhere\.jsonl"),
        (f"---\nconfigs:\n{LONG}---\n", r"a\.\.\.$"),
        (
            "---\nconfigs:\n- config_name: a\n  data_files: [\n---\n",
            r"/README\.md: the YAML at its top cannot be read: .*line 3",
        ),
    ],
)
def test_a_readme_that_cannot_be_followed_is_one_readable_sentence(card, message, tmp_path):
    (tmp_path / "README.md").write_text(card)
    write_lines(tmp_path / "x.jsonl", GOOD)
    with pytest.raises(UserError, match=message) as caught:
        read_traces(tmp_path)
    assert "\n" not in str(caught.value) and "b" * 400 not in str(caught.value)


def test_a_readme_that_names_what_is_far_away_is_refused(tmp_path, monkeypatch):
    far = type("Builder", (), {"config": type("Config", (), {"data_files": {"train": ["hf://datasets/a/b/x.jsonl"]}})})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args: far)
    for use in (read_traces, source_key):
        with pytest.raises(UserError, match=r"split 'train' names hf://datasets/a/b/x\.jsonl, which is not a file"):
            use(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "File name too long$") for name in ("x" * 300, "x" * 300 + ".jsonl")),
        ("~nobody-here/x.jsonl", "Could not determine home directory"),
    ],
)
def test_a_name_that_cannot_be_looked_up_is_named(name, message):
    for use in (read_traces, source_key):
        with pytest.raises(UserError, match=f"^{name}: {message}"):
            use(name)


LAYOUTS = {  # a link in the folder, or the path that its README names, and where the rows are
    "a linked folder": ("data", "../elsewhere", "elsewhere/train-00000-of-00001.jsonl"),
    "a linked file": ("train.jsonl", "../elsewhere/rows.jsonl", "elsewhere/rows.jsonl"),
    "named by the README": (None, "../elsewhere/rows.jsonl", "elsewhere/rows.jsonl"),
    "named by its whole path": (None, "{folder}/rows.jsonl", "rows.jsonl"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_changed_outside_the_folder_are_read_again(layout, tmp_path, byte):
    (link, path, rows), hub, cache, seen = LAYOUTS[layout], tmp_path / "hub", tmp_path / "cache", []
    for folder in ("hub", "elsewhere"):
        (tmp_path / folder).mkdir()
    if link:
        (hub / link).symlink_to(path)
    else:
        (hub / "README.md").write_text(CARD.format(path=path.format(folder=tmp_path)))
    for answer in ("first", "other", "other"):
        write_lines(tmp_path / rows, GOOD | {"response": answer})
        source = Source(source=str(hub))
        read = lambda report, source=source: source.read(report=report)  # noqa: E731
        flat = prepare_rows(read, chat(byte), cache_dir=cache, data_key=source.key()).rows.flat([0])
        seen.append(byte.decode(flat.labels[flat.labels >= 0]))
    assert seen == ["first<|end|>", "other<|end|>", "other<|end|>"] and len(list(cache.iterdir())) == 2
    assert [file.resolve() for file in source_files(hub, "train", None)] == [tmp_path / rows]


def test_files_that_no_split_reads_leave_the_key_as_it_is(tmp_path):
    def keys():
        return [source_key(tmp_path, split=split) for split in ("train", "test")]

    for name in ("train", "test"):
        write_lines(tmp_path / f"{name}.jsonl", GOOD)
    before = keys()
    write_lines(tmp_path / "test.jsonl", GOOD, GOOD)
    (tmp_path / "notes.md").write_text("x")
    assert before[0] == keys()[0] and before[1] != keys()[1] and before[0] != before[1]


def saved(folder, *names, **settings):
    """What `save_to_disk` makes of a row for each name: one data set, or one for each split of that name."""
    rows = [datasets.Dataset.from_list([GOOD | {"instruction": name, "n": 1}], **settings) for name in names]
    if settings:
        rows[0].with_format("numpy", columns=["n"]).save_to_disk(folder)
    else:
        datasets.DatasetDict(dict(zip(names, rows, strict=True))).save_to_disk(folder)
    return folder


def test_saved_data_sets_are_read_by_split(tmp_path):
    folder = saved(tmp_path / "dict", "train", "test")
    assert prompts(folder) == [("dict:1", "train")] and prompts(folder, split="test") == [("dict:1", "test")]
    for settings, message in (
        ({"split": "dev"}, "no split 'dev'; there are: train, test"),
        ({"subset": "easy"}, "has no subset 'easy'"),
    ):
        with pytest.raises(UserError, match=message):
            read_traces(folder, **settings)
    keys = [source_key(folder, split=split) for split in ("train", "test")]
    assert None not in keys and keys[0] != keys[1]
    (folder / "test/state.json").write_text("{")
    with pytest.raises(UserError, match="not a data set that can be read"):
        source_key(folder)


@pytest.mark.parametrize("split", [None, datasets.Split.TEST])
def test_a_single_saved_data_set_is_read_whatever_its_columns_were_shown_as(split, tmp_path):
    folder, other = (saved(tmp_path / name, name, split=split) for name in "qr")
    for name in ("train", "test")[: 1 if split is None else 2]:
        assert prompts(folder, split=name) == [("q:1", "q")]
    with pytest.raises(UserError, match="no split 'dev'; there are: train"):
        read_traces(folder, split="dev")
    assert [file.suffix for file in source_files(folder, "train", None)] == [".arrow"]
    assert source_key(other) != source_key(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", b"prompt,completion\nq,a\n"),
        ("train.jsonl.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)),
        ("train.json", json.dumps({"data": [GOOD]}, indent=1).encode()),
    ],
)
def test_a_folder_may_hold_any_kind_of_file(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert [prompt for _, prompt in prompts(tmp_path)] == ["q"]
    assert source_key(tmp_path) is not None
