"""What studies share: rows nobody has met, what is measured of calls, tasks without a signal, a picture of dots."""

import json
from pathlib import Path

import pytest
from commands import ROOT, must, run
from matplotlib.figure import Figure

from cot_components.data.generated.tasks import make_problems
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from experiments import runner, show
from experiments import study as studies
from experiments.measures import calls
from experiments.real import need_signal
from experiments.starts import unseen
from experiments.study import Cell, Study, read_cells


def rows_of(cell: Cell, count: int, *styles: str) -> list[dict[str, str]]:
    source = unseen(cell, count, *styles)[0].removeprefix("dataset.source=")
    return [json.loads(line) for line in Path(source).read_text().splitlines()]


def test_unseen_rows_are_new_with_every_seed_and_never_held_out(tmp_path) -> None:
    first, again, other = (rows_of(Cell("a", "s", seed, tmp_path / "study"), 80, "plain") for seed in (0, 0, 1))
    assert first == again != other and len(first) == len(other) == 80
    held_out = {problem.question for problem in make_problems(split="held_out", count=240)}
    met = {problem.question for problem in make_problems(split="train", count=80)}
    asked = {row["prompt"] for row in first}
    assert not asked & held_out and len(asked & met) < 8 and len(asked) == 80


def test_styles_have_equal_shares(tmp_path) -> None:
    cell = Cell("a", "s", 3, tmp_path / "study")
    both, mistaken = rows_of(cell, 40, "mistaken", "plain"), rows_of(cell, 20, "mistaken")
    plain = make_problems(split="train", count=20, seed=2003)
    assert both == [*mistaken, *({"prompt": p.question, "completion": p.response} for p in plain)]


def test_calls_that_can_be_read_and_right_ones_among_them() -> None:
    def example(extracted: str | None, correct: bool) -> Example:
        return Example("x", 0, (), "", extracted, "call", correct, None, None)

    found = calls(Evaluation((example("call", True), example("other", False), example(None, False))))
    assert found == {"readable": pytest.approx(2 / 3), "right_if_readable": 0.5}
    assert calls(Evaluation((example(None, False),))) == {"readable": 0.0}


@pytest.mark.parametrize(
    ("accuracy", "told"), [(None, "make evidence STUDY=toy"), (0.05, "no signal: 5 %"), (0.9, "90 %"), (0.3, None)]
)
def test_a_task_at_a_floor_or_a_ceiling_is_refused(accuracy, told, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runner, "SCRATCH", tmp_path / "scratch")
    screened = toy(lambda cell: {"accuracy": accuracy})
    if accuracy is not None:
        runner.run(screened)
    if told is None:
        need_signal(screened, "1", "new")
    else:
        with pytest.raises(UserError, match=told):
            need_signal(screened, "1", "new")


def toy(cell) -> Study:
    return Study(
        name="toy",
        question="?",
        arms=("old", "new"),
        settings=("1",),
        metrics={"accuracy": "correct", "where": "where it was"},
        against="where",
        cell=cell,
        seeds=3,
    )


def test_dots_lie_where_the_model_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runner, "SCRATCH", tmp_path / "scratch")
    seen: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: seen.append(figure))
    one = toy(lambda cell: {"accuracy": cell.seed * (cell.arm == "new"), "where": cell.seed / 10})
    runner.run(one)
    show.draw(one, read_cells(one))
    (axes,) = seen[0].axes
    dots = [line for line in axes.lines if line.get_label() == "1"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in dots] == [([0.0, 0.1, 0.2], [0, 1, 2])]
    assert axes.get_xlabel() == "where it was"


def test_the_larger_grid_is_one_command() -> None:
    told = must(run("make", "-n", "evidence", "STUDY=targets_real", "SIZE=gpu", cwd=ROOT))
    assert "-m experiments targets_real_gpu" in told
    assert "-m experiments blur\n" in must(run("make", "-n", "evidence", "STUDY=blur", cwd=ROOT))
