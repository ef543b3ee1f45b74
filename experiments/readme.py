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
from experiments.comparisons import arrived, exact_p, interaction, paired, primary, spell_contrast
from experiments.study import (
    Result,
    Study,
    cells_path,
    figure_path,
    interval,
    is_clear,
    read_cells,
    spell,
    values_of,
)

README = Path(__file__).with_name("README.md")
HEAD = """# What each method does, measured

One row per study: its answer, and the one comparison it rests on. Everything is small: generated tasks, a CPU. The
studies show how the methods behave where everything is known, not how much they gain on a large model.
"""
ROUNDS = """
*n*: seeds. *p*: exact paired test, two-sided; it cannot be below 0.06 with 5 seeds or 0.008 with 8. "Before the
rules": run before the primary comparison was hashed into every line, so it may have been chosen after seeing results.
Folded below: how each study was done, what else it shows, all tables.

<details>
<summary>How to read the tables, and how to run a study</summary>

Tables, effects and figures come from `results/STUDY.jsonl`, one line per cell: an arm in a setting with a seed; answers
and findings are written from them. First row: mean and half the width of the 95 % interval over seeds (Student's t).
Other rows: mean and, in brackets, the difference from the first row over the seeds that both have, with its interval;
**bold** if that excludes zero. Everything except the primary comparison is descriptive: without any real difference,
one in twenty is bold by chance. Figures show differences; an interval may extend beyond 0 or 100 %, values cannot.
"3 of 5" counts the runs that succeed, where runs either succeed or fail. The effect of two methods beyond the sum of
their separate effects is compared as logits if it is of shares. Each line records versions, threads and chip; the arms
of a setting and seed ran on the same code, different seeds not always: different rounding or another dropout stream
changes where a single run ends.

Primary comparison, arms, settings, seeds and learning rates are hashed into every line; lines with another hash are
refused. A study that searches learning rates chooses them on validation rows of a seed that no comparison uses.

    make evidence STUDY=blur            # runs the missing cells; delete a line, or results/blur.jsonl, to run again
    make evidence STUDY=screening       # accuracy of SmolLM2-135M; its studies refuse a task without a signal
    make evidence STUDY=blur_real SIZE=gpu      # the larger grid of a study of SmolLM2
    python -m experiments               # runs nothing: regenerates all figures and this page
    python -m experiments --check       # checks that every line was run under its study's rules; lists what is lacking

</details>
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
"""What still needs a GPU -> its arguments to `tune run`."""


def load(name: str) -> Study:
    """A study by its name on the command line."""
    module, _, variable = STUDIES[name].partition(":")
    study: Study = getattr(importlib.import_module(module), variable or "STUDY")
    return study


def readme() -> str:
    """The whole page."""
    studies = [load(name) for name in STUDIES]
    return "\n".join([HEAD, overview(studies), ROUNDS.lstrip("\n"), *map(folded, studies), not_run()])


def folded(study: Study) -> str:
    """The `section` of a study, folded under its question."""
    return f"<details>\n<summary>{study.question}</summary>\n\n{section(study)}\n</details>\n"


def not_run() -> str:
    """What still needs a GPU, with its commands."""
    said = "These need a GPU and, except for 4 x 4 digits, the downloads named in the config's header.\n"
    rows = [f"| {what} | `tune run {words}` |" for what, words in NOT_RUN.items()]
    return "\n".join(["## Not run\n", said, "| study | command |", "|---|---|", *rows]) + "\n"


def overview(studies: Sequence[Study]) -> str:
    """A line per study: its answer, its primary comparison with its exact test, what was trained, its command."""
    lines = ["| question | answer | effect, 95 % interval | p | n | model | command |", "|---" * 7 + "|"]
    for study in studies:
        command = f"`make evidence STUDY={study.name}`"
        if cells := read_cells(study):
            told = [study.answer or "No answer yet.", effect(study, cells), *_test(study, cells)]
            command += f", [runs](results/{cells_path(study).name})"
        else:
            told = [_not_run(study), "", "", ""]
        lines.append("| " + " | ".join([study.question, *told, study.model, command]) + " |")
    return "\n".join(lines) + "\n"


def _test(study: Study, cells: Sequence[Result]) -> tuple[str, str]:
    """p of the primary comparison, and how many seeds it has."""
    found = primary(study, cells)
    p, early = exact_p(found), any(cell.rules is None for cell in cells)
    return "" if math.isnan(p) else f"{p:.3f}", f"{len(found)}{', before the rules' * early}"


def effect(study: Study, cells: Sequence[Result]) -> str:
    """The primary comparison, with what it compares."""
    if study.effect is None:
        return ""
    metric, arm, setting = study.effect
    combined = arm in study.combined
    told = spell_contrast(study, metric, interval(primary(study, cells)), combined=combined)
    against = f"{arm} beyond the sum of the two" if combined else f"{arm} against {study.arms[0]}"
    return f"{study.metrics[metric]}: {told} ({against}, {study.setting_label} {setting})"


def _not_run(study: Study) -> str:
    return f"not run{f', needs {study.needs}' if study.needs else ' yet'}."


def section(study: Study, *, tables: int | None = None, picture: bool = True) -> str:
    """Question, answer, the first `tables` tables (default all), figure and command of a study; or "not run"."""
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
    p, seeds = _test(study, cells)
    first = f"Primary comparison: {effect(study, cells)}; exact paired test p = {p or 'none'}, n = {seeds}.\n"
    told = [f"{title} ({facts})\n", *about, f"**{study.answer or 'No answer yet.'}**\n", first]
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
        told = spell_contrast(study, metric, difference, combined=True)
        return _bold_if_clear(told, difference) if seeds else ""

    corner = f"{study.metrics[metric]}: beyond the sum of the two"
    return _grid(corner, list(study.combined), study.settings, entry)


def _grid(corner: str, arms: Sequence[str], settings: Sequence[str], entry: Callable[[str, str], str]) -> str:
    lines = [f"| {corner} | " + " | ".join(settings) + " |", "|---|" + "---|" * len(settings)]
    lines += [f"| {arm} | " + " | ".join(entry(arm, setting) for setting in settings) + " |" for arm in arms]
    return "\n".join(lines) + "\n"


def _entry(study: Study, cells: Sequence[Result], arm: str, setting: str, metric: str) -> str:
    """The mean of an arm; for all but the first also the paired difference from the first."""
    found = values_of(cells, arm, setting, metric)
    if not found:
        return ""
    mean, width = interval(list(found.values()))
    count = arrived(study, list(found.values()), metric)
    there = f", {count}" * bool(count)
    difference, seeds = paired(study, cells, arm, setting, metric)
    if arm == study.arms[0] or not seeds:
        return spell(study, metric, (mean, width)) + there
    against = _bold_if_clear(spell(study, metric, difference, sign=True).removesuffix(" %"), difference)
    return f"{spell(study, metric, (mean, math.nan))} ({against}){there}"


def _bold_if_clear(told: str, difference: tuple[float, float]) -> str:
    return f"**{told}**" if is_clear(difference) else told
