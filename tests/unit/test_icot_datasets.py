"""Data sets of stepwise internalisation, as a recipe builds them from a config."""

import json

import pytest
from degenerate import write_lines

from cot_components.clock import Clock
from cot_components.config import build
from cot_components.data.generated.multiplication import draw_operands, multiplication_line, multiplication_lines
from cot_components.datasets.icot import icot_dataset, multiplication_dataset
from cot_components.errors import UserError
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.models.tokenizers import HFTokenizer

SOLUTIONS = [
    {"question": "Ann has 3 cups and buys 4.", "answer": "She has 3+4 = <<3+4=7>>7.\n#### 7"},
    {"question": "How much?", "answer": "It is plain.\n#### 2,125"},
]
STEPS = {"question": "Is Tom a pet?", "steps": ["Tom is a cat.", "Every cat is a pet."], "answer": "Tom is a pet."}
TOKENIZER = compact_tokenizer()
TWO_DIGITS = multiplication_line(12, 34, 2)


def texts(data):
    """Each row as text, the separators as S."""
    rows, decode = data.rows, data.chat.tokenizer.decode
    bounds = zip(rows.row_start[:-1], rows.row_start[1:], strict=True)
    return [decode(rows.tokens[start:stop]).replace("<|endoftext|>", "S") for start, stop in bounds]


def read(path, content, tokenizer=TOKENIZER, **options):
    """A data set of the lines, or of the value as JSON."""
    path.write_text("\n".join(content) + "\n" if path.suffix == ".txt" else json.dumps(content))
    return icot_dataset(tokenizer, source=str(path), **options)


def test_lines_become_rows(tmp_path):
    lines = multiplication_lines(*draw_operands(2, 5))
    data = read(tmp_path / "rows.txt", lines)
    question, solution = lines[3].split("||")
    thought, answer = solution.split(" #### ")
    assert texts(data)[3] == f" {question} S {thought} S #### {answer} S"
    assert data.report.read == len(data.rows) == 5


def test_the_official_data_set_becomes_equations_and_the_cache_tells_settings_apart(tmp_path):
    source = str(write_lines(tmp_path / "train.jsonl", *SOLUTIONS))
    whole = [" Ann has 3 cups and buys 4. S <<3+4=7>> S #### 7 S", " How much? S  S #### 2125 S"]
    for options, expected in (
        ({}, None),
        ({"thoughts": "equations"}, whole),
        ({"thoughts": "equations", "empty_thoughts": "drop"}, whole[:1]),
        ({}, None),
    ):
        data = icot_dataset(TOKENIZER, source=source, cache_dir=str(tmp_path / "cache"), **options)
        assert texts(data) == expected if expected else "She has" in texts(data)[0]
        assert len(data.rows) == data.report.kept and data.report.num_dropped == 0


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("rows.txt", ["how much?||1 2 #### 3", "how many?|| #### 4"], "icot"),
        ("rows.json", [STEPS, STEPS | {"steps": []}], "steps"),
    ],
)
@pytest.mark.parametrize(("empty_thoughts", "kept"), [("keep", 2), ("drop", 1)])
def test_empty_thoughts_are_dropped_from_any_format(name, content, format, empty_thoughts, kept, tmp_path):
    data = read(tmp_path / name, content, format=format, empty_thoughts=empty_thoughts)
    assert len(data.rows) == data.report.kept == kept and data.report.num_dropped == 0


def test_step_lists_have_the_settings_of_other_rows(tmp_path):
    path, rows = tmp_path / "steps.json", [STEPS, {"question": "q"}, STEPS]
    data = read(path, rows, format="steps", strict=False, max_dropped=0.5)
    assert len(data.rows) == 2 and (data.report.read, data.report.num_dropped) == (3, 1)
    assert len(read(path, rows, format="steps", max_rows=1).rows) == 1
    for options, message in (
        ({}, "row 2: question or answer is missing"),
        ({"max_rows": -1}, "max_rows must be at least 1"),
        ({"split": "test"}, r"dataset\.split has no effect with format: steps"),
        ({"subset": "x"}, r"dataset\.subset has no effect with format: steps"),
        ({"columns": {"q": "question"}}, r"dataset\.columns has no effect with format: steps"),
    ):
        with pytest.raises(UserError, match=message):
            read(path, rows, format="steps", **options)


def test_multiplication_from_a_config():
    node = {"_component_": "cot_components.datasets.multiplication_dataset", "num_digits": 3, "num_rows": 40}
    train, held_out = (build({**node, "split": split}, TOKENIZER) for split in ("train", "held_out"))
    questions, others = ({text.split(" S")[0] for text in texts(data)} for data in (train, held_out))
    assert len(train.rows) == 40 == train.report.kept and not questions & others
    assert texts(train)[0].count("S") == 3 and "thought" in train.rows.tokens_by_role()
    assert train.batches().batch([0, 1], Clock(0, 0)).tokens.shape == (2, int(train.rows.lengths[0]))


def test_excluded_files_are_left_out(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(multiplication_line(7, 8, 1) + "\n")
    some = [multiplication_dataset(TOKENIZER, num_digits=1, num_rows=2000, exclude=e) for e in ([], [str(path)])]
    everything, rest = ({text.split(" S")[0].strip() for text in texts(data)} for data in some)
    assert everything - rest == {"7 * 8", "8 * 7"}
    with pytest.raises(ValueError, match="holds numbers of 1 digits, but num_digits is 2"):
        multiplication_dataset(TOKENIZER, num_digits=2, num_rows=5, exclude=[str(path)])


def test_settings_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.thoughts must be"):
        read(tmp_path / "rows.txt", [TWO_DIGITS], thoughts="short")
    for settings in ({"num_rows": 0}, {"num_rows": 1, "seed": -1}):
        with pytest.raises(UserError, match=rf"dataset\.{list(settings)[-1]} must"):
            multiplication_dataset(TOKENIZER, num_digits=2, **settings)


def test_rows_longer_than_the_limit_are_named(tmp_path):
    path, lines = tmp_path / "rows.txt", [TWO_DIGITS, multiplication_line(123, 456, 3)]
    limited = HFTokenizer(TOKENIZER.text, max_seq_len=30)
    for options in ({"max_seq_len": 30}, {"tokenizer": limited}):
        with pytest.raises(UserError, match=r"rows\.txt:2: longer than 30 tokens"):
            read(path, lines, **options)
    kept = read(path, lines, max_seq_len=30, strict=False, max_dropped=0.5)
    assert kept.rows.ids.tolist() == [0] and kept.rows.lengths.max() <= 30
    assert len(read(path, lines, limited, max_seq_len=300).rows) == 2


@pytest.mark.parametrize("mark", ["||", "####"])
def test_lines_without_their_separators_are_named(mark, tmp_path):
    with pytest.raises(ValueError, match=rf"rows\.txt:2: '{mark.replace('|', chr(92) + '|')}' does not occur"):
        read(tmp_path / "rows.txt", [TWO_DIGITS, TWO_DIGITS.replace(mark, " ")])
