"""Running what a user types, in a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TUNE = Path(sys.executable).with_name("tune")
COT = Path(sys.executable).with_name("cot")


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; never raises for its exit code."""
    arguments = [str(part) for part in command]
    return subprocess.run(
        arguments, cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=timeout, check=False
    )


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of every command: one thread, so that sums are rounded alike; no import path but what `more` names."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(more or {})}


def tune(*arguments: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """`tune run ...`"""
    return run(TUNE, "run", *arguments, cwd=cwd, **options)


def cot(*arguments: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """`cot ...`"""
    return run(COT, *arguments, cwd=cwd, **options)


def must(result: subprocess.CompletedProcess[str]) -> str:
    """The standard output of a command that must have ended well."""
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    return result.stdout


def user_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that must have ended with exit code 2."""
    assert result.returncode == 2, f"exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr[-4000:]
    return lines[0].removeprefix("error: ")
