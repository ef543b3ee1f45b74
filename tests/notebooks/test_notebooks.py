"""The course: every notebook executes, is in step with its `.py`, and says nothing that only holds on one machine."""

import ast
import re

import jupytext
import nbformat
import pytest
from commands import ROOT

from notebooks.execute import FOLDER, NAMES, execute, read, tidy

PATHS = re.compile(r"/(?:tmp|home|root|Users|work|mnt|content)/|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:")
OUTSIDE = re.compile(r"""(?:src|href)\s*=\s*["']https?:|@import|url\(\s*["']?https?:""")


def committed(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Everything a cell has put out that is text."""
    for output in cell.outputs:
        yield from [output["text"]] if output.output_type == "stream" else []
        yield from (str(part) for kind, part in output.get("data", {}).items() if not kind.startswith("image/png"))


def test_the_course_is_complete():
    assert [name.split("_")[0] for name in NAMES] == [f"{number:02}" for number in range(9)]


@pytest.mark.parametrize("name", NAMES)
def test_it_executes(name, tmp_path):
    """Top to bottom in a fresh kernel at the smallest sizes, beside nothing but the results it draws."""
    here = tmp_path / "notebooks"
    here.mkdir()
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    notebook = tidy(execute(name, folder=here, fast=True))
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    _check_outputs(notebook)
    assert {path.name for path in here.iterdir()} == {"runs"}


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_outputs_are_of_this_text(name):
    notebook, text = committed(name), read(name)
    assert [(c.cell_type, c.source, c.id) for c in notebook.cells] == [
        (c.cell_type, c.source, c.id) for c in text.cells
    ]
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "executed from top to bottom"
    assert notebook.metadata == text.metadata
    _check_outputs(notebook)


def _check_outputs(notebook):
    pictures = 0
    for cell in code_cells(notebook):
        assert all(output.output_type != "error" for output in cell.outputs)
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
        for text in texts(cell):
            assert not PATHS.search(text) and not OUTSIDE.search(text) and " at 0x" not in text, text[:2000]
        drawn = [output["data"] for output in cell.outputs if "<Figure" in output.get("data", {}).get("text/plain", "")]
        assert all("image/png" in data for data in drawn), cell.source
        pictures += sum(
            "image/png" in output.get("data", {}) or "text/html" in output.get("data", {}) for output in cell.outputs
        )
    assert pictures >= 4
    last = code_cells(notebook)[-1]
    assert "RUN_ON_GPU = False" in last.source and "NOT RUN" in "".join(texts(last))


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_well(name):
    """Short cells, prose between them, an equality before anything is believed, and nothing redefined."""
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) < 300
    notebook = jupytext.reads(source, fmt="py:percent")
    cells = code_cells(notebook)
    assert max(len(cell.source.splitlines()) for cell in cells if "import" not in cell.source) <= 20
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 0.6 * len(cells)
    assert sum("assert" in cell.source for cell in cells) >= 5 and notebook.cells[0].source.startswith("# ")
    defined = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert not defined & _names_of_the_package()


def _names_of_the_package():
    names = {
        node.name
        for part in ("cot_components", "recipes")
        for path in (ROOT / part).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert len(names) > 300
    return names
