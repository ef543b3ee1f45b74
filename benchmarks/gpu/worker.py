"""The process of one part: its rows go to a file as they come, what it prints to another."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu import PARTS, Unfinished
from benchmarks.report import Absent, Row

ROWS, LOG = "rows.jsonl", "log.txt"
PEERS = ("transformers", "trl", "liger_kernel", "cut_cross_entropy")
UNFINISHED = 3
"""Exit code of a part that goes on at the next call."""


def work(part: str, device: str, size: str, folder: Path, runs: Path) -> None:
    """Run a part in the folder `runs`, with `ROWS` and `LOG` in `folder`. Exits with 0, 1 or `UNFINISHED`."""
    os.setsid()  # so that its own processes end with it
    sys.stdout = sys.stderr = log = (folder / LOG).open("a", buffering=1)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    warnings.simplefilter("ignore")
    gc.freeze()  # what was imported already is not searched for garbage before every step
    os.chdir(runs)
    if device == "cpu":
        import torch

        torch.set_num_threads(1)
        os.environ.setdefault("TORCH_COMPILE_BACKEND", "eager")  # graphs without kernels: those take minutes
    code = 0
    try:
        with (folder / ROWS).open("w", buffering=1) as file:
            for row in rows(part, device, size):
                file.write(json.dumps(asdict(row)) + "\n")
    except Unfinished:
        code = UNFINISHED
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def rows(part: str, device: str, size: str) -> Iterator[Row]:
    """The part's rows; what it lacks (a peer, a model) is a row. Times of size `tiny` say nothing, so have no gate."""
    keep_gates = PARTS[part].checks or size != "tiny"
    try:
        for row in importlib.import_module(PARTS[part].module).rows(device, size):
            yield row if keep_gates else replace(row, gate=None)
    except Absent as error:
        yield Row(part, "all", "", note=str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PEERS:
            raise
        yield Row(part, "all", "", note=f"{error.name} is not installed")
