"""The names of methods: modules of a few lines that train by `cot_sft` and refuse a config without their node."""

import importlib
import inspect
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from commands import ROOT, cot, must, tune, user_error
from models_for_tests import TINY_OVERRIDES

from cot_components.cli.shipped import whole_recipe
from cot_components.runs.log import read_log

NAMES = {"bt_sft": (), "icot_sft": ("curriculum",), "rft": ("loss.weight_rule",), "target_sft": ()}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_few_lines_around_the_one_recipe(name):
    module, cot_sft = importlib.import_module(name), importlib.import_module("cot_sft")
    assert inspect.unwrap(module.main) is inspect.unwrap(cot_sft.main)
    assert module.main.requires == NAMES[name] and module.main.supplies == cot_sft.main.supplies
    body = (ROOT / "recipes" / f"{name}.py").read_text().split('"""')[2]
    assert len(body.split("\n")) < 12
    assert whole_recipe(name) == whole_recipe("cot_sft") == ROOT / "recipes" / "cot_sft.py"


@pytest.mark.parametrize(
    ("name", "config", "without"),
    [
        ("icot_sft", "icot_sft/quickstart", "curriculum=null"),
        ("icot_sft", "bt_sft/quickstart", "seed=0"),
        ("rft", "rft/quickstart", "loss.weight_rule=null"),
        ("rft", "bt_sft/quickstart", "seed=0"),
    ],
)
def test_a_missing_node_is_refused_never_trained_without(name, config, without, tmp_path):
    """By the run and by `cot validate` with the same sentence, which names the key and the recipe that would train."""
    said = user_error(tune(name, "--config", config, without, "output_dir=out", cwd=tmp_path))
    assert said.startswith(NAMES[name][0]) and "cot_sft" in said
    assert user_error(cot("validate", config, without, "--recipe", name, cwd=tmp_path)) == said
    assert not (tmp_path / "out").exists()


def test_a_copy_of_any_name_is_the_whole_recipe_and_trains(hub, tmp_path):
    must(cot("cp", "target_sft", "mine.py", cwd=tmp_path))
    assert (tmp_path / "mine.py").read_text() == (ROOT / "recipes" / "cot_sft.py").read_text()
    short = ["dataset.max_rows=16", "batch_size=8", "epochs=1", "evaluation=null", "dataset_val=null"]
    words = ["--config", "bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", *TINY_OVERRIDES, *short]
    for recipe in ("mine.py", "cot_sft"):
        must(tune(recipe, *words, "log_every_n_steps=1", f"output_dir={recipe}.out", cwd=tmp_path))
    mine, ours = (
        [r["loss"] for r in read_log(tmp_path / f"{name}.out") if "loss" in r] for name in ("mine.py", "cot_sft")
    )
    assert len(mine) == 2 and mine == ours


def test_tables_made_from_the_code_are_current():
    """`python docs/tables.py` writes them; a key without an explanation on its line is an error."""
    spec = spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    tables = module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert tables.with_tables(page) == page
    parameters = inspect.signature(importlib.import_module("cot_sft").main).parameters
    assert [name for name, _, said in tables.keys(whole_recipe("cot_sft")) if said] == list(parameters)
