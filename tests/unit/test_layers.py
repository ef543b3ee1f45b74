"""The plain layer imports no torchtune, and no recipe is imported by the package."""

import ast
import sys

from commands import ROOT, must, run

PLAIN = [
    "data",
    "transforms",
    "losses",
    "evaluation",
    "viz",
    "config",
    "clock",
    "roles",
    "errors",
    "curriculum",
    "discriminator",
]


def imported(path):
    """Names of the modules a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_plain_layer_imports_without_torchtune(tmp_path):
    modules = []
    for name in PLAIN:
        path = ROOT / "cot_components" / name
        files = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.glob("*.py"))
        modules += [file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for file in files]
    assert len(modules) > 30
    block = "import sys; sys.modules['torchtune'] = None; sys.modules['torchao'] = None; import importlib\n"
    loop = f"for name in {modules!r}: importlib.import_module(name.removesuffix('.__init__'))"
    must(run(sys.executable, "-W", "ignore", "-c", block + loop, cwd=tmp_path))


def test_nothing_imports_a_recipe():
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    checked = 0
    for path in (ROOT / "cot_components").rglob("*.py"):
        assert not recipes & {name.split(".")[0] for name in imported(path)}, path
        checked += 1
    assert checked > 30 and recipes


def test_data_transforms_and_losses_know_nothing_of_what_shows_or_trains_them():
    above = {"viz", "evaluation", "training", "models", "cli"}
    checked = 0
    for part in ("data", "transforms", "losses"):
        for path in (ROOT / "cot_components" / part).glob("*.py"):
            names = {name.split(".")[1] for name in imported(path) if name.startswith("cot_components.")}
            assert not names & above, path
            checked += 1
    assert checked > 30


SOURCES = [path for part in ("cot_components", "recipes") for path in (ROOT / part).rglob("*.py")]


def test_recipes_read_on_one_screen_and_files_stay_small():
    sizes = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert max(size for path, size in sizes.items() if path.parent.name == "recipes") <= 170
    assert not {str(path): size for path, size in sizes.items() if size > 300}


def test_functions_stay_small():
    """As CONTRIBUTING.md says: lines under the docstring, comments and blank ones too."""
    sizes = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                sizes[path.stem, node.name, node.lineno] = node.end_lineno - body[0].lineno + 1 if body else 0
    long = {(module, name) for (module, name, _), size in sizes.items() if size > 40}
    assert long - {("loop", "train_step")} <= {(path.stem, "main") for path in (ROOT / "recipes").glob("*.py")}
    assert len(sizes) > 500
