"""S3FT: whose answer becomes the target, from two runs of an evaluation as `cot_eval` leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cot_components.cli.main import main as cot
from cot_components.data.text.segments import Tags
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.evaluation import AnswerEvaluation
from cot_components.evaluation.evaluate import Completion, evaluate
from cot_components.models import hf_tokenizer
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.layout import CONFIG, EVALUATION
from cot_components.tools.s3ft import routed

RIGHT, WRONG = "<think>mine</think>Answer: {}", "<think>mine</think>Answer: 77"
CASES = {  # question -> its own answers, its restatement, route
    "own is right": ([RIGHT], RIGHT, "own"),
    "the restatement is right": ([WRONG], RIGHT, "restated"),
    "both are wrong": ([WRONG], WRONG, "gold"),
    "nothing was restated": ([WRONG], None, "gold"),
    "a second sample is right": ([WRONG, RIGHT], None, "own"),
    "right, but cut": ([Completion(RIGHT, True)], None, "gold"),
    "right, but thinks twice": (["<think>a</think>" + RIGHT], None, "gold"),
}
NO_ANSWER = "has no reference"


def answered(folder: Path, source: Path, say, samples: int = 1) -> Path:
    """A run's folder after these completions of the questions in a file."""
    node = {"source": str(source), "max_rows": None, "num_samples": samples, "temperature": 1.0}
    questions = AnswerEvaluation(**node)
    result = evaluate(
        questions.traces, lambda prompts: [say(i, p) for i, p in enumerate(prompts)], tags=Tags(), count_tokens=len,
        num_samples=samples,
    )  # fmt: skip
    result.save(folder / EVALUATION)
    component = {"_component_": "cot_components.evaluation.AnswerEvaluation"}
    (folder / CONFIG).write_text(json.dumps({"evaluation": component | node}))
    return folder


def completion(said, reference: str) -> Completion:
    text, cut = said if isinstance(said, Completion) else (said, False)
    return Completion(text.format(reference), cut)


@pytest.fixture(name="runs")
def _runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run on the training questions, and one on what `--ask` has written."""
    rows = [
        {"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": f"gold.\nAnswer: {number}"}]}
        for number, name in enumerate(CASES)
    ]
    rows.append({"messages": [{"role": "user", "content": NO_ANSWER}, {"role": "assistant", "content": "gold"}]})
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def own(index: int, prompt) -> Completion:
        question = prompt[-1].content
        said = [WRONG] if question == NO_ANSWER else CASES[question][0]
        return completion(said[min(index % 2, len(said) - 1)], str(index // 2))

    def restated(index: int, prompt) -> Completion:
        question, *_, gold = prompt[-1].content.split("\n\n")[:3]
        assert gold.startswith("gold.\nAnswer: "), "the model is shown what it is to restate"
        return completion(CASES[question][1] or WRONG, gold.rpartition(" ")[2])

    run = answered(tmp_path / "own", data, own, samples=2)
    assert cot(["s3ft", str(run), "--ask", str(tmp_path / "ask.jsonl")]) == 0
    return run, answered(tmp_path / "restated", tmp_path / "ask.jsonl", restated)


def test_each_question_gets_the_best_target_that_is_right(runs, tmp_path: Path, capsys) -> None:
    run, restated = runs
    out = tmp_path / "s3ft.jsonl"
    assert cot(["s3ft", str(run), "--restated", str(restated), "--out", str(out)]) == 0
    assert "own 2, restated 1, gold 5" in capsys.readouterr().out
    rows = {row["messages"][0]["content"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert list(rows) == [*CASES, NO_ANSWER]
    for number, (name, (*_, expected)) in enumerate(CASES.items()):
        target = f"gold.\nAnswer: {number}" if expected == "gold" else RIGHT.format(number)
        assert (rows[name]["route"], rows[name]["messages"][-1]["content"]) == (expected, target), name
        assert rows[name]["answer"] == str(number)
    assert rows[NO_ANSWER]["route"] == "gold" and "answer" not in rows[NO_ANSWER]
    own = [row for row in rows.values() if row["route"] != "gold"]
    assert own and all(f"Answer: {row['answer']}" in row["messages"][-1]["content"] for row in own), "none is wrong"
    tokenizer = hf_tokenizer(str(write_tiny_checkpoint(tmp_path / "tiny")))
    assert len(reasoning_dataset(tokenizer, source=str(out), max_rows=5).rows) == 5, "and they can be trained on"


def test_without_restatements_there_are_two_routes(runs, tmp_path: Path, capsys) -> None:
    assert [row.route for row in routed(runs[0])].count("gold") == len(CASES) - 1
    assert len((tmp_path / "ask.jsonl").read_text().splitlines()) == len(CASES) - 2, "not without a reference"


def test_other_questions_are_refused(runs, tmp_path: Path) -> None:
    run, restated = runs
    with pytest.raises(UserError, match="answered no question that --ask wrote"):
        routed(run, run)
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace("own is right", "another one"))
    with pytest.raises(UserError, match=r"train\.jsonl:1: not the question"):
        routed(run, restated)
