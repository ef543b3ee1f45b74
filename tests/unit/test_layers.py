"""Which room of the package may know which; the plain layer imports no torchtune; files and functions stay small."""

import ast
import sys
from graphlib import TopologicalSorter

from commands import ROOT, must, run

ROOMS = (
    *("errors", "roles", "clock", "files", "secrets", "schedules", "pace", "config", "runs.layout"),
    *("data.bad_rows", "data.read", "data.text", "data.rows", "data.generated", "data.sources"),
    *("losses", "selectors", "transforms", "stages", "curriculum", "evaluation", "models", "trainable", "datasets"),
    *("runs", "viz", "training", "huggingface", "tools", "cli", "notebook"),
)
"""Each room knows those before it and none after it."""

PLAIN = (
    "config",
    "data",
    "losses",
    "selectors",
    "transforms",
    "curriculum",
    "evaluation",
    "runs",
    "viz",
    "clock",
    "roles",
    "errors",
)


def modules():
    """Module name -> path of everything in the package."""
    paths = (ROOT / "cot_components").rglob("*.py")
    return {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
        for path in paths
    }


def room(module):
    """Index in `ROOMS`; None for a package that holds several."""
    inside = module.removeprefix("cot_components.")
    found = [name for name in ROOMS if f"{inside}.".startswith(f"{name}.")]
    return ROOMS.index(max(found, key=len)) if found else None


def arrows():
    """Module -> the modules of the package that it imports, at its top or in a function; not for types alone."""
    known = modules()
    found = {}
    for module, path in known.items():
        tree = ast.parse(path.read_text())
        types = {
            node
            for check in ast.walk(tree)
            if isinstance(check, ast.If)
            for node in ast.walk(check)
            if "TYPE_CHECKING" in ast.dump(check.test)
        }
        names = []
        for node in set(ast.walk(tree)) - types:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names += [
                    name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names
                ]
        found[module] = {name for name in names if name in known and name != module}
    return found


def imported(path):
    """Names of the modules a file imports."""
    return imported_by(ast.parse(path.read_text()))


def imported_by(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_plain_layer_imports_without_torchtune_and_transformers(tmp_path):
    plain = [name for name in modules() if name.split(".")[1:2] and name.split(".")[1] in PLAIN]
    assert len(plain) > 80
    block = "import importlib, sys; sys.modules.update(torchtune=None, torchao=None, transformers=None)\n"
    code = f"{block}for name in {plain!r}: importlib.import_module(name)"
    must(run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path))


def test_transformers_is_imported_in_its_room_and_only_when_asked_for():
    optional = {"transformers", "peft"}
    found = [path for path in modules().values() if optional & {name.split(".")[0] for name in imported(path)}]
    assert found and {path.parent.name for path in found} == {"transformers_backbone", "huggingface"}
    for path in found:
        at_the_top = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not optional & {name.split(".")[0] for name in imported_by(ast.Module(at_the_top, []))}, path


def test_no_room_knows_a_room_above_it():
    checked = 0
    for module, imported_ones in arrows().items():
        for other in imported_ones:
            here, there = room(module), room(other)
            assert here is None or there is None or there <= here, f"{module} imports {other}"
            checked += 1
    assert checked > 500
    assert {name for name in modules() if room(name) is None} == {"cot_components", "cot_components.data"}


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter(arrows()).prepare()  # raises CycleError, which names the circle


def test_nothing_imports_a_recipe():
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    checked = 0
    for path in (ROOT / "cot_components").rglob("*.py"):
        assert not recipes & {name.split(".")[0] for name in imported(path)}, path
        checked += 1
    assert checked > 30 and recipes


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


def test_tests_are_at_most_nine_tenths_of_the_code():
    def lines(*folders):
        files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)

    assert 0 < 10 * lines("tests") <= 9 * lines("cot_components", "recipes")
