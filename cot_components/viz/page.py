"""Every page comes from a template of `pages/`: one file, no outside request, light and dark.

`frame.jinja` holds what all pages share. Data reach the HTML through templates alone, which escape them.
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
    """A page from a template of `pages/`.

    Args:
        template: its name, such as `tokens.jinja`.
        title: of the document.
        whole_page: if false, only style, content and script in one element, as a notebook shows it.
        values: what the template shows; all text in it is escaped.
    """
    return _environment().get_template(template).render(title=title, whole_page=whole_page, **values)


def part(template: str, **values: Any) -> str:
    """HTML of a part of a page, from a template of `pages/`; all text in it is escaped."""
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
