"""Faults that only a real process can show: SIGKILL for every training recipe, signals from outside for `bt_sft`."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TUNE, must, run, tune, user_error
from tally import count
from tiny_runs import checkpoint, differences, saved_steps

from cot_components.runs.checkpoint import damage, find_newest
from cot_components.runs.log import read_log

FAULTY = Path(__file__).parents[1] / "helpers" / "faulty.py"


@pytest.mark.parametrize(("point", "nth"), [("after model.safetensors", 5)])
def test_sigkill_and_resume(reference, tmp_path, point, nth):
    """Killed while it writes its fifth checkpoint; `tune run` goes on, and ends as if nothing had happened."""
    count("faults injected")
    command = [*reference.arguments, f"output_dir={tmp_path / 'out'}"]
    died = run(sys.executable, "-W", "ignore", FAULTY, reference.name, point, str(nth), "kill", *command, cwd=tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert saved_steps(tmp_path / "out") == [1, 2, 3, 4] and list((tmp_path / "out" / "checkpoints").glob(".saving-*"))
    said = must(tune(reference.name, "--config", f"{reference.name}/quickstart", *command, cwd=tmp_path))
    assert "4 steps done" in said
    assert differences(reference.out, tmp_path / "out") == []


def started(command, out, *, records, cwd):
    """A real `tune run` that has logged so many records."""
    process = subprocess.Popen(
        [TUNE, "run", *map(str, command)], cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count("\n") < records:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    return process


def stopped(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out + err


@pytest.mark.parametrize("workers", [0, 2])
def test_signals_from_outside(bt_sft, tmp_path, workers):
    """SIGTERM, resume, SIGINT, resume, both at once: 143, 130, at once; no step is lost, repeated or half saved."""
    count("faults injected", 3)
    out = tmp_path / "out"
    command = ["bt_sft", "--config", "bt_sft/quickstart", *bt_sft.arguments, f"output_dir={out}", "epochs=200"]
    command += ["evaluation=null", "dataset_val=null", "save_every_n_steps=null", "save_every_minutes=null"]
    command += [f"num_workers={workers}"]
    process = started(command, out, records=5, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    code, said = stopped(process)
    assert code == 143 and "stopped by a signal after" in said, said[-2000:]
    (first,) = saved_steps(out)
    assert damage(checkpoint(out, first)) is None

    process = started(command, out, records=first + 5, cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    code, said = stopped(process)
    assert code == 130 and f"{first} steps done" in said, said[-2000:]
    second = saved_steps(out)[-1]
    assert [record["step"] for record in read_log(out)] == list(range(second)) and second > first

    process = started(command, out, records=second + 5, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    code, _ = stopped(process)
    assert code in (130, 143) and find_newest(out / "checkpoints").damaged == ()


def test_a_signal_before_training_ends_at_once(bt_sft, tmp_path):
    count("faults injected")
    slow = "import time; print('here', flush=True); time.sleep(100)"
    script = "import sys; import cot_components.training.recipe as r\n"
    script += f"def main(*, output_dir: str):\n    {slow}\n"
    script += "sys.argv = ['x', '--config', 'c.yaml']\nr.recipe(main)()"
    (tmp_path / "c.yaml").write_text("output_dir: out\n")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    code, said = stopped(process)
    assert code == 143 and "SIGTERM: stopped at once; no training step is lost" in said


def test_two_processes_on_one_folder(bt_sft, tmp_path):
    count("faults injected")
    out = tmp_path / "out"
    command = ["bt_sft", "--config", "bt_sft/quickstart", *bt_sft.arguments, f"output_dir={out}", "epochs=200"]
    process = started(command, out, records=2, cwd=tmp_path)
    try:
        said = user_error(tune(*command, cwd=tmp_path))
        assert said == f"output_dir: {out} is in use by another process (pid {process.pid})"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
