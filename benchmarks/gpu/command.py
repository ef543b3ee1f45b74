"""The command itself: part after part, each in a process of its own, and a table at the end."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu import PARTS, files
from benchmarks.gpu.worker import LOG, ROWS, UNFINISHED, work
from benchmarks.report import HEADER, verdicts
from cot_components.models.smollm2 import cache_folder

ROOT = Path(__file__).parents[2]
GRACE = 20
"""Seconds a part has to save and end after it was told to."""
SLOWER = {"cuda": 1, "cpu": 5}
"""What all times are multiplied by: a CPU may be shared."""
IMPORTED = (
    *("benchmarks.gpu.worker", "benchmarks.step", "benchmarks.icot", "cot_sft", "torch._inductor.compile_fx"),
    *("trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2"),
)
"""What most parts import: on a CPU once for all of them, before they are forked. On a GPU each starts from nothing."""


def main(argv: list[str]) -> int:
    """Run what has no result yet; 1 if a part failed or a gate was missed."""
    options = parsed(argv)
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:14} planned {part.planned:4} s, at most {part.limit:4} s   {part.module}")
        return 0
    command = shlex.join(["python", "-m", "benchmarks", "gpu", *argv])
    now = files.header(options.device, options.size, command, options.commit)
    print(", ".join(f"{key} {now[key]}" for key in ("chip", "driver", "commit", "code") if now[key]), flush=True)
    options.runs.mkdir(parents=True, exist_ok=True)
    prepare_processes()
    ends = time.monotonic() + 60 * options.minutes * SLOWER[options.device]
    results = {name: result(name, now, options, ends) for name in options.only}
    print(summary(results))
    return int(any(map(is_bad, results.values())))


def is_bad(kept: dict[str, Any]) -> bool:
    """Whether a part did not end well, or missed a gate."""
    return kept["state"] in ("failed", "stopped") or verdicts(files.as_rows(kept))["MISSED"] > 0


def prepare_processes() -> None:
    """What the parts' processes inherit: no network, the package and the recipes of this checkout."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", COT_CACHE=str(cache_folder().absolute()))
    code = [str(ROOT), str(ROOT / "recipes")]
    sys.path[:0] = code
    os.environ["PYTHONPATH"] = os.pathsep.join([*code, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description="All that wants a GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: the same code in seconds")
    parser.add_argument("--only", type=names, default=list(PARTS), metavar="PART[,PART]", help=", ".join(PARTS))
    parser.add_argument("--list", action="store_true", help="name the parts and their times, run nothing")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all parts together")
    parser.add_argument("--out", type=Path, help="folder of the results; docs/results/gpu at full size")
    parser.add_argument("--runs", type=Path, help="folder of what is trained")
    parser.add_argument("--commit", help="what to call this code where git is not at hand")
    options = parser.parse_args(argv)
    if not options.list and options.device == "cpu" and options.size == "full":
        parser.error("--device cpu goes with --size tiny")
    if not options.list and options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("no CUDA device here; --device cpu --size tiny runs the same code")
    kind = f"{options.device}_{options.size}"
    options.runs = (options.runs or ROOT / "runs" / f"gpu_{kind}").absolute()
    options.out = (options.out or (ROOT / "docs/results/gpu" if kind == "cuda_full" else options.runs)).absolute()
    options.size = "cuda" if options.size == "full" else "tiny"
    return options


def names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return chosen


def result(name: str, now: dict[str, Any], options: argparse.Namespace, ends: float) -> dict[str, Any]:
    """What is kept of a part; it is run where nothing is, or where it can go on."""
    path, part = options.out / f"{name}.json", PARTS[name]
    kept = files.read(path, now)
    if kept is not None and kept["state"] != "unfinished":
        return kept
    left = ends - time.monotonic() - GRACE
    if left < part.planned:
        return {"state": "no time left", "seconds": 0.0, "rows": [], "note": f"needs {part.planned} s: call again"}
    print(f"\n{name} on {now['chip']}\n{HEADER}", flush=True)
    spent = kept["seconds"] if kept is not None else 0.0
    with tempfile.TemporaryDirectory() as folder:
        about = run(name, options, min(left, part.limit * SLOWER[options.device]), left, Path(folder))
        rows = files.read_rows(Path(folder) / ROWS)
    for row in rows:
        print(row.line(), flush=True)
    about["seconds"] += spent
    print("; ".join(str(about[key]) for key in ("state", "note") if about[key]), flush=True)
    return files.write(path, now, rows, part=name, **about)


def run(name: str, options: argparse.Namespace, limit: float, left: float, folder: Path) -> dict[str, Any]:
    """State, seconds and note of the part, in a process that is told to end at its limit, and killed `GRACE` later."""
    context: Any = multiprocessing.get_context("fork" if options.device == "cpu" else "spawn")
    for module in IMPORTED if options.device == "cpu" else ():
        with suppress(ImportError):
            importlib.import_module(module)
    began = time.monotonic()
    process = context.Process(target=work, args=(name, options.device, options.size, folder, options.runs))
    process.start()
    process.join(limit)
    stopped = process.exitcode is None
    if stopped:
        process.terminate()
        process.join(GRACE)
    with suppress(ProcessLookupError):  # itself, and what it leaves behind
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    state, note = ending(process.exitcode, stopped, limit < left)
    if state in ("failed", "stopped"):
        note = f"{note}; {said(folder / LOG)}"
    return {"state": state, "seconds": round(time.monotonic() - began, 1), "note": note}


def ending(exit_code: int, stopped: bool, at_own_limit: bool) -> tuple[str, str]:
    """State and note; a part that had no time of its own left is not to blame, and is run again."""
    if exit_code == 0:
        return "done", ""
    if exit_code == UNFINISHED or (stopped and not at_own_limit):
        return "unfinished", "goes on at the next call"
    return ("stopped", "at its limit") if stopped else ("failed", f"exit code {exit_code}")


def said(log: Path) -> str:
    """The sentence a part ended with: a recipe's error, else its last line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip()[:200] for line in text.split("\n") if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Part, state, seconds, gates kept and missed, rows that did not run; then what missed, row by row."""
    lines = [f"\n{'part':14} {'state':14} {'seconds':>8} {'kept':>5} {'missed':>7} {'not run':>8}"]
    for name, kept in results.items():
        count = verdicts(files.as_rows(kept))
        numbers = f"{kept['seconds']:8.1f} {count['ok']:5} {count['MISSED']:7} {count['NOT RUN']:8}"
        lines.append(f"{name:14} {kept['state']:14} {numbers}   {kept['note']}".rstrip())
    missed = [row for kept in results.values() for row in files.as_rows(kept) if row.verdict == "MISSED"]
    return "\n".join([*lines, *(["", "missed:"] if missed else []), *(row.line() for row in missed)])
