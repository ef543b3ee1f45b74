"""The shipped recipes and configs, and the recipe a config belongs to."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from cot_components.config import find_config, shipped_configs
from cot_components.config.components import ConfigError, may_import, nearest, refusal
from cot_components.config.files import read_keys, read_text

RECIPE_IN_HEADER = re.compile(r"^#.*\btune run (?:--\S+[ =]\S+ )*([\w./]+) --config", re.MULTILINE)


def shipped_recipes() -> dict[str, Path]:
    """Name to source file of every recipe that ships; nothing is imported."""
    specs = {name: find_spec(name) for name in sorted({config.split("/")[0] for config in shipped_configs()})}
    return {name: Path(spec.origin) for name, spec in specs.items() if spec is not None and spec.origin}


def whole_recipe(name: str) -> Path:
    """The file with the complete recipe: for a method's name, that of `cot_sft`."""
    recipes = shipped_recipes()
    return recipes[name] if "@recipe(" in recipes[name].read_text("utf-8") else recipes["cot_sft"]


def first_line(path: Path) -> str:
    """The first line of a recipe's docstring or of a config's header."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return text.split("\n")[0].removeprefix("#").strip()


class Recipe(NamedTuple):
    """What a config is checked against: a recipe's undecorated `main`, the arguments it passes to nodes, its required
    nodes.

    ours: False for a torchtune recipe, which does not declare its top-level keys
    """

    name: str
    main: Callable[..., None]
    supplies: Mapping[str, Iterable[str]]
    requires: tuple[str, ...] = ()
    ours: bool = True


def recipe_for(config: str, *, asked: str | None = None) -> Recipe:
    """The recipe a config is for: the one asked for; the folder of a shipped config; the `tune run NAME` of the
    config's header; else the recipe whose keys fit best.

    Raises:
        ConfigError: no such config, a file that is not text or not YAML, or no such recipe.
    """
    path = find_config(config)
    if asked is not None:
        found = _load(asked)
        if found is None:
            what = "no recipe: it has no main under @recipe" if Path(asked).is_file() else "no such recipe"
            raise ConfigError(f"--recipe {asked}: {what}{nearest(Path(asked).stem, shipped_recipes())}")
        return found
    folder = config.split("/")[0]
    if not Path(config).is_file() and folder in shipped_recipes():
        return _must_load(folder)
    header = read_text(path).split("\n\n")[0]
    for name in RECIPE_IN_HEADER.findall(header):
        return _named_by_header(name, path)
    return _best_fit(path)


def _named_by_header(name: str, config: Path) -> Recipe:
    """A recipe of this package or of torchtune, or the user's own file, which runs only if allowed."""
    module = _module_name(name)
    if name in shipped_recipes():
        return _must_load(name)
    is_path = "/" in name or name.endswith(".py")
    if not may_import(module) and (is_path or Path(f"{name}.py").is_file()):
        raise refusal(f"{config}: its header", name, module)
    if found := _load(name) if may_import(module) else None:
        return found
    if is_path:
        raise ConfigError(f"{config}: its header runs {name}, which is not a recipe here; choose one: --recipe NAME")
    return Recipe(name, _takes_anything, _must_load("cot_sft").supplies, ours=False)  # torchtune's pass the same ones


def _module_name(name: str) -> str:
    """The module that `tune run` imports for a recipe's name: `my.recipe` for `my/recipe.py`."""
    return str(Path(os.path.relpath(name)) if name else Path()).removesuffix(".py").replace("/", ".")


def _takes_anything(**keys: Any) -> None:
    """Placeholder for a recipe of torchtune's."""


def _load(name: str) -> Recipe | None:
    """The recipe in a module, or in a module's file, found as by `tune run`; any other file is loaded by path."""
    path = Path(os.path.relpath(name)) if name else Path()
    try:
        main = getattr(_module(path), "main", None)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the recipe {name} cannot be imported: {error}") from error
    if not hasattr(main, "supplies"):
        return None
    return Recipe(name, main.__wrapped__, main.supplies, main.requires)  # type: ignore[union-attr]


def _module(path: Path) -> ModuleType | None:
    name = _module_name(str(path))
    if all(part.isidentifier() for part in name.split(".")):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not f"{name}.".startswith(f"{error.name}."):
                raise
    spec = spec_from_file_location(f"recipe_in_{path.stem}", path) if path.suffix == ".py" and path.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _must_load(name: str) -> Recipe:
    found = _load(name)
    assert found is not None, f"{name} ships without a decorated main"
    return found


def _best_fit(path: Path) -> Recipe:
    """The recipe with the fewest unknown, missing or superfluous keys; method names are skipped, they take the same
    keys as `cot_sft`.
    """
    keys = {str(key) for key in read_keys(path)}

    def misfit(recipe: Recipe) -> tuple[int, int]:
        parameters = recipe.main.__kwdefaults__ or {}
        takes = set(recipe.main.__code__.co_varnames[: recipe.main.__code__.co_kwonlyargcount])
        return len(keys - takes) + len(takes - set(parameters) - keys), len(takes)

    whole = (name for name, file in shipped_recipes().items() if whole_recipe(name) == file)
    return min(map(_must_load, whole), key=misfit)


def read(options: argparse.Namespace) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the checked values of `CONFIG [--recipe NAME] [key=value ...]`, as `tune run` reads them.

    Raises:
        ConfigError: anything the recipe itself would refuse; see `training.recipe.read_config`.
    """
    from cot_components.training.recipe import read_config

    recipe = recipe_for(options.config, asked=options.recipe)
    words = ["--config", options.config, *options.overrides]
    return recipe, read_config(recipe.main, words, recipe.supplies, recipe.requires)


def with_defaults(recipe: Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """The values, completed with the recipe's defaults."""
    return {**(recipe.main.__kwdefaults__ or {}), **values}


def add_allow(parser: argparse.ArgumentParser) -> None:
    """`--allow MODULE`, which `cli.main` passes on to `components.only_known`."""
    said = "a module of your own, or a recipe's file, that the config may import and run; may be repeated"
    parser.add_argument("--allow", metavar="MODULE", action="append", default=[], type=_module_name, help=said)


def add_config_arguments(parser: argparse.ArgumentParser, *, allow: bool = True) -> None:
    """`CONFIG [key=value ...] [--recipe NAME]`, for `read`, and `--allow` if the command does not run the config."""
    parser.add_argument("config", metavar="CONFIG", help="a shipped name (cot ls) or a path")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="as for tune run, including ~key")
    parser.add_argument("--recipe", metavar="NAME", help="default: from the config's folder, header and keys")
    if allow:
        add_allow(parser)
