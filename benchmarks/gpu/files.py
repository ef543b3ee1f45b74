"""What every result of the GPU command records, and whether a kept result is still valid."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.models import smollm2_folder
from benchmarks.report import Row, as_kept, machine

ROOT = Path(__file__).parents[2]
CODE = ("cot_components/**/*.py", "recipes/*.py", "configs/**/*.yaml", "benchmarks/**/*.py")
SAME = ("device", "size", "chip", "driver", "python", "versions", "code")
"""A kept result holds while these are what they were; `code` is the sources themselves, committed or not."""


def header(device: str, size: str, command: str, commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, commit, command.

    Args:
        device, size, command: of this call.
        commit: what to call the code where git is not at hand.
    """
    model = smollm2_folder()
    found = machine(device)
    found["versions"]["SmolLM2"] = model.name if model else "absent"
    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    return {
        **found,
        "driver": driver if device == "cuda" else "",
        "size": size,
        "commit": commit or git_commit(),
        "code": code_hash(),
        "command": command,
    }


def git_commit() -> str:
    """The commit that is checked out, with `+changes` where files differ from it; empty without git."""
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = commit and _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def code_hash() -> str:
    """sha256 over the files that decide a result, 12 digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in ROOT.glob(pattern)}):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(path: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """The kept result, None where there is none, or one of other code, versions or device."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if all(kept.get(key) == now[key] for key in SAME) else None


def write(path: Path, now: dict[str, Any], rows: Sequence[Row], **about: Any) -> dict[str, Any]:
    """Keep a part's rows under the header, and return what was kept. `about`: part, state, seconds, note."""
    kept = {**now, **about, "rows": as_kept(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def read_rows(path: Path) -> list[Row]:
    """Whole rows of a worker's file, which may end anywhere."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def as_rows(kept: dict[str, Any]) -> list[Row]:
    return [Row(**{name: row[name] for name in asdict(Row("", "", ""))}) for row in kept["rows"]]
