"""The frame of every page: one file, no outside request, light and dark. Also works as a fragment inside a notebook."""

from __future__ import annotations

import html

from cot_components.roles import Role
from cot_components.viz.theme import BLURRED, INK, LINE, MUTED, PANEL, PAPER, ROLE_COLOURS

ROOT_CLASS = "cot"

# Pages hold text from data sets: the policy makes the browser itself refuse any request, whatever that text is.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def role_class(role: Role) -> str:
    """CSS class and variable of a role."""
    return role.label.replace("_", "-")


COLOURS = {"paper": PAPER, "panel": PANEL, "ink": INK, "muted": MUTED, "line": LINE, "blurred": BLURRED} | {
    role_class(role): colour for role, colour in ROLE_COLOURS.items()
}
"""CSS variables of a page."""


def _variables(shade: str) -> str:
    return "".join(f"--{name}:{getattr(colour, shade)};" for name, colour in COLOURS.items())


_LAYOUT = """
.cot { background: var(--paper); color: var(--ink); font: 15px/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Liberation Sans", Arial, sans-serif; -webkit-text-size-adjust: 100%; text-align: left; }
.cot * { box-sizing: border-box; }
.cot main { max-width: 84rem; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; }
.cot h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.2; margin: 0; color: var(--ink); }
.cot h2 { font-size: 1.05rem; font-weight: 650; letter-spacing: -.005em; margin: 0; color: var(--ink); }
.cot h3 { font-size: .9rem; font-weight: 600; margin: 0; color: var(--ink); }
.cot p { margin: .3rem 0 0; }
.cot .muted { color: var(--muted); }
.cot .numbers { font-variant-numeric: tabular-nums; }
.cot a { color: inherit; text-decoration-color: var(--line); text-underline-offset: .2em; }
.cot a:hover { text-decoration-color: currentColor; }
.cot section { margin-top: 2.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); scroll-margin-top: 1rem; }
"""


def base_style() -> str:
    """Colours and layout shared by all pages."""
    return (
        f".{ROOT_CLASS} {{ color-scheme: light dark; {_variables('light')} }}\n"
        f"@media (prefers-color-scheme: dark) {{ .{ROOT_CLASS} {{ {_variables('dark')} }} }}\n" + _LAYOUT
    )


def fragment(style: str, body: str, script: str = "") -> str:
    """Style, content and script in one element, as a notebook shows it."""
    scripts = f"<script>{script}</script>" if script else ""
    return f'<div class="{ROOT_CLASS}"><style>{base_style()}{style}</style><main>{body}</main>{scripts}</div>'


def page(title: str, style: str, body: str, script: str = "") -> str:
    """A whole HTML document around `fragment`."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>html {{ background: {PAPER.light}; }} body {{ margin: 0; }} "
        f"@media (prefers-color-scheme: dark) {{ html {{ background: {PAPER.dark}; }} }}</style>\n"
        f"</head>\n<body>\n{fragment(style, body, script)}\n</body>\n</html>\n"
    )
