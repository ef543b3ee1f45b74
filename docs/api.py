"""The API reference from the docstrings, recipes included: `make docs`. Whatever pdoc warns of is an error."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import typing
import warnings
from pathlib import Path

from cot_components.training.quiet import quiet_imports

quiet_imports()

import pdoc  # noqa: E402  after the silence: pdoc imports everything

import cot_components  # noqa: E402
from cot_components.cli.shipped import shipped_recipes  # noqa: E402


def resolve_named_tuples() -> None:
    """Give every NamedTuple's constructor types instead of their names, which Python leaves without their module."""
    for found in pkgutil.walk_packages(cot_components.__path__, "cot_components."):
        module = importlib.import_module(found.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, tuple) and hasattr(cls, "_fields"):
                cls.__new__.__annotations__ = typing.get_type_hints(cls)


def main(folder: Path) -> int:
    """Write the pages; returns the exit code."""
    resolve_named_tuples()
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings(record=True) as caught:
        pdoc.pdoc("cot_components", *sorted(shipped_recipes()), output_directory=folder)
    ours = sorted({str(warning.message).splitlines()[0] for warning in caught if "pdoc" in warning.filename})
    for line in ours:
        print(line)
    print(f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages, {len(ours)} warnings")
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
