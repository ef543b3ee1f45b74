"""`cot score`: one process and two, other models, what transforms read, what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import cot, must

from cot_components.cli.main import main
from cot_components.data.rows.scores import open_scores
from cot_components.losses.measures import MEASURES
from cot_components.models.tiny import write_tiny_checkpoint

FEW = ("dataset.max_rows=30", "output_dir=out", "dataset_val=null")
SIZES = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "intermediate_dim", "rope_base")


@pytest.fixture
def said(hub, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """A command on the quickstart's first rows: what it prints, or its one sentence where it must refuse."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: str | Path, refuses: bool = False) -> str:
        given = [command, "bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", *FEW, *map(str, words)]
        code = main(given)
        out, err = capsys.readouterr()
        assert code == (2 if refuses else 0), err
        return err if refuses else out

    return run


def test_two_processes_give_what_one_does(hub, tmp_path, said):
    words = ("--tokens", "200", "--model", hub / "model")
    assert "30 rows" in said("score", *words)
    given = (f"tokenizer.path={hub / 'model'}", *FEW, *words, "--out", "two", "--nproc", "2")
    must(cot("score", "bt_sft/quickstart", *given, cwd=tmp_path))
    one, two = open_scores("out/scores"), open_scores("two")
    for name in MEASURES:
        np.testing.assert_array_equal(one.finished(name), two.finished(name))
    table = pq.read_table("two/scores.parquet")
    assert table.num_rows == 30 and {"mean_logprob", "sum_logprob", "mean_entropy", *MEASURES} <= set(
        table.column_names
    )


def test_adapters_are_off(hub, said):
    lora = [f"~model.{key}" for key in SIZES] + ["model._component_=cot_components.models.from_folder"]
    lora += [f"model.path={hub / 'model'}", "model.lora.targets=[q_proj]", "model.lora.rank=4", "model.lora.alpha=8"]
    said("score", *lora, "--columns", "nll")
    model = open_scores("out/scores").meta["columns"]["nll"]["model"]
    said("score", "--model", hub / "model", "--columns", "entropy")
    assert open_scores("out/scores").meta["columns"]["entropy"]["model"] == model


def test_columns_of_two_models_are_what_a_transform_reads(hub, said):
    for name in ("model", "teacher"):
        said("score", "--model", hub / name, "--name", name, "--columns", "nll")
    gap = ["_component_=cot_components.transforms.TopGap", "keep=0.4", "scores=out/scores"]
    gap = [f"dataset.transforms.gap.{word}" for word in (*gap, "model=model_nll", "reference=teacher_nll")]
    assert "30 rows" in said("view", *gap)
    wrong = said("view", *gap, "dataset.transforms.gap.model=model_nl", refuses=True)
    assert "no scores 'model_nl'; did you mean 'model_nll'" in wrong


def test_all_rows_are_scored_and_a_view_says_which_are_left_out(said):
    band = "{band: {_component_: cot_components.selectors.PerplexityBand, scores: out/scores, at_most: %s}}"
    some = f"dataset.select={band % 400}"
    assert "30 rows" in said("score", some, "--columns", "nll"), "by scores that are not there yet"
    means = np.exp(open_scores("out/scores").row_means("nll"))
    printed, kept = said("view", some, "--n", "1"), int((means <= 400).sum())
    assert 0 < kept < 30 and f"select.band keeps {kept} of 30 rows" in printed and "perplexity above 400" in printed
    assert "keeps none of 30" in said("view", f"dataset.select={band % 1}", refuses=True)


def test_what_does_not_fit_is_one_sentence(tmp_path, said):
    other = write_tiny_checkpoint(tmp_path / "other")
    spelled = json.loads((other / "tokenizer.json").read_text())
    vocabulary = spelled["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    (other / "tokenizer.json").write_text(json.dumps(spelled))
    said("score", "--columns", "nll")
    for words, sentence in {
        ("--columns", "entropi"): "no measure 'entropi'; did you mean 'entropy'",
        ("--columns", "nll", "dataset.max_rows=20"): "holds scores of other data (30 rows of",
        ("--columns", "nll", "seed=1"): "holds scores 'nll' of another model",
        ("--model", "nowhere"): "--model: nowhere holds no model",
        ("--model", str(other), "--out", "new"): "is 't' there and 'e' in the data",
        ("--tokens", "0"): "--tokens must be at least 1",
        ("datset.max_rows=1",): "unknown key 'datset'; did you mean 'dataset'",
    }.items():
        assert sentence in said("score", *words, refuses=True), words


def test_only_what_says_so_runs_a_config_as_code(tmp_path, said):
    (tmp_path / "own_rows.py").write_text(
        "from cot_components.datasets import reasoning_dataset\n\n"
        "def rows(tokenizer, *, source: str, max_rows: int, transforms: dict | None = None):\n"
        "    return reasoning_dataset(tokenizer, source=source, max_rows=max_rows)\n"
    )
    own = "dataset._component_=own_rows.rows"
    assert "--allow own_rows" in said("view", own, refuses=True)
    assert "30 rows" in said("score", own, "--columns", "nll")


def test_a_stop_says_how_to_go_on(said, monkeypatch, hub, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cot_components.models.score.score_rows", stopped)
    assert main(["score", "bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", *FEW]) == 130
    assert "run the same command again" in capsys.readouterr().err
