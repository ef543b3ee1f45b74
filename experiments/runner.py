"""Arms x settings x seeds, one JSON file per finished cell: a study may be stopped at any time and goes on.

    STUDY = Study("name", arms=("sft", "rft"), settings=("1", "8"), metrics={"accuracy": "answers correct"}, cell=cell)

`cell(Cell)` trains and measures one of them and returns its figures by name. What several cells share (a base model)
it keeps in `Cell.scratch`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cot_components.errors import UserError
from cot_components.training.setup import versions

RESULTS = Path(__file__).parent / "results"
SCRATCH = Path("runs") / "experiments"
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; beyond, 1.96 plus a little."""


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

    name:      of the folder of results
    question:  what it asks
    answer:    what the cells that are there say, in one sentence; None while there are none
    findings:  what else they say
    effect:    figure, arm and setting of the difference from the first arm that the answer rests on
    arms:      what is compared; the first is the baseline of the paired differences
    settings:  under which circumstances
    metrics:   figure -> how tables and axes call it; those named in `percent` are shares
    cell:      runs one cell; figures that are not in `metrics` are kept, not shown
    seeds:     0 to seeds - 1
    needs:     what the machine must have that a laptop has not
    """

    name: str
    question: str
    arms: Sequence[str]
    settings: Sequence[str]
    metrics: Mapping[str, str]
    cell: Callable[[Cell], Mapping[str, float]]
    answer: str | None = None
    findings: str = ""
    effect: tuple[str, str, str] | None = None
    seeds: int = 5
    percent: Sequence[str] = ()
    setting_label: str = "setting"
    needs: str = ""


@dataclass(frozen=True)
class Result:
    """A finished cell, as its file holds it."""

    arm: str
    setting: str
    seed: int
    figures: dict[str, float]
    seconds: float
    versions: dict[str, str]


def path_of(study: Study, arm: str, setting: str, seed: int) -> Path:
    """The file of a cell."""
    return RESULTS / study.name / f"{setting}__{arm}__{seed}.json".replace(" ", "_").replace("/", "_")


def run(study: Study, *, seeds: int | None = None, jobs: int = 1) -> None:
    """Run every cell that has no file yet, `jobs` at a time; seed by seed, so that what is there can be compared.

    The arms of a setting and seed run one after another: what they share in `Cell.scratch` is made once.
    """
    scratch = SCRATCH / study.name
    scratch.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        groups = [
            pool.submit(_run_group, study, setting, seed, scratch)
            for seed in range(study.seeds if seeds is None else seeds)
            for setting in study.settings
        ]
        try:
            for group in groups:
                group.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_group(study: Study, setting: str, seed: int, scratch: Path) -> None:
    for arm in study.arms:
        path = path_of(study, arm, setting, seed)
        if path.exists():
            continue
        started = time.perf_counter()
        figures = dict(study.cell(Cell(arm, setting, seed, scratch)))
        seconds = round(time.perf_counter() - started, 1)
        _write(path, asdict(Result(arm, setting, seed, figures, seconds, versions())))
        print(f"{setting} {arm} seed {seed}: {figures} ({seconds} s)", flush=True)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def has_cells(study: Study) -> bool:
    """Whether any of its cells is finished."""
    return any((RESULTS / study.name).glob("*.json"))


def read_cells(study: Study) -> list[Result]:
    """All finished cells of a study that it still has.

    Raises:
        UserError: there are none.
    """
    found = [Result(**json.loads(p.read_text())) for p in sorted((RESULTS / study.name).glob("*.json"))]
    found = [result for result in found if result.arm in study.arms and result.setting in study.settings]
    if not found:
        raise UserError(f"{RESULTS / study.name} holds no finished cell of {study.name}")
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t); NaN for the width of a single value."""
    n = len(values)
    if n < 2:
        return (values[0] if values else math.nan), math.nan
    t = T_975[n - 2] if n - 2 < len(T_975) else 1.96 + 2.5 / (n - 1)
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(n)


def values_of(cells: Sequence[Result], arm: str, setting: str, metric: str) -> dict[int, float]:
    """The figure by seed."""
    return {c.seed: c.figures[metric] for c in cells if (c.arm, c.setting) == (arm, setting) and metric in c.figures}


def table(study: Study, cells: Sequence[Result]) -> str:
    """Mean and 95 % interval of every figure, and the paired difference from the first arm, seed by seed."""
    lines = []
    for setting in study.settings:
        for metric, label in study.metrics.items():
            lines.append(f"\n{study.setting_label} {setting}: {label}")
            base = values_of(cells, study.arms[0], setting, metric)
            for arm in study.arms:
                found = values_of(cells, arm, setting, metric)
                if not found:
                    continue
                line = f"  {arm:18}{spell(study, metric, interval(list(found.values()))):24} {len(found)} seeds"
                shared = sorted(set(found) & set(base))
                if arm != study.arms[0] and shared:
                    difference = interval([found[seed] - base[seed] for seed in shared])
                    line += f"   {spell(study, metric, difference, sign=True)} against {study.arms[0]}"
                lines.append(line)
    return "\n".join(lines).strip("\n")


def spell(study: Study, metric: str, figure: tuple[float, float], *, sign: bool = False) -> str:
    mean, width = (100 * value if metric in study.percent else value for value in figure)
    unit = " %" if metric in study.percent else ""
    digits = ".1f" if metric in study.percent else ".3f"
    around = "" if math.isnan(width) else f" +- {width:{digits}}"
    return f"{mean:{'+' if sign else ''}{digits}}{around}{unit}"


def draw(study: Study, cells: Sequence[Result]) -> Path:
    """One panel per figure: means with their intervals, arms side by side. Returns the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(study.metrics), 2)
    rows = math.ceil(len(study.metrics) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    panels = list(grid.flat)
    for unused in panels[len(study.metrics) :]:
        unused.axis("off")
    for panel, (metric, label) in zip(panels, study.metrics.items(), strict=False):
        scale = 100 if metric in study.percent else 1
        for number, arm in enumerate(study.arms):
            found = [interval(list(values_of(cells, arm, setting, metric).values())) for setting in study.settings]
            offset = (number - (len(study.arms) - 1) / 2) * 0.6 / len(study.arms)
            places = [place + offset for place in range(len(study.settings))]
            means, widths = zip(*found, strict=True)
            panel.errorbar(
                places,
                [scale * mean for mean in means],
                yerr=[0 if math.isnan(width) else scale * width for width in widths],
                fmt="o",
                capsize=3,
                label=arm,
            )
        panel.set_xticks(range(len(study.settings)), [name.replace(", ", ",\n") for name in study.settings])
        panel.set_xlabel(study.setting_label)
        panel.set_ylabel(f"{label}, %" if metric in study.percent else label)
        panel.grid(axis="y", alpha=0.3)
        if metric in study.percent:
            low, high = panel.get_ylim()
            panel.set_ylim(max(low, -3), min(high, 103))
    if len(study.arms) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    path = RESULTS / study.name / "figure.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def recipe(name: str, config: str, *overrides: str) -> None:
    """`tune run NAME --config CONFIG OVERRIDES`, silently, on one core: figures do not depend on the machine's number.

    Forked from a process that has everything imported, which takes as long as a quarter of a small training.

    Raises:
        UserError: the run did not end well; holds the end of what it said.
    """
    with tempfile.NamedTemporaryFile() as said:
        words = ["--config", config, *overrides]
        process = _FORKS.Process(target=_main_of, args=(name, words, said.name))
        process.start()
        process.join()
        if process.exitcode:
            told = Path(said.name).read_text(errors="replace")[-2000:]
            raise UserError(f"tune run {name} {' '.join(words)} ended with {process.exitcode}: {told}")


def once(cell: Cell, words: Sequence[str], measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """What `measure` returns; for words that it has been called with before, by any cell of any study, what it did."""
    digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest()
    kept = cell.scratch.parent / "trained" / f"{digest}.json"
    if not kept.exists():
        _write(kept, measure())
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["bt_sft", "cot_eval", "torch._dynamo", "torchtune.models", "torchtune.training"])


def _main_of(name: str, words: list[str], said: str) -> None:
    import torch

    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = [name, *words]
    importlib.import_module(name).main()
