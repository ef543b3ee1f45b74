"""Running a recipe in this process, as `tune run` does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def run_recipe(name: str, config: str, *arguments: str) -> int:
    """Run a recipe on a shipped config to its end, or until a signal stops it; returns the exit code.

    Raises:
        RuntimeError: the recipe refuses its config, or what it finds; its sentence is in what the process has printed.
    """
    sys.argv = [name, "--config", str(CONFIGS / f"{config}.yaml"), *arguments]
    try:
        importlib.import_module(name).main()
    except SystemExit as end:
        if end.code == 2:
            raise RuntimeError(f"{' '.join(sys.argv)}: refused, see the line before") from None
        return int(end.code or 0)
    return 0
