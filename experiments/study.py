"""What a study is, and its finished cells: one line each of `results/STUDY.jsonl`, and what they say.

    STUDY = Study(name="blur", question="Does blurring help?", arms=("sft", "blur"), settings=("clean", "small"),
                  metrics={"accuracy": "answers correct"}, cell=cell)

`cell(Cell)` trains and measures one of them and returns its figures by name. What several cells share (a base model)
it keeps in `Cell.scratch`. A new study is a module here, and its name in `STUDIES` of `experiments/__init__.py`.
"""

from __future__ import annotations

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


class Cell(NamedTuple):
    """One run of a study. scratch: a folder that all its cells share; `fresh_folder` one of its own."""

    arm: str
    setting: str
    seed: int
    scratch: Path

    def fresh_folder(self) -> Path:
        """A folder for this cell alone; what an interrupted run left in it is gone."""
        folder = self.scratch / re.sub(r"[^\w.]+", "_", f"{self.setting}_{self.arm}_{self.seed}")
        shutil.rmtree(folder, ignore_errors=True)
        return folder


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared, on what, and how a cell is run.

    name:      of the file of results
    question:  what it asks
    about:     how it is done, what settings and arms are: the module's docstring
    answer:    what the cells that are there say, in one sentence; None while there are none
    findings:  what else they say
    effect:    figure, arm and setting that the answer rests on: the arm's difference from the first, or interaction
    arms:      what is compared; the first is the baseline of the paired differences
    combined:  arm -> the two arms that it puts together; their interaction is in the first of the metrics
    settings:  under which circumstances
    metrics:   figure -> how tables and axes call it; those named in `percent` are shares
    cell:      runs one cell; figures that are not in `metrics` are kept, not shown
    seeds:     0 to seeds - 1
    needs:     what the machine must have that a laptop has not
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
    combined: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    seeds: int = 5
    percent: Sequence[str] = ()
    setting_label: str = "setting"
    needs: str = ""
    jobs: int | None = None


@dataclass(frozen=True)
class Result:
    """A finished cell, as its line holds it. seconds: of one core; 0 where the run of another cell served this one."""

    arm: str
    setting: str
    seed: int
    figures: dict[str, float]
    seconds: float
    versions: dict[str, str]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.arm, self.setting, self.seed


def cells_path(study: Study) -> Path:
    """The file of its cells."""
    return RESULTS / f"{study.name}.jsonl"


def figure_path(study: Study) -> Path:
    """The picture of its cells."""
    return RESULTS / f"{study.name}.png"


def keep(study: Study, result: Result) -> None:
    """Add a finished cell to the file: one write of one line, which another process cannot cut in two."""
    path = cells_path(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_cells(study: Study) -> list[Result]:
    """All finished cells of a study that it still has; none without a file.

    Raises:
        UserError: a line that is not a cell, or a cell that another line has.
    """
    path, found = cells_path(study), {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a cell: {line[:80]!r}") from error
        if result.key in found:
            raise UserError(f"{path}:{number}: {result.setting}, {result.arm}, seed {result.seed} a second time")
        found[result.key] = result
    return [result for result in found.values() if result.arm in study.arms and result.setting in study.settings]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t); NaN for the width of a single value."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return statistics.fmean(values), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def values_of(cells: Sequence[Result], arm: str, setting: str, metric: str) -> dict[int, float]:
    """The figure by seed."""
    return {c.seed: c.figures[metric] for c in cells if (c.arm, c.setting) == (arm, setting) and metric in c.figures}


def paired(
    study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str
) -> tuple[tuple[float, float], int]:
    """Mean difference from the first arm with half its interval, over the seeds that both have; how many these are."""
    return _contrast(cells, [(1, arm), (-1, study.arms[0])], setting, metric)


def interaction(
    study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str
) -> tuple[tuple[float, float], int]:
    """How much more two methods do together than the sum of what each does alone, like `paired`."""
    one, other = study.combined[arm]
    return _contrast(cells, [(1, arm), (1, study.arms[0]), (-1, one), (-1, other)], setting, metric)


def _contrast(
    cells: Sequence[Result], signs: Sequence[tuple[int, str]], setting: str, metric: str
) -> tuple[tuple[float, float], int]:
    found = [(sign, values_of(cells, arm, setting, metric)) for sign, arm in signs]
    seeds = sorted(set.intersection(*(set(values) for _, values in found)))
    return interval([sum(sign * values[seed] for sign, values in found) for seed in seeds]), len(seeds)


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
