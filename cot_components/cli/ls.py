"""List the shipped recipes and configs."""

from __future__ import annotations

import argparse
import shutil

from cot_components.cli.shipped import first_line, shipped_recipes
from cot_components.config import ConfigError, nearest, shipped_configs

EXAMPLES = ("cot ls", "cot ls icot_sft", "cot ls --names | grep quickstart")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="only this one and its configs")
    parser.add_argument("--names", action="store_true", help="only names, one per line")


def run(options: argparse.Namespace) -> int:
    configs, recipes = shipped_configs(), shipped_recipes()
    folders = sorted({name.split("/")[0] for name in configs})
    if options.recipe is not None and options.recipe not in folders:
        raise ConfigError(f"no recipe '{options.recipe}'{nearest(options.recipe, folders)}")
    shown = [folder for folder in folders if options.recipe in (None, folder)]
    names = {folder: [name for name in configs if name.startswith(f"{folder}/")] for folder in shown}
    if options.names:
        print("\n".join(name for folder in shown for name in ([folder] if folder in recipes else []) + names[folder]))
        return 0
    column = max(len(name) for name in configs) + 4
    width = max(40, shutil.get_terminal_size(fallback=(200, 24)).columns - column)
    for folder in shown:
        about = first_line(recipes[folder]) if folder in recipes else "Configs for torchtune's own recipes."
        print(f"{folder:<{column}}{_short(about, width)}")
        for name in names[folder]:
            print(f"  {name:<{column - 2}}{_short(first_line(configs[name]), width)}")
        print()
    print("tune run RECIPE --config CONFIG trains one; cot cp NAME DEST copies one.")
    return 0


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 4].rsplit(" ", 1)[0] + " ..."
