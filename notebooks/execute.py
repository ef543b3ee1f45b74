"""Execute a notebook from its `.py`, and make its output the same on every machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("0*.py")))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def read(name: str) -> Any:
    """The notebook without outputs, read from its `.py`; cells are numbered, so that a diff shows what changed."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
        cell["metadata"] = {}
    return notebook


def execute(name: str, *, folder: Path, fast: bool) -> Any:
    """Run all cells top to bottom in a fresh kernel whose working directory is `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = read(name)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=_environment(fast=fast))
    return notebook


def _environment(*, fast: bool) -> dict[str, str]:
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment.pop("COT_FAST", None)
    return environment | ({"COT_FAST": "1"} if fast else {})


def tidy(notebook: Any) -> Any:
    """Remove addresses of objects and details of the kernel, and join text that arrived in pieces."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell.cell_type == "code":
            cell["outputs"] = _join_streams(cell.outputs)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = _ADDRESS.sub("", data["text/plain"])
    return notebook


def _join_streams(outputs: list[Any]) -> list[Any]:
    joined: list[Any] = []
    for output in outputs:
        if joined and output.get("name") and output["name"] == joined[-1].get("name"):
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def write(name: str, notebook: Any) -> Path:
    """Write `<name>.ipynb`."""
    path = FOLDER / f"{name}.ipynb"
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return path
