"""Every page is rendered from a template in `pages/`: a single file, no external requests, light and dark mode.

`frame.jinja` holds what all pages share. Data reach the HTML only through templates, which escape them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cot_components.roles import Role
from cot_components.viz.theme import BLURRED, INK, LINE, MUTED, PANEL, PAPER, ROLE_COLOURS
from cot_components.viz.visible import visible

TEMPLATES = Path(__file__).parent / "pages"


def role_class(role: Role) -> str:
    """CSS class and variable of a role."""
    return role.label.replace("_", "-")


COLOURS = {"paper": PAPER, "panel": PANEL, "ink": INK, "muted": MUTED, "line": LINE, "blurred": BLURRED} | {
    role_class(role): colour for role, colour in ROLE_COLOURS.items()
}
"""CSS variables of a page."""


def render(template: str, *, title: str, whole_page: bool = True, **values: Any) -> str:
    """Render a page from a template in `pages/`.

    Args:
        template: its name, such as `tokens.jinja`.
        title: of the document.
        whole_page: if false, a fragment for a notebook: style, content and script in one element.
        values: variables of the template; all text in them is escaped.
    """
    return _environment().get_template(template).render(title=title, whole_page=whole_page, **values)


def part(template: str, **values: Any) -> str:
    """Render part of a page from a template in `pages/`; all text in `values` is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["colours"] = COLOURS
    environment.filters["role_class"] = role_class
    environment.filters["visible"] = lambda text: visible(str(text)).replace("\u21b5\n", "\n")
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
