"""Copy a recipe or a config to edit it.

A copied config writes to `runs/` plus its own name.

Run a copied recipe with `tune run` from the folder it is in. It needs a name that no installed module has, because
`tune` would run that module instead.
"""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from cot_components.cli.shipped import recipe_for, shipped_recipes, whole_recipe
from cot_components.config import ConfigError, nearest, shipped_configs

EXAMPLES = ("cot cp bt_sft/quickstart my.yaml", "cot cp bt_sft my_bt_sft.py", "cot cp bt_sft .")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a recipe or a config, see cot ls")
    parser.add_argument("dest", metavar="DEST", type=Path, help="a file or a folder")
    parser.add_argument("--force", action="store_true", help="overwrite DEST")


def run(options: argparse.Namespace) -> int:
    configs, recipes = shipped_configs(), shipped_recipes()
    name = options.name.removesuffix(".yaml").removesuffix(".py")
    if name not in configs and name not in recipes:
        raise ConfigError(f"no recipe or config '{options.name}'{nearest(name, [*recipes, *configs])}")
    is_recipe = name in recipes
    source = whole_recipe(name) if is_recipe else configs[name]
    dest = _with_name(options.dest, f"my_{name}.py" if is_recipe else source.name, source.suffix)
    if is_recipe:
        _refuse_clash(dest, proposed=f"my_{name}.py")
    if dest.exists() and not options.force:
        raise ConfigError(f"{dest} exists; --force overwrites it")
    if not dest.parent.is_dir():
        raise ConfigError(f"{dest.parent} is not a folder")
    text = source.read_text(encoding="utf-8")
    dest.write_text(text if is_recipe else _with_its_own_runs(text, dest.stem), encoding="utf-8")
    print(f"copied {name} to {dest}")
    print(f"run it: {_command(name, dest) if is_recipe else _config_command(name, dest)}")
    return 0


def _with_name(dest: Path, name: str, suffix: str) -> Path:
    if dest.is_dir():
        return dest / name
    return dest if dest.suffix in (suffix, ".yml") else dest.with_name(dest.name + suffix)


def _with_its_own_runs(config: str, name: str) -> str:
    """The config with an output_dir named after the copy, so that its runs are kept apart."""
    folder = re.sub(r"[^\w.-]+", "_", name)
    return re.sub(r"^output_dir: \S+", f"output_dir: runs/{folder}", config, flags=re.MULTILINE)


def _refuse_clash(dest: Path, *, proposed: str) -> None:
    """`tune` turns `my/recipe.py` into the module `my.recipe` and searches the current folder last."""
    if not dest.stem.isidentifier():
        raise ConfigError(f"{dest.name}: tune runs a recipe as a module, which cannot have this name; try {proposed}")
    try:
        spec = find_spec(dest.stem)
        taken = spec is not None and Path(spec.origin or "").absolute() != dest.absolute()
    except ValueError:  # `__main__`, a module without a spec
        taken = True
    if taken:
        raise ConfigError(
            f"{dest.name}: tune would run the installed module '{dest.stem}' instead of your file; try {proposed}"
        )


def _command(name: str, dest: Path) -> str:
    config = next((config for config in shipped_configs() if config == f"{name}/quickstart"), f"{name}/...")
    there = "" if dest.parent.resolve() == Path.cwd() else f"cd {shlex.quote(str(dest.parent))} && "
    return f"{there}tune run {dest.name} --config {config}"


def _config_command(name: str, dest: Path) -> str:
    return f"tune run {recipe_for(name).name} --config {shlex.quote(str(dest))}"
