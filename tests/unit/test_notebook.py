"""What the first cell of a notebook asks for."""

import json
import time
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot

from cot_components import notebook
from cot_components.errors import UserError


def test_an_empty_folder_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "old").touch()
    assert notebook.start("x") == Path("runs/x") and list(Path("runs/x").iterdir()) == []
    assert capsys.readouterr().out == "", "the package's metadata names no repository, so no badge and no install line"


def test_the_badge_comes_from_the_metadata():
    assert notebook.install_line("x", []) is None and notebook.install_line("x", ["Homepage, https://x.org"]) is None
    assert notebook.install_line("x", ["Repository, https://x.org/a"]) == "`pip install git+https://x.org/a`"
    line = notebook.install_line("01_tour", ["Repository, https://github.com/me/it.git"])
    assert "colab.research.google.com/github/me/it/blob/main/notebooks/01_tour.ipynb" in line
    assert line.endswith("`pip install git+https://github.com/me/it`")


def fake_tune(folder, monkeypatch, script):
    """A program `tune` beside a fake interpreter."""
    (folder / "tune").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "tune").chmod(0o755)
    monkeypatch.setattr(notebook.sys, "executable", str(folder / "python"))


def test_tune_returns_what_was_said_and_raises_on_another_exit_code(tmp_path, monkeypatch, capsys):
    fake_tune(tmp_path, monkeypatch, 'echo "$@"; echo wrong >&2; exit ${CODE:-0}')
    assert notebook.tune("a", "--config", "b") == "run a --config b\n"
    assert capsys.readouterr().out == "$ tune run a --config b\n"
    monkeypatch.setenv("CODE", "2")
    assert notebook.tune("a", expect=2) == "run a\nwrong\n"
    with pytest.raises(UserError, match="2 instead of 0:\nwrong"):
        notebook.tune("a")


def test_a_run_is_killed_when_a_path_appears(tmp_path, monkeypatch):
    fake_tune(tmp_path, monkeypatch, f"touch {tmp_path}/here; exec sleep 60")
    started = time.monotonic()
    assert notebook.tune_and_kill(tmp_path / "here", "a") == -9 and time.monotonic() - started < 50
    fake_tune(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(UserError, match=r"ended with 3 before .*never was there"):
        notebook.tune_and_kill(tmp_path / "never", "a")


def test_a_pretrained_model_is_a_link_into_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "cache"
    cached.mkdir()
    monkeypatch.setattr("cot_components.models.smollm2.cached_smollm2", lambda: cached)
    for _ in range(2):
        folder = notebook.smollm2()
        assert not folder.is_absolute() and folder.resolve() == cached
    assert str(tmp_path) not in capsys.readouterr().out


def test_a_model_that_cannot_be_had_is_a_sentence(tmp_path, monkeypatch):
    """No traceback in a notebook."""

    def fail():
        raise UserError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cot_components.models.smollm2.cached_smollm2", fail)
    shell = InteractiveShell.instance()
    said = []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, value, lines: said.extend(lines))
    result = shell.run_cell("from cot_components.notebook import smollm2\nsmollm2()")
    assert isinstance(result.error_in_exec, UserError) and said == ["error: no network"]
    assert not (tmp_path / "runs").exists()


def test_cot_runs_a_command_and_raises_where_it_fails(capsys):
    notebook.cot("ls")
    assert capsys.readouterr().out.startswith("$ cot ls\n")
    with pytest.raises(UserError, match="cot validate ended with 2"):
        notebook.cot("validate", "bt_sft/nothing")


def test_what_is_not_run_is_said_with_what_it_needs(capsys):
    notebook.tune_if(False, "bt_sft", "--config", "bt_sft/qwen2_5_0_5B", 'dataset.columns={"a": "b"}')
    first, then = capsys.readouterr().out.splitlines()
    assert first.startswith("First: tune download Qwen/")
    assert then.endswith('tune run bt_sft --config bt_sft/qwen2_5_0_5B \'dataset.columns={"a": "b"}\'')


def test_a_study_is_shown_from_its_results_alone(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr("experiments.study.RESULTS", tmp_path)
    notebook.study("blur")
    (only,) = shown
    assert type(only).__name__ == "Markdown" and "`make evidence STUDY=blur`: not run yet" in only.data
    place = {"arm": "sft", "setting": "clean", "seed": 0, "seconds": 1, "versions": {}}
    (tmp_path / "blur.jsonl").write_text(json.dumps({**place, "figures": {"answer_accuracy": 0.5}}) + "\n")
    pyplot.figure().savefig(tmp_path / "blur.png")
    shown.clear()
    notebook.study("blur")
    assert [type(it).__name__ for it in shown] == ["Markdown", "Image"]
    assert "| sft | 50.0 % |" in shown[0].data and "![" not in shown[0].data
