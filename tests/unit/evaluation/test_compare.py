"""Runs side by side, or one before and after: tables, differences on the same examples, one picture."""

import dataclasses
import json
import re

import pytest
from evaluations import evaluation_of

from cot_components.cli.main import main
from cot_components.errors import UserError
from cot_components.evaluation.compare import accuracy_difference, last_evaluation
from cot_components.evaluation.saved import read_evaluation
from cot_components.evaluation.statistics import paired_difference


def write_run(folder, **evaluations):
    folder.mkdir()
    records = [{"step": step, "loss_answer": 1.0 / (step + 1)} for step in range(12)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, saved in evaluations.items():
        saved.save(folder / "evaluations" / f"{name}.json")
    return folder


@pytest.fixture(name="compare")
def _compare(capsys):
    def compare(*words, code=0):
        assert main(["compare", *map(str, words)]) == code
        printed = capsys.readouterr()
        return printed.err if code else [line.split() for line in printed.out.splitlines()]

    return compare


def test_the_last_evaluation_is_the_one_of_the_highest_step(tmp_path):
    steps = {f"step_{step}": evaluation_of("r", thought_tokens=step) for step in (0, 10, 9)}
    assert last_evaluation(write_run(tmp_path / "a", **steps)).thought_tokens == 10
    with pytest.raises(UserError, match="has no evaluation"):
        last_evaluation(write_run(tmp_path / "b"))


def test_differences_are_of_the_examples_that_both_answered():
    """Without references, and prompts that only one has, count for neither; several samples are a share."""
    found = accuracy_difference(evaluation_of("rwwr-r"), evaluation_of("rrwww"))
    assert found == paired_difference([1, 0, 0, 1], [1, 1, 0, 0]) and (found.value, found.num_examples) == (0, 4)
    shares = accuracy_difference(evaluation_of("rw"), evaluation_of("rrrw", num_samples=2))
    assert shares == paired_difference([1, 0], [1, 0.5])
    assert accuracy_difference(evaluation_of("r"), evaluation_of("r", where="y:0")) is None
    assert accuracy_difference(evaluation_of("r"), evaluation_of("r", reference="b")) is None


def test_runs_are_columns_with_their_differences_from_the_first(tmp_path, compare):
    run = write_run(tmp_path / "sft", step_5=evaluation_of("rrww" * 20))
    other = write_run(tmp_path / "target", step_5=evaluation_of("rrrw" * 20, cut=True))
    unfinished = write_run(tmp_path / "new")
    printed = compare(run, other, unfinished)
    assert printed[0] == ["sft", "target"]
    rows = {" ".join(words[:2]): words for words in printed}
    assert rows["answers correct"][2:4] == ["50.0", "%"] and "75.0" in rows["answers correct"]
    assert rows["cut by"][3:] == ["-", "100.0", "%"]
    expected = paired_difference([1, 1, 0, 0] * 20, [1, 1, 1, 0] * 20)
    low, high = (f"{100 * bound:+.1f}" for bound in (expected.low, expected.high))
    assert rows["difference from"][2:] == ["sft", "-", "+25.0", low, "to", high]
    said = "\n".join(" ".join(words) for words in printed)
    assert "over the 80 examples that both answered" in said and "new: no evaluation yet" in said
    assert "held-out" not in said and (unfinished / "comparison.png").is_file()


def test_one_run_is_before_and_after(tmp_path, compare):
    run = write_run(tmp_path / "run", step_0=evaluation_of("w"), step_5=evaluation_of("r"), step_9=evaluation_of("r"))
    printed = compare(run, "--out", tmp_path / "x.svg")
    assert printed[0] == ["before", "step", "9"] and (tmp_path / "x.svg").is_file() and not list(run.glob("*.png"))
    (run / "log.jsonl").unlink()
    assert compare(run) == printed[:-1], "evaluations alone"
    evaluation_of("r").save(tmp_path / "answered" / "evaluation.json")  # by cot_eval
    assert compare(tmp_path / "answered")[0] == ["evaluation"]


def test_errors_are_sentences(tmp_path, compare, capsys):
    run = write_run(tmp_path / "c", step_0=evaluation_of("w"))
    assert "nowhere holds no log, evaluation or report" in compare(run, tmp_path / "nowhere", code=2)
    (run / "log.jsonl").write_text('{"step": 0, "lr": 0.1}\n')
    assert "nothing to plot yet" in compare(run, "--out", tmp_path / "x.png", code=2)
    with pytest.raises(SystemExit):
        main(["comapre", str(run)])
    assert "did you mean 'compare'" in capsys.readouterr().err


def test_runs_with_several_budgets_are_drawn_over_their_thoughts(tmp_path, compare):
    """One line per model; the order of the runs is no matter, and a run without thoughts is left out."""
    folders = []
    for model, budget, right, tokens in (
        ("sft", None, "rrrr", 40),
        ("sft", 8, "rwww", 8),
        ("sft", 16, "rrww", 16),
        ("truncated", 16, "rrrw", 15),
    ):
        folders.append(tmp_path / f"{model}_{budget}")
        made = dataclasses.replace(evaluation_of(right, thought_tokens=tokens), max_thought_tokens=budget)
        assert read_evaluation(made.save(folders[-1] / "evaluation.json")) == made
        node = {"max_thought_tokens": budget, "source": "generated"}
        config = {"output_dir": str(folders[-1]), "model": {"path": model}, "evaluation": node}
        (folders[-1] / "config.yaml").write_text(json.dumps(config))
    printed = compare(*folders, "--out", tmp_path / "x.svg")
    assert [words for words in printed if words[:2] == ["thought,", "at"]] == [
        ["thought,", "at", "most", "-", "8", "16", "16"]
    ]
    picture = (tmp_path / "x.svg").read_text()
    texts = re.findall(r">([^<>\n]+)</text>", picture)
    assert {"sft", "truncated_16", "none", "8", "16", "bars: 95 % intervals"} <= {t.rpartition("; ")[2] for t in texts}
    assert texts.count("16") == 2 and not {"sft_8", "sft_None"} & set(texts)
    for folder in folders:
        evaluation_of("rr", thought_tokens=None).save(folder / "evaluation.json")
    assert not [words for words in compare(*folders) if words[0] == "curves"], "no budget, nothing new"
    dataclasses.replace(evaluation_of("rr", thought_tokens=None), max_thought_tokens=4).save(folder / "evaluation.json")
    assert "no evaluation has both" in compare(*folders, code=2)
