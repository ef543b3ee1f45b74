"""The runner of studies: every cell once, the table by hand, a figure from the files."""

import json
import math
import statistics
import threading
from dataclasses import replace

import pytest
from scipy import stats

import experiments
from cot_components.cli.shipped import recipe_for
from cot_components.errors import UserError
from cot_components.training.recipe import read_config
from experiments import runner
from experiments import study as studies
from experiments.__main__ import main
from experiments.comparisons import exact_p, interaction, logit
from experiments.readme import NOT_RUN, README, load, overview, readme, section
from experiments.show import table
from experiments.study import (
    SEARCH_SEED,
    Cell,
    Study,
    cells_path,
    chosen_rate,
    figure_path,
    interval,
    read_cells,
    read_searches,
)


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runner, "SCRATCH", tmp_path / "scratch")
    return tmp_path


def study(called: list[Cell], stop_after: int = 10**6) -> Study:
    def cell(cell: Cell) -> dict[str, float]:
        if len(called) >= stop_after:
            raise KeyboardInterrupt
        called.append(cell)
        assert cell.scratch.is_dir()
        accuracy = 0.5 + 0.1 * (cell.arm == "new") + 0.01 * cell.seed
        return {"accuracy": accuracy, "loss": float(cell.setting), "kept": 1.0}

    return Study(
        name="toy",
        question="Is new better?",
        arms=("old", "new"),
        settings=("1", "2"),
        metrics={"accuracy": "correct", "loss": "loss"},
        percent=("accuracy",),
        cell=cell,
        seeds=3,
    )


def test_a_stopped_study_goes_on_and_runs_no_cell_twice() -> None:
    called: list[Cell] = []
    with pytest.raises(KeyboardInterrupt):
        runner.run(study(called, stop_after=5))
    assert [(c.seed, c.setting, c.arm) for c in called[:3]] == [(0, "1", "old"), (0, "1", "new"), (0, "2", "old")]
    for seeds, cells in ((None, 12), (3, 12), (4, 16)):
        runner.run(study(called), seeds=seeds)
        assert len(called) == len({c[:3] for c in called}) == len(read_cells(study([]))) == cells


def test_two_at_a_time_but_never_two_arms_of_one_setting_and_seed() -> None:
    together = threading.Barrier(2, timeout=60)
    now: list[tuple[str, int]] = []

    def cell(cell: Cell) -> dict[str, float]:
        group = (cell.setting, cell.seed)
        assert group not in now
        now.append(group)
        together.wait()
        assert len(set(now)) == 2
        together.wait()
        now.remove(group)
        together.wait()
        return {"accuracy": 0.0}

    runner.run(replace(study([]), cell=cell), jobs=2)
    assert len(read_cells(study([]))) == 12


def test_table_and_intervals() -> None:
    toy = study([])
    assert read_cells(toy) == []
    runner.run(toy)
    cells = read_cells(toy)
    lines = table(toy, cells).splitlines()
    assert lines[0] == "setting 1: correct"
    width = 100 * 4.303 * statistics.stdev([0.5, 0.51, 0.52]) / math.sqrt(3)
    assert f"51.0 +- {width:.1f} %" in lines[1] and "3 seeds" in lines[1]
    assert lines[2].endswith("+10.0 +- 0.0 % against old")
    values = [0.3, 0.1, 0.35, 0.2] * 10
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval(values) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert math.isnan(interval([2.0])[1])


def test_a_cell_is_one_line() -> None:
    toy = study([])
    runner.run(toy, seeds=1)
    path = cells_path(toy)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    path.write_text("\n".join([*lines, lines[2]]))
    with pytest.raises(UserError, match=r"toy\.jsonl:5"):
        read_cells(toy)
    path.write_text(lines[0] + "\n" + lines[1][:20])
    with pytest.raises(UserError, match=r"toy\.jsonl:2"):
        read_cells(toy)


def test_every_study_has_arms_settings_and_a_cell() -> None:
    found = {name: load(name) for name in experiments.STUDIES}
    assert "highlight" in found
    for name, study in found.items():
        metric, arm, setting = study.effect
        assert metric in study.metrics and arm in study.arms[1:] and setting in study.settings
        assert study.answer is None or (study.answer.endswith(".") and ". " not in study.answer), "one sentence"
        assert study.name == name and set(study.percent) <= set(study.metrics)


def test_a_section_says_what_was_found(monkeypatch) -> None:
    toy = study([])
    assert "`make evidence STUDY=toy`: not run yet" in section(toy)
    assert "needs a GPU" in section(replace(toy, needs="a GPU"))
    told = replace(toy, answer="It is.", findings="By a tenth.", effect=("accuracy", "new", "2"))
    runner.run(told)
    lines = section(told).splitlines()
    assert lines[0] == "## Is new better?" and "12 cells, 3 seeds, 0.0 hours" in lines[2]
    assert lines[4] == "**It is.**" and lines[8] == "By a tenth."
    assert lines[6].startswith("Primary comparison: correct: +10.0 +- 0.0 points") and "p = 0.250, n = 3" in lines[6]
    row = overview([replace(told, model="A net")]).splitlines()[2]
    assert row.startswith(
        "| Is new better? | It is. | correct: +10.0 +- 0.0 points (new against old, setting 2) | 0.250"
    )
    assert "| 0.250 | 3 | A net | `make evidence STUDY=toy`, [runs]" in row
    assert "| new | 61.0 % (**+10.0 +- 0.0**) | 61.0 % (**+10.0 +- 0.0**) |" in lines


def test_what_two_methods_do_together() -> None:
    """Beyond the sum of what each does, shares as logits: equal steps in logits do not interact at any share."""
    alone = {"old": 0.5, "a": 0.6, "b": 0.6, "a + b": 0.9 / 1.3}  # odds of 1, 3/2, 3/2 and 9/4

    def cell(cell: Cell) -> dict[str, float]:
        more = 0.9 - alone["a + b"] if (cell.setting, cell.arm) == ("2", "a + b") else 0.0
        return {"accuracy": alone[cell.arm] + more, "loss": cell.seed + (cell.arm == "a + b")}

    both = replace(
        study([]), arms=tuple(alone), combined={"a + b": ("a", "b")}, cell=cell, effect=("accuracy", "a + b", "2")
    )
    runner.run(both)
    cells = read_cells(both)
    (mean, width), seeds = interaction(both, cells, "a + b", "1", "accuracy")
    assert mean == pytest.approx(0.0, abs=0.01) and width == pytest.approx(0.0, abs=1e-9) and seeds == 3
    assert interaction(both, cells, "a + b", "2", "accuracy")[0][0] == pytest.approx(math.log(9 / 2.25), abs=0.02)
    assert interaction(both, cells, "a + b", "1", "loss")[0] == pytest.approx((1.0, 0.0))  # no share: as it is
    assert "logits (a + b beyond the sum" in overview([both])
    assert [round(logit(share), 2) for share in (0.0, 0.5, 1.0)] == [-6.18, 0.0, 6.18]


@pytest.mark.parametrize(
    ("found", "p"),
    [([1.0] * 8, 2 / 256), ([1.0] * 5, 2 / 32), ([3.0, 2.0, -1.0], 4 / 8), ([1.0, -1.0], 1.0), ([-1.0, -2.0], 2 / 4)],
)
def test_the_exact_test_by_hand(found, p):
    """Choices of signs whose sum is as far from 0: of 3, 2, 1 those with 4 or 6 among 0, 2, 4 and 6, twice each."""
    assert exact_p(found) == pytest.approx(p)
    assert math.isnan(exact_p(found[:1]))


def test_lines_of_other_rules_are_refused_and_those_from_before_stay_readable(capsys, monkeypatch) -> None:
    toy = replace(study([]), effect=("accuracy", "new", "2"))
    runner.run(toy, seeds=1)
    path = cells_path(toy)
    line = json.loads(path.read_text().splitlines()[0])
    assert line["rules"] == toy.rules and line["versions"]["cpu threads"] == "1" and line["versions"]["chip"]
    changes = {"effect": ("loss", "new", "2"), "arms": ("old", "new", "more"), "seeds": 8, "rates": {"new": [0.1]}}
    for key, value in changes.items():
        with pytest.raises(UserError, match=r"toy\.jsonl:1"):
            read_cells(replace(toy, **{key: value}))
    for key, value in {"question": "?", "findings": "f", "metrics": {"accuracy": "right"}}.items():
        assert len(read_cells(replace(toy, **{key: value}))) == 4
    monkeypatch.setattr("experiments.__main__.load", {"highlight": toy}.__getitem__)
    monkeypatch.setattr("experiments.__main__.STUDIES", ["highlight"])
    assert main(["--check"]) == 0 and "toy: 4 cells, 0 of them before the rules" in capsys.readouterr().out
    path.write_text(path.read_text().replace(toy.rules, "0" * 12, 1))
    assert main(["--check"]) == 2 and "toy.jsonl:1" in capsys.readouterr().err
    early = [
        {k: v for k, v in json.loads(text).items() if k not in ("rules", "rate")}
        for text in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(text) + "\n" for text in early))
    assert main(["--check"]) == 0 and "4 of them before the rules" in capsys.readouterr().out
    assert "1, before the rules" in overview([toy])


def test_rates_are_chosen_on_validation_rows_of_a_seed_of_their_own() -> None:
    called: list[Cell] = []

    def cell(cell: Cell) -> dict[str, float]:
        called.append(cell)
        best = {"1": 0.3, "2": 0.1}[cell.setting]
        return {"accuracy": 0.5, "loss": 0.0, "val_loss": abs((cell.rate or 0.0) - best)}

    searched = replace(study([]), cell=cell, rates={"new": (0.1, 0.3, 0.9)})
    with pytest.raises(UserError, match=r"1, new: no cell for the learning rate 0\.1"):
        chosen_rate(searched, "new", "1")
    for _ in range(2):  # the second time everything is there
        runner.run(searched)
    assert len(called) == len(set(called)) == 12 + 6 == len(read_cells(searched)) + len(read_searches(searched))
    assert {c.seed for c in called[:6]} == {SEARCH_SEED} and {c.seed for c in called[6:]} == {0, 1, 2}
    assert {(c.setting, c.arm, c.rate) for c in called[6:]} == {
        *(("1", "old", None), ("2", "old", None), ("1", "new", 0.3), ("2", "new", 0.1))
    }


def test_runs_that_arrive_are_counted() -> None:
    toy = replace(study([]), arrives={"accuracy": 0.515}, effect=("accuracy", "new", "2"))
    runner.run(toy)
    lines = section(toy).splitlines()
    assert "| new | 61.0 % (**+10.0 +- 0.0**), 3 of 3 | 61.0 % (**+10.0 +- 0.0**), 3 of 3 |" in lines
    assert any(line.startswith("| old | 51.0 +-") and line.endswith("1 of 3 |") for line in lines)


def test_what_waits_for_a_gpu_is_ready() -> None:
    """Every command is one that its recipe takes, and no two write to the same folder."""
    folders = set()
    for words in NOT_RUN.values():
        name, _, config, *overrides = words.split()
        recipe = recipe_for(config, asked=name)
        folders.add(read_config(recipe.main, ["--config", config, *overrides], recipe.supplies)["output_dir"])
    assert len(folders) == len(NOT_RUN) > 10


def test_the_page_is_that_of_the_cells_on_disk(monkeypatch) -> None:
    monkeypatch.undo()
    assert README.read_text(encoding="utf-8") == readme(), "python -m experiments"


def test_the_command(monkeypatch, capsys, place) -> None:
    monkeypatch.setattr("experiments.__main__.README", place / "README.md")
    monkeypatch.setattr("experiments.__main__.load", {"highlight": study([])}.__getitem__)
    monkeypatch.setattr("experiments.__main__.STUDIES", ["highlight"])
    assert main([]) == 0 and "not run yet" in (place / "README.md").read_text()
    assert main(["highlight", "--jobs", "2"]) == 0
    told = capsys.readouterr().out
    assert "setting 2: correct" in told and figure_path(study([])).exists()
