"""`experiments/README.md` from the cells on disk: `python -m experiments`."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import cleandoc
from pathlib import Path
from textwrap import fill

from experiments import STUDIES
from experiments.study import (
    Result,
    Study,
    cells_path,
    figure_path,
    interaction,
    interval,
    is_clear,
    paired,
    read_cells,
    spell,
    values_of,
)

README = Path(__file__).with_name("README.md")
HEAD = """# What each method does, measured

Tables, effects and figures come from `results/STUDY.jsonl`, one line per cell: an arm in a setting with a seed; answers
and findings are written from them. First row: mean and half the width of the 95 % interval over seeds (Student's t).
Other rows: mean and, in brackets, the difference from the first row over the seeds that both have, with its interval;
**bold** where that excludes zero. Where there is no difference at all, one in twenty is bold by chance. Differences are
what the figures show; an interval may reach beyond 0 or 100 %, values cannot. Each line names the versions it ran with;
the arms of a setting and seed ran on the same code, seeds not always: sums that are rounded differently, or another
stream of dropout, end a single run elsewhere.

    make evidence STUDY=blur            # runs what is missing; delete a line, or results/blur.jsonl, to measure again
    python -m experiments               # runs nothing: makes all figures and this page again

Everything here is small: models of 0.1 to 0.3 million parameters from random weights, generated tasks, a CPU. It says
how the methods behave where everything is known, not how much they give on a large model.
"""
_FOUR_DIGITS = "icot_sft --config icot_sft/scratch_2L4H_4x4"
NOT_RUN = {
    "4 x 4 digits from random weights (header: the paper's test file)": _FOUR_DIGITS,
    "the same, no smoothing": f"{_FOUR_DIGITS} curriculum.smoothing=.inf output_dir=runs/4x4_no_smoothing",
    "the same, no reset": f"{_FOUR_DIGITS} curriculum.reset_optimizer=false output_dir=runs/4x4_no_reset",
    "the same, right side": f"{_FOUR_DIGITS} curriculum.side=right output_dir=runs/4x4_right_side",
    "the same, four times faster": f"{_FOUR_DIGITS} curriculum.per_epoch=32 output_dir=runs/4x4_faster",
    "the same, explicit, for its speed": f"{_FOUR_DIGITS} curriculum.per_epoch=0 curriculum.partial=true "
    "output_dir=runs/4x4_explicit",
    "5 x 5 digits": "icot_sft --config icot_sft/gpt2_5x5",
    "7 x 7 digits": "icot_sft --config icot_sft/gpt2_7x7",
    "9 x 9 digits": "icot_sft --config icot_sft/gpt2_9x9",
    "9 x 9 digits from random weights": "icot_sft --config icot_sft/gpt2_9x9 "
    "model=cot_components.models.gpt2_small ~model.path tokenizer.path=models/gpt2 "
    "output_dir=runs/9x9_from_random",
    "GSM8K with GPT-2": "icot_sft --config icot_sft/gpt2_gsm8k",
    "blurring on Magpie traces": "bt_sft --config bt_sft/llama3_2_1B",
    "highlighting on real agent data: scores": "shad --config shad/llama3_2_3B_xlam",
    "highlighting on real agent data: training": "rft --config rft/llama3_2_3B_xlam",
}
"""What waits for a GPU -> its words behind `tune run`."""


def load(name: str) -> Study:
    """A study by its name on the command line."""
    study: Study = importlib.import_module(STUDIES[name]).STUDY
    return study


def readme() -> str:
    """The whole text."""
    studies = [load(name) for name in STUDIES]
    return "\n".join([HEAD, overview(studies), *map(section, studies), not_run()])


def not_run() -> str:
    """What waits for a GPU, with its commands."""
    said = "These need a GPU and, but for 4 x 4 digits, what the config's header says to download.\n"
    rows = [f"| {what} | `tune run {words}` |" for what, words in NOT_RUN.items()]
    return "\n".join(["## Not run\n", said, "| study | command |", "|---|---|", *rows]) + "\n"


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
    contrast = interaction if arm in study.combined else paired
    difference, seeds = contrast(study, cells, arm, setting, metric)
    told = spell(study, metric, difference, sign=True).removesuffix(" %") + " points" * (metric in study.percent)
    against = f"{arm} against {study.arms[0]}" if arm not in study.combined else f"{arm} beyond the sum of the two"
    against += f", {study.setting_label} {setting}"
    return f"{study.metrics[metric]}: {told} ({against}; {seeds} seed{'s' * (seeds > 1)})"


def _not_run(study: Study) -> str:
    return f"not run{f', needs {study.needs}' if study.needs else ' yet'}."


def section(study: Study, *, tables: int | None = None, picture: bool = True) -> str:
    """Question, answer, so many tables (all by default), figure and command of a study; what has no cell says so."""
    title = f"## {study.question}\n\n`make evidence STUDY={study.name}`"
    cells = read_cells(study)
    about = [f"{cleandoc(study.about)}\n"] if study.about else []
    if not cells:
        return "\n".join([f"{title}: {_not_run(study)}\n", *about])
    counts = Counter((cell.arm, cell.setting) for cell in cells).values()
    seeds = f"{min(counts)}{f' to {max(counts)}' * (max(counts) > min(counts))} seed{'s' * (max(counts) > 1)}"
    facts = f"{len(cells)} cells, {seeds}, {sum(cell.seconds for cell in cells) / 3600:.1f} hours of one core"
    shown = [_table(study, cells, metric) for metric in study.metrics][:tables]
    if study.combined:
        shown.append(_interactions(study, cells, next(iter(study.metrics))))
    figure = [f"![{study.question}](results/{figure_path(study).name})\n"] if picture else []
    told = [f"{title} ({facts})\n", *about, f"**{study.answer or 'No answer yet.'}**\n"]
    if study.findings:
        told.append(f"{fill(study.findings, 120)}\n")
    return "\n".join([*told, *shown, *figure])


def _table(study: Study, cells: Sequence[Result], metric: str) -> str:
    """Arms by settings."""
    corner = f"{study.metrics[metric]}, by {study.setting_label}"
    return _grid(corner, study.arms, study.settings, lambda arm, setting: _entry(study, cells, arm, setting, metric))


def _interactions(study: Study, cells: Sequence[Result], metric: str) -> str:
    """Combined arms by settings."""

    def entry(arm: str, setting: str) -> str:
        difference, seeds = interaction(study, cells, arm, setting, metric)
        return _spell_difference(study, metric, difference) if seeds else ""

    corner = f"{study.metrics[metric]}: beyond the sum of the two"
    return _grid(corner, list(study.combined), study.settings, entry)


def _grid(corner: str, arms: Sequence[str], settings: Sequence[str], entry: Callable[[str, str], str]) -> str:
    lines = [f"| {corner} | " + " | ".join(settings) + " |", "|---|" + "---|" * len(settings)]
    lines += [f"| {arm} | " + " | ".join(entry(arm, setting) for setting in settings) + " |" for arm in arms]
    return "\n".join(lines) + "\n"


def _entry(study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str) -> str:
    """The first arm's mean; of the others also the difference from it, seed by seed."""
    found = values_of(cells, arm, setting, metric)
    if not found:
        return ""
    mean, width = interval(list(found.values()))
    if arm == study.arms[0]:
        return spell(study, metric, (mean, width))
    difference, seeds = paired(study, cells, arm, setting, metric)
    if not seeds:
        return spell(study, metric, (mean, width))
    return f"{spell(study, metric, (mean, math.nan))} ({_spell_difference(study, metric, difference)})"


def _spell_difference(study: Study, metric: str, difference: tuple[float, float]) -> str:
    told = spell(study, metric, difference, sign=True).removesuffix(" %")
    return f"**{told}**" if is_clear(difference) else told
