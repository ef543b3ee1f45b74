"""Audit all rows a config trains on: faults, repetitions, what the template does, what is in the loss.

Bad rows are left out and counted, whatever the config says. With --model a model scores the rows first (like `cot
score`, into `audit` in output_dir, where an interrupted pass continues). Builds known components only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.cli.shipped import add_config_arguments, read, with_defaults

EXAMPLES = (
    "cot audit bt_sft/quickstart",
    "cot audit my.yaml --strict --out audit.html",
    "cot audit my.yaml --model models/SmolLM2-135M-Instruct",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    said = "a model in Hugging Face layout, a run, or a checkpoint, with which to score the rows"
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=said)
    parser.add_argument("--strict", action="store_true", help="exit with code 1 if any finding is a fault")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="also write a page")


def run(options: argparse.Namespace) -> int:
    from cot_components.tools.audit import audit
    from cot_components.viz.audit_view import audit_lines, audit_page

    values = with_defaults(*read(options))
    found, data, traces = audit(values)
    model = None
    if options.model is not None:
        from cot_components.tools.audit_model import model_view
        from cot_components.tools.score import score_for_audit

        scores = score_for_audit(values, options.model.expanduser(), data)
        model = model_view(values, data.rows, traces, scores)
    print("\n".join(audit_lines(found, model)))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        page = audit_page(found, title=options.config, model=model, model_name=str(options.model))
        options.out.write_text(page, encoding="utf-8")
        print(f"page         {options.out}")
    return 1 if options.strict and found.faults else 0
