"""The fused loss on two gloo processes under FSDP2: gradients equal one process, any head, an empty rank too."""

import sys
from pathlib import Path

from commands import ROOT, must, run

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
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = Path(__file__).with_name("fsdp_worker.py")
    printed = must(run(*launch, worker, *CASES, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}))
    found = dict(line.rsplit(": ", 1) for line in printed.splitlines() if ": " in line)
    assert list(found) == CASES
    assert all(float(difference) < 2e-6 for difference in found.values()), found
