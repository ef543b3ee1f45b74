"""An audit as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from cot_components.viz.page import page

STYLE = """
.cot table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; }
.cot th, .cot td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
.cot th { font-weight: 600; color: var(--muted); }
.cot th:first-child, .cot td:first-child { text-align: left; overflow-wrap: anywhere; }
.cot section { overflow-x: auto; }
.cot .finding { padding: .35rem 0 .35rem .8rem; border-left: 3px solid var(--line); margin: .4rem 0; }
.cot .finding.fault { border-left-color: var(--answer); }
.cot .finding summary { cursor: pointer; }
.cot .finding p { overflow-wrap: anywhere; font-size: .9rem; }
.cot .mark { border: 1px solid currentColor; border-radius: .3rem; padding: 0 .35rem; font-size: .78rem; margin-left: .4rem; }
.cot h3 { margin-top: 1.2rem; }
"""


def audit_page(found: Any, *, title: str, model: Any = None, model_name: str = "") -> str:
    """The HTML of a `tools.audit.Audit` and, where there is one, a `tools.audit_model.ModelView`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("audit.jinja").read_text(encoding="utf-8"))
    total = max(sum(found.roles.values()), 1)
    body = template.render(found=found, title=title, model=model, model_name=model_name, total=total)
    return page(f"Audit of {title}", STYLE, body)
