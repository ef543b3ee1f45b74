"""From any folder, by any way to start it."""

import re
import sys
from pathlib import Path

import pytest
from commands import CONFIGS, ROOT, must, run, tune, user_error

SAID = "unknown key 'batch_sise'; did you mean 'batch_size'?"
STOCK = "full_finetune_single_device --config"


@pytest.mark.parametrize("folder", [Path("/"), ROOT / "recipes", None], ids=str)
def test_tune_run_from_any_folder(folder, tmp_path):
    """And as a script; a wrong key is said before anything is written."""
    typed = "bt_sft --config bt_sft/quickstart batch_sise=4"
    if folder is None:
        script = run(sys.executable, "-W", "ignore", ROOT / "recipes" / "bt_sft.py", *typed.split()[1:], cwd=tmp_path)
        assert user_error(script) == SAID
    assert user_error(tune(typed, cwd=folder or tmp_path)) == SAID and list(tmp_path.iterdir()) == []


def test_torchtunes_own_recipes_stay_what_they_are(tmp_path):
    """Ours are modules of their own; the package `recipes` still tells how it wants to be used."""
    imported = run(sys.executable, "-W", "ignore", "-c", "import recipes", cwd=tmp_path)
    assert imported.returncode == 1 and "torchtune recipes" in imported.stderr


@pytest.mark.parametrize("redraw", ["once", "epoch"])
def test_a_stock_torchtune_recipe_trains_bt_sft_from_yaml_alone(hub, tmp_path, redraw):
    """With one mask; a mask for every epoch is refused."""
    paths = [f"tokenizer.path={hub / 'model'}", f"checkpointer.checkpoint_dir={hub / 'model'}", "output_dir=out"]
    more = ["dataset.max_rows=256", f"dataset.transforms.blur.redraw={redraw}"]
    result = tune(STOCK, CONFIGS / "stock_torchtune" / "bt_sft_tiny.yaml", *paths, *more, cwd=tmp_path)
    if redraw == "epoch":
        assert result.returncode != 0 and "dataset.transforms.blur changes from epoch to epoch" in result.stderr
        return
    must(result)
    (log,) = (tmp_path / "out" / "logs").glob("*.txt")
    losses = [float(value) for value in re.findall(r"loss:([\d.]+)", log.read_text())]
    assert len(losses) == 16 and losses[-1] < losses[0]
