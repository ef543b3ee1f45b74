"""One page about one run: what it was, how it went, what the model said before and after, and what is left on disk."""

from __future__ import annotations

import html
import io
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from cot_components.config.files import read_text
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.evaluation.table import footnote, summary_rows
from cot_components.files import entries, files_below, read_object
from cot_components.runs.log import Record, read_log, series
from cot_components.viz.curves import draw_panels
from cot_components.viz.page import COLOURS, page
from cot_components.viz.panels import run_panels
from cot_components.viz.visible import visible

SHOWN_EXAMPLES = 6
RESUMING = "The same command goes on from the newest whole one where a run was stopped; resume=FOLDER from another."

STYLE = """
.cot figure { margin: 1rem 0 0; overflow-x: auto; }
.cot figure svg { display: block; max-width: max(100%, 44rem); height: auto; }
.cot figure svg text { font-family: inherit !important; }
.cot table { border-collapse: collapse; border: 0; margin: .9rem 0 0; font-size: .9rem; background: none; }
.cot tr, .cot th, .cot td { background: none; border: 0; padding: .15rem 2rem .15rem 0; text-align: left;
  color: var(--ink); }
.cot th { font-weight: 400; color: var(--muted); }
.cot thead th, .cot td b { font-weight: 600; color: var(--ink); }
.cot td small { color: var(--muted); margin-left: .6em; font-size: .9em; }
.cot .table { overflow-x: auto; }
.cot .example { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 2.2rem; padding: 1.1rem 0;
  border-bottom: 1px solid var(--line); }
.cot .example:last-child { border-bottom: 0; }
.cot .example > :first-child, .cot .example > :last-child:nth-child(2) { grid-column: 1 / -1; }
.cot .example > :first-child { color: var(--muted); }
.cot .example h3 small { font-weight: 400; font-size: .92em; margin-left: .5em; }
@media (max-width: 45rem) { .cot .example { grid-template-columns: 1fr; } }
.cot .text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .15rem 0 0; font-size: .92rem; max-height: 24rem;
  overflow-y: auto; }
.cot .right { color: var(--call); } .cot .wrong { color: var(--answer); }
.cot pre { margin: .9rem 0 0; padding: 1rem 1.2rem; border-radius: .35rem; background: var(--panel); color: var(--ink);
  font: .82rem/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-x: auto; }
"""


def report_html(run_dir: str | Path) -> str:
    """The report of a run's folder as one self-contained page; what the folder does not hold is left out.

    Read are `log.jsonl`, `evaluations/step_*.json`, `config.yaml`, `versions.json` and the manifests of `checkpoints/`.

    Raises:
        UserError: no such folder, no log in it, or a broken file.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run")
    records = read_log(run_dir)
    evaluations = read_evaluations(run_dir)
    name = visible(run_dir.resolve().name)
    sections = {
        "Before and after": _summary(evaluations),
        "Curves": _curves(records),
        "Samples": _samples([evaluation for evaluation in evaluations.values() if evaluation.examples]),
        "Checkpoints": _checkpoints(run_dir),
        "On disk": _files(run_dir),
        "Config": _preformatted(run_dir / "config.yaml"),
        "Versions": _versions(run_dir / "versions.json"),
    }
    body = f'<header><h1>{html.escape(name)}</h1><p class="muted numbers">{_headline(records)}</p></header>'
    body += "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections.items() if content)
    return page(name, STYLE, body)


def read_evaluations(run_dir: Path) -> dict[int, Evaluation]:
    """The evaluations a run saved, by step, in order."""
    return {step: read_evaluation(path) for step, path in saved_evaluations(run_dir).items()}


def _headline(records: Sequence[Record]) -> str:
    """`500 steps, 2 epochs, 9,012 tokens/s`."""
    training = [record for record in records if "loss" in record]
    if not training:
        return "no step yet"
    parts = [f"{max(r['step'] for r in training) + 1:,} steps"]
    if all("epoch" in record for record in training):
        epochs = max(r["epoch"] for r in training) + 1
        parts.append(f"{epochs:,} epoch{'s' if epochs > 1 else ''}")
    speeds = series(training, "tokens_per_second")[1]
    if len(speeds):
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    return ", ".join(parts)


def _summary(evaluations: dict[int, Evaluation]) -> str:
    """The first and the last evaluation side by side."""
    steps = sorted({min(evaluations), max(evaluations)}) if evaluations else []
    if not steps:
        return ""
    results = [evaluations[step] for step in steps]
    head = "".join(f"<th>step {step:,}</th>" for step in steps)
    rows = ""
    for name, cells in summary_rows(results):
        columns = "".join(f"<td><b>{cell.value or '-'}</b><small>{cell.detail}</small></td>" for cell in cells)
        rows += f"<tr><th>{name}</th>{columns}</tr>"
    table = f'<table class="numbers"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="table">{table}</div><p class="muted">{footnote(results)}</p>'


def _curves(records: Sequence[Record]) -> str:
    panels = run_panels(records)
    if not panels:
        return ""
    drawn = io.StringIO()
    draw_panels(panels, []).savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    # The colours of the theme become the variables of the page, so that the figure is light or dark as the page is.
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour.light, f"var(--{variable})")
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def _samples(evaluations: Sequence[Evaluation]) -> str:
    """Some prompts with what the model said at first and at last; wrong answers first, as they tell more."""
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    before = {example.where: example for example in reversed(first.examples)}
    lead = [samples[0] for samples in last.by_trace]
    wrong, right = ([e for e in lead if (e.correct is False) is is_wrong] for is_wrong in (True, False))
    shown = wrong[: SHOWN_EXAMPLES // 2]
    shown += right[: SHOWN_EXAMPLES - len(shown)]
    blocks = []
    for example in shown:
        prompt = "\n".join(message["content"] for message in example.prompt)
        columns = _completion(example, "after")
        if len(evaluations) > 1 and example.where in before:
            columns = _completion(before[example.where], "before") + columns
        blocks.append(f'<div class="example"><p class="text">{_text(prompt)}</p>{columns}</div>')
    return "".join(blocks)


def _completion(example: Example, name: str) -> str:
    verdicts = {True: ("right", "right"), False: ("wrong", "wrong"), None: ("muted", "no reference")}
    colour, verdict = verdicts[example.correct]
    parts = [f'<span class="{colour}">{verdict}</span>']
    parts.append("no answer" if example.extracted is None else f"answer {_text(example.extracted)}")
    if example.correct is False and example.reference is not None:
        parts.append(f"expected {_text(example.reference)}")
    if example.cut:
        parts.append("cut off")
    if example.thought_tokens is not None:
        parts.append(f"{example.thought_tokens:,} thought tokens")
    heading = f'<h3>{name} <small class="muted">{", ".join(parts)}</small></h3>'
    return f'<div>{heading}<p class="text">{_text(example.completion)}</p></div>'


def _text(text: str) -> str:
    return html.escape(visible(text).replace("\u21b5\n", "\n"))


def _checkpoints(run_dir: Path) -> str:
    """The run's checkpoints, oldest first: steps done, size, and what is missing from one. Hashes are not checked."""
    rows = ""
    try:
        found = [path for path in entries(run_dir / "checkpoints") if path.name.startswith("step_")]
    except OSError as error:
        return f'<p class="wrong">cannot be read: {_text(str(error.strerror))}</p>'
    for path in found:
        step = re.sub(r"\D*0*(\d+)$", r"\1", path.name)
        cells = (f"{_text(path.name)}/", _text(step), _size(path), _lacks(path))
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    if not rows:
        return ""
    head = "<thead><tr><th></th><th>steps done</th><th></th><th></th></tr></thead>"
    table = f'<table class="numbers">{head}<tbody>{rows}</tbody></table>'
    return f'<div class="table">{table}</div><p class="muted">{RESUMING}</p>'


def _lacks(checkpoint: Path) -> str:
    """What a checkpoint's own manifest names and its folder does not hold; "" for one that looks whole."""
    try:
        named = read_object(checkpoint / "manifest.json")["files"]
        wrong = [
            name
            for name, entry in named.items()
            if not (checkpoint / name).is_file() or (checkpoint / name).stat().st_size != entry["size"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return '<span class="wrong">damaged: its manifest cannot be read</span>'
    return f'<span class="wrong">damaged: {_text(wrong[0])}</span>' if wrong else ""


def _files(run_dir: Path) -> str:
    """Everything the run left, with sizes."""
    rows = "".join(
        f"<tr><td>{html.escape(visible(path.name))}{'/' if path.is_dir() else ''}</td><td>{_size(path)}</td></tr>"
        for path in sorted(run_dir.iterdir())
    )
    return f'<div class="table"><table class="numbers"><tbody>{rows}</tbody></table></div>'


def _size(path: Path) -> str:
    try:
        size = float(sum(file.lstat().st_size for file in (files_below(path) if path.is_dir() else [path])))
    except OSError as error:
        return _text(f"cannot be read: {error.strerror}")
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def _preformatted(path: Path) -> str:
    return f"<pre>{_text(read_text(path))}</pre>" if path.is_file() else ""


def _versions(path: Path) -> str:
    if not path.is_file():
        return ""
    versions = read_object(path).items()
    rows = "".join(f"<tr><th>{_text(str(name))}</th><td>{_text(str(version))}</td></tr>" for name, version in versions)
    return f'<table class="numbers"><tbody>{rows}</tbody></table>'
