"""A run may change its number of processes: two that are stopped go on as one, one goes on as two agents of one."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from commands import TUNE, must, tune
from safetensors.torch import load_file
from tally import count

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.checkpoint import damage, find_newest, read_state
from cot_components.runs.log import read_log

SETTINGS = [
    "bt_sft",
    "--config",
    "bt_sft/quickstart",
    "dataset.max_rows=33",  # the last step of an epoch has one row: one of two processes has nothing to learn from
    "dataset_val=null",
    "evaluation=null",
    "epochs=3",
    "log_every_n_steps=1",
    "log_blurred_every=2",
    "optimizer.lr=1e-3",
    "model.num_layers=2",
]
TOTAL = 15
SAME = ("loss", "objective", "loss_thought", "loss_answer", "loss_blurred", "grad_norm", "supervised_tokens")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process, stopped by nothing, saved at step 7."""
    folder = tmp_path_factory.mktemp("one")
    write_tiny_checkpoint(folder / "tiny")
    common = [*SETTINGS, f"tokenizer.path={folder / 'tiny'}"]
    saving = ["save_every_n_steps=7", "keep_checkpoints=10"]
    must(tune(*common, f"output_dir={folder / 'out'}", "batch_size=8", *saving, cwd=folder))
    return folder, common


def compare(ours: Path, theirs: Path) -> None:
    """Records of every step, and the final weights by their largest and mean difference."""
    pairs = list(
        zip(
            [r for r in read_log(ours) if "objective" in r],
            [r for r in read_log(theirs) if "objective" in r],
            strict=True,
        )
    )
    assert [record["step"] for record, _ in pairs] == list(range(TOTAL))
    compared = 0
    for record, other in pairs:
        for name in SAME:
            if name in record:
                assert record[name] == pytest.approx(other[name], rel=2e-4), (name, record["step"])
                compared += 1
    assert compared > 6 * TOTAL
    left, right = (load_file(out / "model" / "model.safetensors") for out in (ours, theirs))
    differences = [(left[name] - right[name]).abs() for name in left]
    assert left.keys() == right.keys() and max(float(d.max()) for d in differences) < 1e-4
    assert max(float(d.mean()) for d in differences) < 1e-6


def ranks_below(pid: int) -> list[int]:
    """Process ids of the ranks that a launcher started."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found.append(int(path.name))
    return sorted(found)


def test_two_are_stopped_by_a_signal_to_one_and_go_on_as_one(one, tmp_path):
    count("faults injected")
    folder, common = one
    out = tmp_path / "out"
    command = [*common, f"output_dir={out}"]
    process = subprocess.Popen(
        [TUNE, "run", "--nproc_per_node", "2", *command, "batch_size=4", "epochs=3"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 250
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.01)
    ranks = ranks_below(process.pid)
    os.kill(ranks[-1], signal.SIGTERM)
    asked = time.monotonic()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and time.monotonic() - asked < 100, said[-3000:]
    assert len(ranks) == 2 and "stopped by a signal after" in said, said[-3000:]
    newest = find_newest(out / "checkpoints")
    assert newest.path is not None and newest.damaged == () and damage(newest.path) is None
    assert read_state(newest.path)["processes"] == 2

    must(tune(*command, "batch_size=8", cwd=folder))
    compare(out, folder / "out")


def test_one_goes_on_as_two_agents(one, tmp_path):
    """`--nnodes 2`: two launchers on one machine, as on two."""
    folder, common = one
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*common, f"output_dir={out}", "batch_size=4", f"resume={folder / 'out/checkpoints/step_00000007'}"]
    rendezvous = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
    rendezvous += ["--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "two-agents"]
    agents = [
        subprocess.Popen(
            [TUNE, "run", *rendezvous, *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=280)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(text[-3000:] for text in said)
    assert any("7 steps done" in text for text in said)
    compare(out, folder / "out")
