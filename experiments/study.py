"""What a study is, and its finished cells: one line each in `results/STUDY.jsonl`, and how to read them.

    STUDY = Study(name="blur", question="Does blurring help?", arms=("sft", "blur"), settings=("clean", "small"),
                  metrics={"accuracy": "answers correct"}, cell=cell)

`cell(Cell)` trains and measures one cell and returns its metrics by name. What several cells share (a base model) it
keeps in `Cell.scratch`. A new study is a module here whose name is in `STUDIES` of `experiments/__init__.py`.

The rules: a study fixes its one primary comparison (`effect`), arms, settings, seeds and learning rates before it runs.
Each line records their hash, and a line with another hash is refused. Learning rates are chosen on the validation rows
of a seed that no comparison uses. Eight seeds are the fewest with which an exact paired test can be below 0.01.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from cot_components.errors import UserError

RESULTS = Path(__file__).parent / "results"
SEEDS = 8
"""Required by the rules: the smallest p of an exact paired test is 2 / 2**8 = 0.008, with 5 seeds it is 0.06."""
SEARCH_SEED = 100
"""Learning rates are chosen on this seed, which no comparison uses."""


class Cell(NamedTuple):
    """One run of a study. scratch: a folder that all cells share; `fresh_folder` is the cell's own. rate: the learning
    rate, for an arm of `Study.rates`.
    """

    arm: str
    setting: str
    seed: int
    scratch: Path
    rate: float | None = None

    def fresh_folder(self) -> Path:
        """A folder for this cell alone; removes what an interrupted run left in it."""
        folder = self.scratch / re.sub(
            r"[^\w.]+", "_", f"{self.setting}_{self.arm}_{self.seed}{f'_{self.rate}' * (self.rate is not None)}"
        )
        shutil.rmtree(folder, ignore_errors=True)
        return folder


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared, on what, and how a cell is run.

    name:      of the results file
    question:  what it asks
    about:     how it is done, what settings and arms are: the module's docstring
    answer:    what the finished cells show, in one sentence; None while there are none
    findings:  what else they show
    effect:    the primary comparison, on which the answer rests: metric, arm and setting; the arm's difference from the
               first, or its interaction
    model:     what was trained, for the first table
    rates:     arm -> learning rates; each setting takes the one with the lowest `chosen_by` on `SEARCH_SEED`
    chosen_by: a metric of validation rows, lower is better
    arrives:   metric -> the value from which a run succeeds, where runs either succeed or fail: tables count them
    arms:      what is compared; the first is the baseline of the paired differences
    combined:  arm -> the two arms that it combines; their interaction is shown for the first metric
    settings:  the conditions under which arms are compared
    metrics:   metric -> its label in tables and on axes; those named in `percent` are shares
    cell:      runs one cell; metrics that are not in `metrics` are kept, not shown
    seeds:     0 to seeds - 1
    against:   a metric that the figure plots the differences against, one dot per seed, instead of the settings
    needs:     what the study needs to run beyond an idle laptop
    jobs:      cells at a time; None for one per core
    """

    name: str
    question: str
    arms: Sequence[str]
    settings: Sequence[str]
    metrics: Mapping[str, str]
    cell: Callable[[Cell], Mapping[str, float]]
    about: str | None = None
    answer: str | None = None
    findings: str = ""
    effect: tuple[str, str, str] | None = None
    model: str = ""
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen_by: str = "val_loss"
    arrives: Mapping[str, float] = field(default_factory=dict)
    combined: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    seeds: int = 5
    percent: Sequence[str] = ()
    setting_label: str = "setting"
    against: str | None = None
    needs: str = ""
    jobs: int | None = None

    @property
    def rules(self) -> str:
        """Hash of what is fixed before a study runs: primary comparison, arms, settings, seeds, learning rates."""
        fixed = [self.effect, self.arms, self.settings, self.seeds, self.rates, self.chosen_by if self.rates else None]
        return hashlib.blake2b(json.dumps(fixed, sort_keys=True, default=list).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Result:
    """A finished cell, as its line stores it. seconds: of one core; 0 if the run of another cell was reused.
    rules: see `Study.rules`; None for lines from before the rules. rate: the learning rate of `Cell`.
    """

    arm: str
    setting: str
    seed: int
    figures: dict[str, float]
    seconds: float
    versions: dict[str, str]
    rules: str | None = None
    rate: float | None = None

    @property
    def key(self) -> tuple[str, str, int, float | None]:
        """Unique for each line; the rate is part of it only during a search."""
        return self.arm, self.setting, self.seed, self.rate if self.seed == SEARCH_SEED else None


def cells_path(study: Study) -> Path:
    """The file of its cells."""
    return RESULTS / f"{study.name}.jsonl"


def figure_path(study: Study) -> Path:
    """The figure of its cells."""
    return RESULTS / f"{study.name}.png"


def keep(study: Study, result: Result) -> None:
    """Append a finished cell to the file in a single write, which another process cannot split."""
    path = cells_path(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_cells(study: Study) -> list[Result]:
    """All finished cells that still belong to a study; none without a file.

    Raises:
        UserError: a line that is not a cell, a duplicate cell, or one that was run under other rules.
    """
    return [result for result in _read_lines(study) if result.seed != SEARCH_SEED]


def read_searches(study: Study) -> list[Result]:
    """The cells of the learning-rate search. Raises as `read_cells` does."""
    return [result for result in _read_lines(study) if result.seed == SEARCH_SEED]


def chosen_rate(study: Study, arm: str, setting: str) -> float | None:
    """The learning rate of an arm in a setting; None for an arm without a grid.

    Raises:
        UserError: part of the grid has not run.
    """
    if arm not in study.rates:
        return None
    found = {r.rate: r.figures[study.chosen_by] for r in read_searches(study) if (r.arm, r.setting) == (arm, setting)}
    if missing := [rate for rate in study.rates[arm] if rate not in found]:
        raise UserError(f"{cells_path(study)}: {setting}, {arm}: no cell for the learning rate {missing[0]}")
    return min(found, key=lambda rate: math.inf if math.isnan(found[rate]) else found[rate])


def _read_lines(study: Study) -> list[Result]:
    path, found = cells_path(study), {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a cell: {line[:80]!r}") from error
        if result.key in found:
            raise UserError(f"{path}:{number}: duplicate of {result.setting}, {result.arm}, seed {result.seed}")
        if result.rules not in (None, study.rules):
            raise UserError(
                f"{path}:{number}: run under the rules {result.rules}, the study's are {study.rules}: its primary "
                "comparison, arms, settings, seeds or learning rates have changed; restore them, or delete the line"
            )
        found[result.key] = result
    return [result for result in found.values() if result.arm in study.arms and result.setting in study.settings]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t); NaN for the width of a single value."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return statistics.fmean(values), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def values_of(cells: Sequence[Result], arm: str, setting: str, metric: str) -> dict[int, float]:
    """The values of a metric by seed."""
    return {c.seed: c.figures[metric] for c in cells if (c.arm, c.setting) == (arm, setting) and metric in c.figures}


def is_clear(difference: tuple[float, float]) -> bool:
    """Whether the interval excludes zero; that of one seed never does."""
    mean, width = difference
    return not math.isnan(width) and abs(mean) > width


def spell(study: Study, metric: str, figure: tuple[float, float], *, sign: bool = False) -> str:
    mean, width = (100 * value if metric in study.percent else value for value in figure)
    unit = " %" if metric in study.percent else ""
    digits = ".1f" if metric in study.percent else ".3f"
    around = "" if math.isnan(width) else f" +- {width:{digits}}"
    return f"{mean:{'+' if sign else ''}{digits}}{around}{unit}"


def standing(study: Study) -> str:
    """Whether a study follows the rules, in a line. Raises UserError for lines of other rules, as `read_cells` does."""
    cells = read_cells(study)
    early = sum(cell.rules is None for cell in cells)
    lacks = ["a primary comparison"] * (study.effect is None) + ["8 seeds"] * (study.seeds < SEEDS)
    told = f"{study.name}: {len(cells)} cells, {early} of them before the rules; rules {study.rules}"
    return f"{told}; lacks {' and '.join(lacks)}" if lacks else told
