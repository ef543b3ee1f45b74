"""Data sets of stepwise internalisation, as a recipe builds them from a config."""

import json

import numpy as np
import pytest

from cot_components.clock import Clock
from cot_components.config import build
from cot_components.curriculum import Stepwise
from cot_components.data.generated.multiplication import draw_operands, multiplication_line, multiplication_lines
from cot_components.data.rows.plans import Plans
from cot_components.datasets.stepwise import icot_dataset, multiplication_dataset
from cot_components.errors import UserError
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.models.tokenizers import HFTokenizer
from cot_components.roles import Role

SOLUTIONS = [
    {"question": "Ann has 3 cups and buys 4.", "answer": "She has 3+4 = <<3+4=7>>7.\n#### 7"},
    {"question": "How much?", "answer": "It is plain.\n#### 2,125"},
]


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer():
    return compact_tokenizer()


def texts(data) -> list[str]:
    """Each row as text, the separators as S."""
    rows, decode = data.rows, data.chat.tokenizer.decode
    bounds = zip(rows.row_start[:-1], rows.row_start[1:], strict=True)
    return [decode(rows.tokens[start:stop]).replace("<|endoftext|>", "S") for start, stop in bounds]


def test_lines_become_rows(tokenizer, tmp_path):
    lines = multiplication_lines(*draw_operands(2, 5))
    (tmp_path / "rows.txt").write_text("\n".join(lines) + "\n")
    data = icot_dataset(tokenizer, source=str(tmp_path / "rows.txt"))
    question, solution = lines[3].split("||")
    thought, answer = solution.split(" #### ")
    assert texts(data)[3] == f" {question} S {thought} S #### {answer} S"
    assert data.report.read == len(data.rows) == 5


def test_the_official_data_set_becomes_equations(tokenizer, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SOLUTIONS))
    data = icot_dataset(tokenizer, source=str(path), thoughts="equations")
    assert texts(data) == [" Ann has 3 cups and buys 4. S <<3+4=7>> S #### 7 S", " How much? S  S #### 2125 S"]
    fewer = icot_dataset(tokenizer, source=str(path), thoughts="equations", empty_thoughts="drop")
    assert len(fewer.rows) == fewer.report.kept == 1 and fewer.report.num_dropped == 0
    assert "She has" in texts(icot_dataset(tokenizer, source=str(path)))[0]


def test_empty_thoughts_are_dropped_from_any_format(tokenizer, tmp_path):
    (tmp_path / "rows.txt").write_text("how much?||1 2 #### 3\nhow many?|| #### 4\n")
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "q", "steps": s, "answer": "a"} for s in (["b"], [])]))
    for name, format in (("rows.txt", "icot"), ("rows.json", "steps")):
        for empty_thoughts, kept in (("keep", 2), ("drop", 1)):
            data = icot_dataset(tokenizer, source=str(tmp_path / name), format=format, empty_thoughts=empty_thoughts)
            assert len(data.rows) == data.report.kept == kept and data.report.num_dropped == 0


def test_the_cache_tells_settings_apart(tokenizer, tmp_path):
    path, cache = tmp_path / "train.jsonl", str(tmp_path / "cache")
    path.write_text("".join(json.dumps(row) + "\n" for row in SOLUTIONS))
    seen = [
        texts(icot_dataset(tokenizer, source=str(path), cache_dir=cache, **options))
        for options in ({}, {"thoughts": "equations"}, {"thoughts": "equations", "empty_thoughts": "drop"}, {})
    ]
    assert seen[0] == seen[3] and len({tuple(rows) for rows in seen}) == 3


def test_step_lists_are_removed_step_by_step(tokenizer, tmp_path):
    path = tmp_path / "steps.json"
    row = {"question": "Is Tom a pet?", "steps": ["Tom is a cat.", "Every cat is a pet."], "answer": "Tom is a pet."}
    path.write_text(json.dumps([row] * 4))
    data = icot_dataset(tokenizer, source=str(path), format="steps", max_rows=3)
    assert texts(data) == [" Is Tom a pet? S Tom is a cat.\nEvery cat is a pet. S #### Tom is a pet. S"] * 3
    plans = Plans(data.rows.lengths, batch_size=3, epochs=3)
    run = Stepwise(per_epoch=1, unit="step", smoothing=float("inf"))(plans, data.rows, data.chat.step_ends)
    left = run.remove(data.rows.flat([0]), Clock(1, 1))
    assert data.chat.tokenizer.decode(left.tokens[left.roles == Role.THOUGHT]) == "Every cat is a pet. "


def test_step_lists_have_the_settings_of_other_rows(tokenizer, tmp_path):
    path = tmp_path / "steps.json"
    good = {"question": "q", "steps": ["a", "b"], "answer": "c"}
    path.write_text(json.dumps([good, {"question": "q"}, good]))
    read = lambda **options: icot_dataset(tokenizer, source=str(path), format="steps", **options)  # noqa: E731
    with pytest.raises(UserError, match="row 2: question or answer is missing"):
        read()
    data = read(strict=False, max_dropped=0.5)
    assert len(data.rows) == 2 and (data.report.read, data.report.num_dropped) == (3, 1)
    assert len(read(max_rows=1).rows) == 1
    with pytest.raises(UserError, match="max_rows must be at least 1"):
        read(max_rows=-1)
    for name, value in {"split": "test", "subset": "x", "columns": {"q": "question"}}.items():
        with pytest.raises(UserError, match=rf"dataset\.{name} is not read with format: steps"):
            read(**{name: value})


def test_multiplication_from_a_config(tokenizer):
    node = {"_component_": "cot_components.datasets.multiplication_dataset", "num_digits": 3, "num_rows": 40}
    train, held_out = build(node, tokenizer), build({**node, "split": "held_out"}, tokenizer)
    assert len(train.rows) == 40 and train.report.kept == 40
    assert not {text.split(" S")[0] for text in texts(train)} & {text.split(" S")[0] for text in texts(held_out)}
    assert texts(train)[0].count("S") == 3 and "thought" in train.rows.tokens_by_role()
    batch = train.batches().batch([0, 1], Clock(0, 0))
    assert batch.tokens.shape == (2, int(train.rows.lengths[0]))


def test_excluded_files_are_left_out(tokenizer, tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(multiplication_line(7, 8, 1) + "\n")
    node = {"num_digits": 1, "num_rows": 2000}
    everything, rest = (multiplication_dataset(tokenizer, **node, exclude=e) for e in ([], [str(path)]))
    questions = [{text.split(" S")[0].strip() for text in texts(data)} for data in (everything, rest)]
    assert questions[0] - questions[1] == {"7 * 8", "8 * 7"}
    with pytest.raises(ValueError, match="holds numbers of 1 digits, but num_digits is 2"):
        multiplication_dataset(tokenizer, num_digits=2, num_rows=5, exclude=[str(path)])


def test_settings_that_mean_nothing_are_refused(tokenizer, tmp_path):
    (tmp_path / "rows.txt").write_text(multiplication_line(7, 8, 1) + "\n")
    with pytest.raises(ValueError, match=r"dataset\.thoughts must be"):
        icot_dataset(tokenizer, source=str(tmp_path / "rows.txt"), thoughts="short")
    with pytest.raises(ValueError, match=r"dataset\.num_rows must be"):
        multiplication_dataset(tokenizer, num_digits=2, num_rows=0)
    with pytest.raises(UserError, match=r"dataset\.seed must not be negative, got -1"):
        multiplication_dataset(tokenizer, num_digits=2, num_rows=1, seed=-1)


def test_rows_longer_than_the_limit_are_named(tokenizer, tmp_path):
    lines = [multiplication_line(12, 34, 2), multiplication_line(123, 456, 3)]
    (tmp_path / "rows.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"rows\.txt:2: longer than 30 tokens"):
        icot_dataset(tokenizer, source=str(tmp_path / "rows.txt"), max_seq_len=30)
    kept = icot_dataset(tokenizer, source=str(tmp_path / "rows.txt"), max_seq_len=30, strict=False, max_dropped=0.5)
    assert kept.rows.ids.tolist() == [0] and np.diff(kept.rows.row_start).max() <= 30
    limited = HFTokenizer(tokenizer.text, max_seq_len=30)
    with pytest.raises(UserError, match=r"rows\.txt:2: longer than 30 tokens"):
        icot_dataset(limited, source=str(tmp_path / "rows.txt"))
    assert len(icot_dataset(limited, source=str(tmp_path / "rows.txt"), max_seq_len=300).rows) == 2


def test_lines_without_their_separators_are_named(tokenizer, tmp_path):
    good = multiplication_line(12, 34, 2)
    for bad, mark in ((good.replace("||", " "), r"'\|\|'"), (good.replace("####", ""), "'####'")):
        (tmp_path / "rows.txt").write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=rf"rows\.txt:2: {mark} does not stand there exactly once"):
            icot_dataset(tokenizer, source=str(tmp_path / "rows.txt"))
