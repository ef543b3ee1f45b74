"""Reading a recipe's config as the recipe does, without running it."""

import importlib

from cot_components.training.recipe import read_config


def read(name, *overrides):
    """The checked config of a shipped name with overrides."""
    recipe = importlib.import_module(name.split("/")[0])
    main = recipe.main
    return read_config(main.__wrapped__, ["--config", name, *overrides], main.supplies, main.requires)
