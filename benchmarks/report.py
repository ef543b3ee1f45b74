"""One row of a benchmark, and how a run is printed, saved and judged."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
VERSIONS_OF = ("torch", "torchtune", "torchao", "transformers", "trl", "numpy", "liger-kernel", "cut-cross-entropy")


class Absent(Exception):
    """A benchmark cannot run because something external is missing; the message says what."""


@dataclass(frozen=True)
class Row:
    """`ours / peer` in `unit`, which the gate bounds: from above (`at_most`) or from below.

    case: what was measured, on what; peer: against what; a value of None with a note is NOT RUN.
    A row without a gate is informative only.
    """

    case: str
    peer_name: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    gate: float | None = None
    at_most: bool = True
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or not self.peer else self.ours / self.peer

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "NOT RUN"
        if self.gate is None:
            return ""
        return "ok" if (self.ratio <= self.gate if self.at_most else self.ratio >= self.gate) else "MISSED"

    def line(self) -> str:
        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:.4g}"

        ratio = "-" if self.ratio is None else f"{self.ratio:.3f}"
        gate = "" if self.gate is None else f"{'<=' if self.at_most else '>='} {self.gate:g}"
        head = f"{self.case:44} {self.peer_name:26} {number(self.ours):>9} {number(self.peer):>9} {self.unit:4}"
        return f"{head} {ratio:>7} {gate:>8} {self.verdict:8} {self.note}".rstrip()


HEADER = f"{'case':44} {'against':26} {'ours':>9} {'peer':>9} {'':4} {'ratio':>7} {'gate':>8}"


def machine(device: str) -> dict[str, Any]:
    """Hardware and versions: enough to interpret the figures and to know when they cannot be compared."""
    import torch

    from cot_components.training.throughput import cpu_name

    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    chip = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else cpu_name()
    return {"device": device, "chip": chip, "python": platform.python_version(), "versions": versions}


def as_kept(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Every row with its ratio and verdict, as stored in files."""
    return [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in rows]


def verdicts(rows: Iterable[Row]) -> Counter[str]:
    """How many rows have each verdict."""
    return Counter(row.verdict for row in rows)


def write(name: str, rows: Iterable[Row], command: str) -> Path:
    """`results/<name>_cpu.json`: machine, command, rows."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_cpu.json"
    path.write_text(json.dumps({**machine("cpu"), "command": command, "rows": as_kept(rows)}, indent=1) + "\n")
    return path
