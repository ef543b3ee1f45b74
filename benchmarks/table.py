"""`python -m benchmarks.table`: writes the saved results into docs/performance.md, between its two marks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.gpu import PARTS
from benchmarks.report import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
GPU_RESULTS = PAGE.parent / "results" / "gpu"
BEGIN, END = "<!-- begin: python -m benchmarks.table -->", "<!-- end -->"
HEAD = "| case | against | ours | peer | ratio | gate | |\n|---|---|---|---|---|---|---|"


def markdown() -> str:
    """A table per results file, in the order of the benchmarks, CPU before GPU."""
    files = [RESULTS / f"{name}_cpu.json" for name in BENCHMARKS] + [GPU_RESULTS / f"{name}.json" for name in PARTS]
    return "\n\n".join(_of_file(json.loads(file.read_text())) for file in files if file.is_file())


def _of_file(kept: dict[str, Any]) -> str:
    with_versions = ", ".join(f"{name} {version}" for name, version in kept["versions"].items() if version != "absent")
    lines = [f"`{kept['command']}`, {kept['chip']}; {with_versions}.{_of_part(kept)}", "", HEAD]
    return "\n".join(lines + [_line(row) for row in kept["rows"]])


def _of_part(kept: dict[str, Any]) -> str:
    """State and origin of a part of the GPU command; empty for a benchmark on a CPU."""
    if "part" not in kept:
        return ""
    ended = ", ".join(part for part in (kept["state"], kept["note"]) if part)
    return f" Part `{kept['part']}`: {ended}; commit {kept['commit']}, driver {kept['driver']}."


def _line(row: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 1e3 else f"{value:.3g}"

    unit = f" {row['unit']}" if row["unit"] and row["ours"] is not None else ""
    gate = "" if row["gate"] is None else f"{'at most' if row['at_most'] else 'at least'} {row['gate']:.3g}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    verdict = f"**{row['verdict']}**" if row["verdict"] in ("MISSED", "NOT RUN") else row["verdict"]
    said = "; ".join(part for part in (verdict, row["note"]) if part)
    numbers = (f"{number(row[side])}{unit}" if row[side] is not None else "" for side in ("ours", "peer"))
    return f"| {' | '.join((row['case'], row['peer_name'], *numbers, ratio, gate, said))} |"


def rewritten(page: str) -> str:
    """The page with the current tables between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written to {PAGE}", file=sys.stderr)
