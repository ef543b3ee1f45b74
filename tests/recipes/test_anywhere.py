"""From any folder, by any way to start it, under any locale."""

import json
import sys
from pathlib import Path

import pytest
from commands import ROOT, must, run, tune, user_error
from degenerate import HOSTILE

from cot_components.runs.log import read_log

MISSPELT = ["--config", "bt_sft/quickstart", "batch_sise=4"]
SAID = "unknown key 'batch_sise'; did you mean 'batch_size'?"


@pytest.mark.parametrize("folder", [Path("/"), ROOT, ROOT / "recipes"], ids=str)
def test_tune_run_from_any_folder(folder):
    assert SAID in user_error(tune("bt_sft", *MISSPELT, cwd=folder))


def test_a_recipe_is_a_script_too(tmp_path):
    assert SAID in user_error(
        run(sys.executable, "-W", "ignore", ROOT / "recipes" / "bt_sft.py", *MISSPELT, cwd=tmp_path)
    )


def test_torchtunes_own_recipes_stay_what_they_are(tmp_path):
    """Ours are modules of their own; the package `recipes` still tells how it wants to be used."""
    imported = run(sys.executable, "-W", "ignore", "-c", "import recipes", cwd=tmp_path)
    assert imported.returncode == 1 and "torchtune recipes" in imported.stderr


def test_an_ascii_locale(hub, tmp_path):
    """Rows and config hold what ASCII cannot; the run reads, trains, logs and reports them all the same."""
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(16):
            response = f"<think>{HOSTILE} {number}</think>é{number}"
            file.write(json.dumps({"instruction": f"ü {number}?", "response": response}, ensure_ascii=False) + "\n")
    config = (ROOT / "configs" / "bt_sft" / "quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(f"# Größe\n{config}", encoding="utf-8")
    words = ["bt_sft", "--config", "mine.yaml", f"tokenizer.path={hub / 'model'}", "dataset.source=rows.jsonl"]
    words += ["dataset_val=null", "evaluation=null", "epochs=1", "batch_size=8", "log_every_n_steps=1"]
    words += ["output_dir=out"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    must(tune(*words, cwd=tmp_path, env=ascii_only))
    assert len([record for record in read_log(tmp_path / "out") if "objective" in record]) == 2
    assert "ü 0?" in (tmp_path / "out" / "tokens.html").read_text(encoding="utf-8")
