"""`experiments/README.md` from the cells on disk: `python -m experiments`."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from textwrap import fill

from experiments import STUDIES
from experiments.study import Result, Study, cells_path, figure_path, interval, paired, read_cells, spell, values_of

README = Path(__file__).with_name("README.md")
HEAD = """# What each method does, measured

Every table is made of one line per run (`results/STUDY.jsonl`) by `python -m experiments`; no figure is written by
hand. First row: mean and half the width of the 95 % interval over seeds (Student's t). Other rows: mean
and, in brackets, the difference from the first row over the seeds that both have, with its interval; **bold** where
that excludes zero. Where there is no difference at all, one in
twenty is bold by chance.

    make evidence STUDY=blur            # finished runs are skipped: a study can be stopped and resumed
    python -m experiments               # runs nothing: all figures and this page anew

Everything here is small: models of 0.1 to 0.3 million parameters from random weights, generated tasks, a CPU. It says
how the methods behave where everything is known, not how much they give on a large model.
"""
NOT_RUN = """## Not run

These need a GPU. Each is ready, as `tune run RECIPE --config CONFIG`:

| study | recipe and config |
|---|---|
| 4 x 4 digits from random weights (header: the paper's test file) | `icot_sft`, `icot_sft/scratch_2L4H_4x4` |
| its ablations | one each of `curriculum.smoothing=.inf`, `.reset_optimizer=false`, `.side=right`, `.per_epoch=32` |
| 5 x 5, 7 x 7, 9 x 9 digits | `icot_sft`, `icot_sft/gpt2_5x5`, `gpt2_7x7`, `gpt2_9x9` |
| the same from random weights | the same, with `checkpointer=null` |
| GSM8K with GPT-2 | `icot_sft`, `icot_sft/gpt2_gsm8k` |
| blurring on Magpie traces | `bt_sft`, `bt_sft/llama3_2_1B` |
| highlighting on real agent data | `shad`, `shad/llama3_2_3B_xlam`, then `rft`, `rft/llama3_2_3B_xlam` |
"""


def load(name: str) -> Study:
    """A study by its name on the command line."""
    study: Study = importlib.import_module(STUDIES[name]).STUDY
    return study


def readme() -> str:
    """The whole text."""
    studies = [load(name) for name in STUDIES]
    return "\n".join([HEAD, overview(studies), *map(section, studies), NOT_RUN])


def overview(studies: Sequence[Study]) -> str:
    """A line per study: its answer, the effect it rests on, its command, its log."""
    lines = ["| question | answer | effect, 95 % interval | command, log |", "|---|---|---|---|"]
    for study in studies:
        command = f"`make evidence STUDY={study.name}`"
        if cells := read_cells(study):
            log = cells_path(study).name
            told = f"{study.answer or 'No answer yet.'} | {effect(study, cells)} | {command}, [runs](results/{log})"
        else:
            told = f"{_not_run(study)} | | {command}"
        lines.append(f"| {study.question} | {told} |")
    return "\n".join(lines) + "\n"


def effect(study: Study, cells: Sequence[Result]) -> str:
    """The paired difference that the answer rests on, spelled with what it is of."""
    if study.effect is None:
        return ""
    metric, arm, setting = study.effect
    difference, seeds = paired(study, cells, arm, setting, metric)
    told = spell(study, metric, difference, sign=True).removesuffix(" %") + " points" * (metric in study.percent)
    against = f"{arm} against {study.arms[0]}, {study.setting_label} {setting}"
    return f"{study.metrics[metric]}: {told} ({against}; {seeds} seed{'s' * (seeds > 1)})"


def _not_run(study: Study) -> str:
    return f"not run{f', needs {study.needs}' if study.needs else ' yet'}."


def section(study: Study) -> str:
    """Question, answer, tables, figure and command of a study; what has no cell yet says so."""
    title = f"## {study.question}\n\n`make evidence STUDY={study.name}`"
    cells = read_cells(study)
    if not cells:
        return f"{title}: {_not_run(study)}\n"
    seeds = sorted({cell.seed for cell in cells})
    median = statistics.median(cell.seconds for cell in cells)
    facts = f"{len(cells)} runs, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {median:.0f} s of one core in the median"
    tables = [_table(study, cells, metric) for metric in study.metrics]
    figure = f"![{study.question}](results/{figure_path(study).name})\n"
    told = [f"{title} ({facts})\n", f"**{study.answer or 'No answer yet.'}**\n"]
    if study.about:
        told.insert(1, f"{cleandoc(study.about)}\n")
    if study.findings:
        told.append(f"{fill(study.findings, 120)}\n")
    return "\n".join([*told, *tables, figure])


def _table(study: Study, cells: Sequence[Result], metric: str) -> str:
    """Arms by settings."""
    lines = [
        f"| {study.metrics[metric]}, by {study.setting_label} | " + " | ".join(study.settings) + " |",
        "|---|" + "---|" * len(study.settings),
    ]
    for arm in study.arms:
        shown = [_entry(study, cells, arm, setting, metric) for setting in study.settings]
        lines.append(f"| {arm} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _entry(study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str) -> str:
    """The first arm's mean; of the others also the difference from it, seed by seed."""
    found = values_of(cells, arm, setting, metric)
    if not found:
        return ""
    mean, width = interval(list(found.values()))
    if arm == study.arms[0]:
        return spell(study, metric, (mean, width))
    difference, _ = paired(study, cells, arm, setting, metric)
    told = spell(study, metric, difference, sign=True).removesuffix(" %")
    clear = not math.isnan(difference[1]) and abs(difference[0]) > difference[1]
    return f"{spell(study, metric, (mean, math.nan))} ({f'**{told}**' if clear else told})"
