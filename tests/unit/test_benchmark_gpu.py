"""`python -m benchmarks gpu`: a bad part costs one part, what is done is not repeated, and every result says where."""

import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, must, run

from benchmarks import generation
from benchmarks.gpu import PARTS, Part, Unfinished, check_losses, command, files
from benchmarks.report import Absent, Row

FINE = Row("time", "peer", "s", 1.0, 2.0, 0.6)


def crashes():
    yield FINE
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    yield FINE
    time.sleep(600)


def refuses():
    print("error: loss names no component")
    raise RuntimeError("see above")
    yield


def goes_on():
    """Until it has been called twice; it runs in the folder that is kept."""
    with open("calls", "a") as file:
        file.write("x")
    yield Row("calls", "two", "", os.path.getsize("calls"), 2.0)
    if os.path.getsize("calls") < 2:
        raise Unfinished


def raising(error):
    def rows():
        raise error
        yield

    return rows


ENDINGS = {
    "fine": (lambda: [FINE], "done", "", ["ok"]),
    "misses": (lambda: [Row("time", "peer", "s", 1.0, 2.0, 0.4)], "done", "", ["MISSED"]),
    "crashes": (crashes, "failed", f"exit code -{int(signal.SIGKILL)}", ["ok"]),
    "hangs": (hangs, "stopped", "limit", ["ok"]),
    "refuses": (refuses, "failed", "error: loss names no component", []),
    "no peer": (raising(ModuleNotFoundError("no", name="trl.trainer")), "done", "", ["NOT RUN"]),
    "no model": (raising(Absent("no SmolLM2")), "done", "", ["NOT RUN"]),
    "our mistake": (raising(ModuleNotFoundError("gone", name="cot_components.gone")), "failed", "gone", []),
    "goes on": (goes_on, "unfinished", "next call", [""]),
}


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs the command on parts that end in every way; returns its exit code and the files it wrote."""
    parts = {name: Part(f"part_{number}", 0, 60, checks=True) for number, name in enumerate(ENDINGS)}
    parts["hangs"] = parts["hangs"]._replace(limit=1)
    parts["too long"] = Part("never imported", 10**6, 60)
    for name, (rows, *_) in ENDINGS.items():
        monkeypatch.setitem(
            sys.modules, parts[name].module, SimpleNamespace(rows=lambda device, size, rows=rows: rows())
        )
    monkeypatch.setattr(command, "prepare_processes", lambda: None)
    monkeypatch.setattr(command, "SLOWER", {"cpu": 1})
    for name in list(PARTS):
        monkeypatch.delitem(PARTS, name)
    for name, part in parts.items():
        monkeypatch.setitem(PARTS, name, part)
    where = ["--device", "cpu", "--size", "tiny", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]

    def call(*options):
        code = command.main([*where, "--commit", "abc", *options])
        return code, {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}

    return call


def test_each_part_ends_alone_and_is_not_run_again(call, capsys):
    code, kept = call()
    assert code == 1 and kept.keys() == ENDINGS.keys()
    for name, (_, state, note, verdicts) in ENDINGS.items():
        found = kept[name]
        assert found["state"] == state and note in found["note"], found
        assert [row["verdict"] for row in found["rows"]] == verdicts, name
        assert found["commit"] == "abc" and found["device"] == "cpu" and "gpu --device cpu" in found["command"]
        assert found["chip"] and found["versions"]["torch"] == torch.__version__ and found["part"] == name
    told = capsys.readouterr().out
    assert "no time left" in told and told.count("MISSED") == 2, "in its place, and at the end"
    assert kept.pop("goes on") != (again := call()[1]).pop("goes on") and again == kept


def test_a_part_goes_on_and_other_code_starts_again(call, monkeypatch):
    assert call("--only", "goes on")[1]["goes on"]["state"] == "unfinished"
    code, kept = call("--only", "goes on")
    assert code == 0 and kept["goes on"]["state"] == "done" and kept["goes on"]["rows"][0]["ours"] == 2
    assert call("--only", "goes on")[1]["goes on"]["rows"][0]["ours"] == 2
    monkeypatch.setattr(files, "code_hash", lambda: "other")
    assert call("--only", "goes on")[1]["goes on"]["rows"][0]["ours"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "lost"], "no part lost; there are check_losses"),
        (["--device", "cpu"], "--size tiny"),
        ([], "no CUDA device"),
    ],
)
def test_what_cannot_be_asked_for(words, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_wrong_gradient_and_a_wrong_answer_miss_their_gates(monkeypatch):
    right = check_losses.fused
    monkeypatch.setattr(check_losses, "fused", lambda *inputs: [1.2 * value for value in right(*inputs)])
    assert {row.verdict for row in check_losses.rows("cpu", "tiny")} == {"MISSED"}
    monkeypatch.setattr(generation, "generate", lambda model, prompts, **_: [[1]] * len(prompts))
    assert next(iter(generation.rows("cpu", "tiny"))).verdict == "MISSED"


def test_the_whole_command_at_a_laptops_size(tmp_path):
    """All parts, as a GPU runs them; their checks hold, and each leaves its file."""
    words = ["--device", "cpu", "--size", "tiny", "--out", "out", "--runs", "runs"]
    env = {"PYTHONPATH": str(ROOT)}
    must(run(sys.executable, "-m", "benchmarks", "gpu", *words, cwd=tmp_path, env=env, timeout=900))
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert {name: (found["state"], found["note"]) for name, found in kept.items()} == dict.fromkeys(PARTS, ("done", ""))
    for name, part in PARTS.items():
        gates = [row["verdict"] for row in kept[name]["rows"] if row["gate"] is not None]
        assert set(gates) == ({"ok"} if part.checks else set()), name
        assert any(row["ratio"] is not None for row in kept[name]["rows"]), name
