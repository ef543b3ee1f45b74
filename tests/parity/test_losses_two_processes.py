"""The fused loss on two gloo processes under FSDP2: gradients equal one process, any head, an empty rank too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parents[1] / "helpers" / "losses_fsdp_worker.py"
CASES = [
    "untied",
    "tied",
    "lora",
    "untied empty",
    "tied empty",
    "lora empty",
    "tied accumulate empty",
    "tied reference",
]


def test_two_processes_equal_one() -> None:
    root = WORKER.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(WORKER),
        *CASES,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    found = dict(line.rsplit(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    assert list(found) == CASES
    for case, difference in found.items():
        assert float(difference) < 2e-6, (case, difference)
    assert len(found) == 8
