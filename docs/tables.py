"""Writes the tables of docs/commands.md that are made from the code: `python docs/tables.py`.

The keys of a recipe are the keyword arguments of its `main`, each explained in the comment on its line.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from cot_components.cli.shipped import whole_recipe
from cot_components.training.refusals import REFUSALS

COMMANDS = Path(__file__).with_name("commands.md")


def keys(recipe: Path) -> list[tuple[str, str | None, str]]:
    """Name, default as written (None for none) and explanation of every key of a recipe.

    Raises:
        ValueError: a key without a comment on its line.
    """
    text = recipe.read_text(encoding="utf-8")
    lines, functions = text.splitlines(), (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef))
    arguments = next(function for function in functions if function.name == "main").args
    found = []
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        _, comment, said = lines[argument.lineno - 1].partition("  # ")
        if not comment:
            raise ValueError(f"{recipe}:{argument.lineno}: the key {argument.arg} has no explanation on its line")
        found.append((argument.arg, None if default is None else ast.unparse(default), said))
    return found


def keys_table(recipe: Path) -> str:
    """The keys of a recipe in Markdown, as YAML spells their defaults."""
    spelled = {"None": "null", "True": "true", "False": "false"}
    rows = [
        f"| `{name}` | {'' if default is None else spelled.get(default, default.strip(chr(39)))} | {said} |"
        for name, default, said in keys(recipe)
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def refusals_table() -> str:
    """What does not combine, and why, in Markdown."""
    lines = ["| refused | why |", "|---|---|"]
    for refusal in REFUSALS:
        what, _, why = (refusal.__doc__ or "").partition("\n")
        lines.append(f"| {what.strip()} | {' '.join(why.split())} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with each table between its two markers made again."""
    tables = {name: keys_table(whole_recipe(name)) for name in ("cot_sft", "shad", "cot_eval")}
    for name, table in {**tables, "refusals": refusals_table()}.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page, number = re.subn(pattern, lambda m, table=table: f"{m[1]}{table}\n{m[2]}", page, flags=re.DOTALL)
        assert number == 1, f"{COMMANDS} has {number} places for the table {name}"
    return page


if __name__ == "__main__":
    COMMANDS.write_text(with_tables(COMMANDS.read_text(encoding="utf-8")), encoding="utf-8")
