"""`cot validate --recipe PATH`, and headers of configs: recipes of the user's own, wherever they lie."""

import sys

import pytest
from commands import ROOT

from cot_components.cli.main import main
from cot_components.cli.shipped import recipe_for
from cot_components.config import shipped_configs


@pytest.fixture
def own_recipes(tmp_path, monkeypatch):
    """A working folder with a recipe in it, in a folder below and in one beside; all take one key more."""
    text = (ROOT / "recipes" / "cot_sft.py").read_text()
    text = text.replace("    output_dir: str,", "    mine: int,\n    output_dir: str,")
    for place in ("here/own_a.py", "here/recipes/own_b.py", "beside/own-c.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    (tmp_path / "here" / "empty.py").write_text("")
    (tmp_path / "here" / "lacking.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_a", raising=False)
    return tmp_path / "here"


@pytest.mark.parametrize(
    "name",
    ["own_a", "./own_a.py", "{here}/own_a.py", "recipes/own_b.py", "../beside/own-c.py", "{here}/../beside/own-c.py"],
)
def test_a_recipe_by_its_path(name, own_recipes, hub, capsys):
    name, key = name.format(here=own_recipes), f"tokenizer.path={hub / 'model'}"
    assert main(["validate", "bt_sft/quickstart", key, "mine=1", "--recipe", name]) == 0
    assert main(["validate", "bt_sft/quickstart", key, "--recipe", name]) == 2
    assert capsys.readouterr().err == "error: missing key 'mine'\n"
    if "-" not in name:  # tune runs none of that name
        text = shipped_configs()["bt_sft/quickstart"].read_text()
        (own_recipes / "my.yaml").write_text(f"# tune run {name} --config my.yaml\n\n{text}")
        assert recipe_for("my.yaml").name == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./nope.py", "--recipe ./nope.py: no such recipe; valid: bt_sft, "),
        ("/nope/bt_sfd.py", "--recipe /nope/bt_sfd.py: no such recipe; did you mean 'bt_sft'?"),
        ("recipes/bt_sft.py", "--recipe recipes/bt_sft.py: no such recipe; did you mean 'bt_sft'?"),
        ("recipes", "--recipe recipes: no such recipe; valid: "),
        ("", "--recipe : no such recipe; valid: "),
        ("..", "--recipe ..: no such recipe; valid: "),
        ("./empty.py", "--recipe ./empty.py: no recipe: it has no main under @recipe; valid: "),
        ("lacking.py", "the recipe lacking.py cannot be imported: No module named 'no_such_module'"),
        ("./recipes/../lacking.py", "the recipe ./recipes/../lacking.py cannot be imported: No module named"),
    ],
)
def test_recipes_that_are_none(name, sentence, own_recipes, capsys):
    assert main(["validate", "bt_sft/quickstart", "--recipe", name]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_a_header_that_names_a_recipe_which_is_not_there(own_recipes, capsys):
    (own_recipes / "my.yaml").write_text("# Run: tune run ./gone.py --config my.yaml\n\noutput_dir: x\n")
    assert main(["validate", "my.yaml"]) == 2
    assert "--allow gone" in capsys.readouterr().err
    assert main(["validate", "my.yaml", "--allow", "gone"]) == 2
    assert (
        "my.yaml: its header runs ./gone.py, which is not a recipe here; choose one: --recipe NAME"
        in capsys.readouterr().err
    )
