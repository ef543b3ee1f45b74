"""Logs as they are found: complete, cut, resumed, broken."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.errors import UserError
from cot_components.runs.log import has_any, read_log, series

RECORDS = [{"step": i, "loss": 2.0 - i / 10, "lr": 1e-3} for i in range(5)]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_complete_log_its_folder_and_none(tmp_path):
    with pytest.raises(UserError, match="no such log"):
        read_log(tmp_path)
    assert read_log(write(tmp_path / "log.jsonl", "")) == []
    write(tmp_path / "log.jsonl", lines(RECORDS))
    assert read_log(tmp_path / "log.jsonl") == read_log(tmp_path) == read_log(str(tmp_path)) == RECORDS


@given(cut=st.integers(0, len(lines(RECORDS))))
def test_a_log_cut_anywhere_gives_its_whole_records(tmp_path_factory, cut):
    text = lines(RECORDS)[:cut]
    path = write(tmp_path_factory.mktemp("run") / "log.jsonl", text)
    whole = text.count("\n") + (cut > 0 and text.endswith("}"))
    assert read_log(path) == RECORDS[:whole]


@given(cut=st.integers(1, len(lines(RECORDS[:1])) - 2))
def test_a_resumed_log_keeps_what_follows_the_half_line(tmp_path_factory, cut):
    text = lines(RECORDS[:2]) + lines(RECORDS[2:3])[:cut] + lines(RECORDS[2:])
    assert read_log(write(tmp_path_factory.mktemp("run") / "log.jsonl", text)) == RECORDS


def test_a_half_character_at_the_end(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(lines(RECORDS).encode() + b'{"step": 5, "note": "\xe4\xb8')
    assert read_log(tmp_path) == RECORDS


@pytest.mark.parametrize(
    "line",
    [
        *("{broken", '["step"]', '{"loss": 1.0}', '{"step": "3"}', "null", '{"step": true}', '{"step": -1}'),
        *("[" * 100_000, f'{{"step": {10**30}}}', '{"step": 3, "epoch": "1"}'),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    write(tmp_path / "log.jsonl", lines(RECORDS[:2]) + line + "\n" + lines(RECORDS[2:]))
    with pytest.raises(UserError, match=r"log\.jsonl:3: not a log record"):
        read_log(tmp_path)


def test_a_step_done_twice_keeps_its_last_value_and_order_is_by_step():
    records = [{"step": 0, "loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 1, "loss": 2.5}]
    steps, values = series(records, "loss")
    assert steps.tolist() == [0, 1, 2] and values.tolist() == [3.0, 2.5, 1.5]


def test_values_that_are_not_finite_or_not_there():
    records = [{"step": 0, "loss": "nan"}, {"step": 1, "loss": "inf"}, {"step": 2}]
    records += [{"step": 3, "loss": None}, {"step": 4, "loss": 1}]
    assert math.isnan(series([{"step": 0, "loss": 10**400}], "loss")[1][0])
    steps, values = series(records, "loss")
    assert steps.tolist() == [0, 1, 4]
    assert math.isnan(values[0]) and math.isnan(values[1]) and values[2] == 1
    assert has_any(records, "stage", "loss") and not has_any(records, "stage")
    assert series(records, "stage")[0].dtype == np.int64
